"""What is learned of a row, token by token: ours equals TRL's, over the known shapes of templates."""

from __future__ import annotations

import json

import pytest

from farss.datasets.formats import formatter
from farss.errors import DataError
from farss.model.encoding import encode_rows

TEXTS = [
    "What is two plus two? It is four, and nothing else.",
    "<think> reason </think> def add(x):\n    return x\n\n",
    '{"name": "find", "arguments": {"q": "weather"}} user assistant system tool model',
    "### Instruction: ### Response: [INST] [/INST] <<SYS>>",
] * 8
SPECIAL = [
    "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<|begin|>", "<|head|>", "<|/head|>", "<|eot|>", "<|im_start|>",
    "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|U|>",
    "<|A|>", "<|stop|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
]  # fmt: skip
SYSTEM_FIRST = "{% if messages[0].role == 'system' %}{% set head = messages[0].content %}{% set rest = messages[1:] %}"
SYSTEM_FIRST += "{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"


def tagged(before: str, after: str, ask: str, say: str = "{{ m.content }}", start: str = "") -> str:
    """A template of turns between tags; what the assistant writes is in generation marks."""
    answer = f"{{% generation %}}{say}{after}{{% endgeneration %}}"
    return (
        f"{start}{{% for m in messages %}}{before}"
        f"{{% if m.role == 'assistant' %}}{answer}{{% else %}}{{{{ m.content }}}}{after}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{ask}{{% endif %}}"
    )


CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
THINK = (
    "{% if loop.last and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip('\n') }}"
)
IM = ("<|im_start|>{{ m.role }}\n", "<|im_end|>\n", "<|im_start|>assistant\n")
GEMMA = (
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}",
    "<end_of_turn>\n",
    "<start_of_turn>model\n",
)
LLAMA3 = ("<|head|>{{ m.role }}<|/head|>\n\n", "<|eot|>", "<|head|>assistant<|/head|>\n\n")
LLAMA2 = (
    "<s>" + SYSTEM_FIRST + "{% for m in rest %}{% if m.role == 'user' %}{{ '' if loop.first else '<s>' }}[INST] "
    "{{ '<<SYS>>\n' + head + '\n<</SYS>>\n\n' if loop.first and head else '' }}{{ m.content | trim }} [/INST]"
    "{% else %}{% generation %} {{ m.content | trim }} </s>{% endgeneration %}{% endif %}{% endfor %}"
)
MISTRAL = (
    "<s>" + SYSTEM_FIRST + "{% for m in rest %}{% if m.role == 'user' %}[INST] "
    "{{ head + '\n\n' if head and loop.index >= rest | length - 1 else '' }}{{ m.content }} [/INST]"
    "{% else %}{% generation %} {{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "<|begin|>" + SYSTEM_FIRST + "{{ head }}{% for m in rest %}{% if m.role == 'user' %}<|U|>{{ m.content }}"
    "{% else %}<|A|>{% generation %}{{ m.content.split('</think>')[-1] }}<|stop|>{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|A|>{% endif %}"
)
GEMMA3 = (
    "<bos>" + SYSTEM_FIRST + "{% for m in rest %}" + GEMMA[0] + "{{ head + '\n\n' if loop.first and head else '' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<end_of_turn>\n{% endgeneration %}"
    "{% else %}{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = ("<|{{ m.role }}|>\n", "<|end|>\n", "<|assistant|>\n")
ZEPHYR = ("<|{{ m.role }}|>\n", "</s>\n", "<|assistant|>\n")

MARKED = {
    "Llama-2": LLAMA2,
    "Llama-3": tagged(
        "<|head|>{{ m.role }}<|/head|>\n\n", "<|eot|>", "<|head|>assistant<|/head|>\n\n", start="<|begin|>"
    ),
    "ChatML with tools": tagged(*IM, say="{{ m.content or '' }}" + CALLS, start=TOOLS),
    "Qwen3 with thinking": tagged(*IM, say=THINK),
    "Gemma-2": tagged(*GEMMA, start="<bos>"),
    "Gemma-3": GEMMA3,
    "Mistral": MISTRAL,
    "Phi": tagged(*PHI),
    "DeepSeek": DEEPSEEK,
    "Zephyr": tagged(*ZEPHYR),
}


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


SINGLE = turns(("user", "What is two plus two?"), ("assistant", "It is four."))
MULTI = [*SINGLE, *turns(("user", "And then?"), ("assistant", "def add(x):\n    return x"))]
CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "weather"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ROWS = {
    "single": {"messages": SINGLE},
    "multi": {"messages": MULTI},
    "system": {"messages": [*turns(("system", "Reply with one word.")), *MULTI]},
    "reasoning": {"messages": [*MULTI[:3], *turns(("assistant", "<think>\nreason\n</think>\n\nfour"))]},
    "tools": {
        "messages": [SINGLE[0], CALLING, *turns(("tool", "fine")), SINGLE[1]],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\w]?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # line breaks apart, as Llama-3 has them
    levels = [
        pre_tokenizers.Split(words, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(levels)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"vocab_size": 500, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=SPECIAL, **settings))
    bos = ("<bos>", SPECIAL.index("<bos>"))
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="module")
def of_trl(tokenizer):
    """(Token ids, labels) of rows as SFTTrainer prepares them."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)

    def prepare(template, row, folder, **settings):
        tokenizer.chat_template = template
        args = trl.SFTConfig(str(folder), report_to="none", use_cpu=True, bf16=False, max_length=None, **settings)
        data = Dataset.from_list([row | ({"tools": json.dumps(row["tools"])} if "tools" in row else {})])
        made = trl.SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer).train_dataset[0]
        return made["input_ids"], made["labels"]

    return prepare


def ours(tokenizer, template, row, name="auto", **settings):
    tokenizer.chat_template = template
    (example,) = encode_rows([row], tokenizer, formatter("mine", name, tokenizer, **settings), 10_000)
    return list(example.ids), list(example.labels)


def unmarked(template: str) -> str:
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


PAIRS = [(name, kind) for name in MARKED for kind in ROWS if kind != "tools" or "tools" in name]
PAIRS.remove(("DeepSeek", "reasoning"))  # its template drops reasoning even of the last answer: refused


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_answers_are_found_without_marks_where_the_marks_are(tokenizer, name, kind):
    """A template without marks is learned as the same one with the marks that TRL asks for."""
    found = ours(tokenizer, unmarked(MARKED[name]), ROWS[kind])
    assert found == ours(tokenizer, MARKED[name], ROWS[kind])
    learned = tokenizer.decode([label for label in found[1] if label != -100])
    assert "It is four" in learned or kind == "reasoning"


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_learned_tokens_are_those_of_trl_with_marks(tokenizer, of_trl, tmp_path, name, kind):
    expected = of_trl(MARKED[name], ROWS[kind], tmp_path, assistant_only_loss=True)
    assert ours(tokenizer, MARKED[name], ROWS[kind]) == expected


def in_two(row: dict) -> dict:
    """A conversation as a prompt and its completion."""
    beside = {name: value for name, value in row.items() if name != "messages"}
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} | beside


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_learned_tokens_are_those_of_trl_after_a_prompt(tokenizer, of_trl, tmp_path, name, kind):
    template, row = unmarked(MARKED[name]), in_two(ROWS[kind])
    assert ours(tokenizer, template, row) == of_trl(template, row, tmp_path, completion_only_loss=True)


PUBLISHED = {
    "llama3": ["single", "multi", "system", "reasoning"],
    "qwen2_5": list(ROWS),
    "qwen3": list(ROWS),
    "gemma": ["single", "multi", "reasoning"],
    "gemma3": ["single", "multi", "system", "reasoning"],
    "phi3": ["single", "multi", "system", "reasoning"],
    "deepseekv3": ["single", "multi", "system"],
}
"""Templates that TRL ships as their models have them, each with the rows that it takes."""
EVERY = [(name, kind) for name, kinds in PUBLISHED.items() for kind in kinds]


@pytest.fixture(scope="module")
def published():
    utilities = pytest.importorskip("trl.chat_template_utils")
    return lambda name: getattr(utilities, f"{name}_chat_template")


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_of_published_templates_the_same_is_learned_after_a_prompt(tokenizer, of_trl, tmp_path, published, name, kind):
    row = in_two(ROWS[kind])
    assert ours(tokenizer, published(name), row) == of_trl(published(name), row, tmp_path, completion_only_loss=True)


@pytest.mark.case("reasoning templates")
@pytest.mark.parametrize("words", ["four", "\n\nfour\n"])
def test_reasoning_in_a_field_is_learned_as_trl_learns_it(tokenizer, of_trl, tmp_path, published, words):
    answer = {"role": "assistant", "content": words, "reasoning_content": "It is reason."}
    row = {"prompt": MULTI[:3], "completion": [answer]}
    found = ours(tokenizer, published("qwen3"), row)
    assert found == of_trl(published("qwen3"), row, tmp_path, completion_only_loss=True)
    assert "It is reason." in tokenizer.decode([label for label in found[1] if label != -100])


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_where_trl_exchanges_a_template_what_differs_is_what_the_page_says(
    tokenizer, of_trl, tmp_path, published, name, kind
):
    """For turns, TRL puts a template of its own with marks in the place of a known one."""
    ids, labels = of_trl(published(name), ROWS[kind], tmp_path, assistant_only_loss=True)
    found = ours(tokenizer, published(name), ROWS[kind])
    if name in ("qwen2_5", "deepseekv3"):  # its marks begin before the answer, in what the model is given
        given = tokenizer.convert_tokens_to_ids("<\uff5cAssistant\uff5c>" if name == "deepseekv3" else "\u010a")
        for place, label in enumerate(labels[1:], start=1):
            if label == given and labels[place - 1] == -100:
                labels[place] = -100
    if name == "qwen3":  # it writes an empty block of reasoning into earlier answers, which the model's template drops
        block = tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
        last = max(i for i in range(len(ids)) if ids[i : i + len(block)] == block or i == 0)
        for place in range(last - 1 if kind != "reasoning" else len(ids), -1, -1):
            if ids[place : place + len(block)] == block:
                del ids[place : place + len(block)], labels[place : place + len(block)]
    assert found == (ids, labels)


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(
    ("name", "kind"), [("llama3", "tools"), ("phi3", "tools"), ("deepseekv3", "reasoning"), ("gemma", "system")]
)
def test_what_a_published_template_does_not_show_is_refused(tokenizer, published, name, kind):
    with pytest.raises(DataError, match=r"leaves out a part of the row|refuses the row"):
        ours(tokenizer, published(name), ROWS[kind])


@pytest.mark.case("the template's own text is what is learned")
def test_texts_are_those_of_trl(tokenizer, of_trl, tmp_path):
    row = {"prompt": "What is two plus two?", "completion": " It is four."}
    expected = of_trl(None, row, tmp_path / "none", completion_only_loss=True)
    assert ours(tokenizer, None, row, "none") == expected == ours(tokenizer, None, row)
    ids, labels = of_trl(None, {"text": "It is four."}, tmp_path / "text")
    found = ours(tokenizer, None, {"text": "It is four."})
    assert found[0] == ids and found[1][1:] == labels[1:]  # the first label is never used


BESIDE = {
    "single": {},
    "input": {"input": "as words"},
    "system": {"system": "Reply with one word."},
    "multi": {"history": [["What is two?", "Two."]]},
    "tools": {"tools": ROWS["tools"]["tools"]},
}
WRITTEN = [("none", "single"), ("none", "input"), *(("alpaca", kind) for kind in BESIDE if kind != "tools")]


@pytest.mark.case("the template's own text is what is learned")
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in ("none", "alpaca") for kind in BESIDE])
def test_what_templates_of_text_write_is_learned_as_trl_learns_it(tokenizer, of_trl, tmp_path, name, kind):
    row = {"instruction": "What is two plus two?", "output": "It is four."} | BESIDE[kind]
    if (name, kind) not in WRITTEN:
        with pytest.raises(DataError, match=r"needs? a chat template"):
            ours(tokenizer, None, row, name)
        return
    prompt = formatter("mine", name)(row).prompt
    assert prompt.count("What is two") == 1 + ("history" in row) and row.get("system", "") in prompt
    expected = of_trl(None, {"prompt": prompt, "completion": "It is four."}, tmp_path, completion_only_loss=True)
    assert ours(tokenizer, None, row, name, turns="last") == expected
