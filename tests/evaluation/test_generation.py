"""Greedy answers equal the plain argmax path, however they are batched and cached."""

from __future__ import annotations

import pytest

from farss.evaluation.generation import generate, generate_after

PREFIX = "Q: capital of Peru?\nA: Lima\n\nQ: capital of Chad?\nA: N'Djamena\n\n"
PROMPTS = ["Q: one?\nA:", "Q: a rather longer question, twice as long?\nA:", "Q: two?\nA:", "Q: ?\nA:"]
OTHERS = ["abc", "Hello there", "What?", "zzz"]  # the tiny Llama answers these differently from each other
STEPS = 12


@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["shared", "alone"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_equal_the_plain_argmax_path(any_model, tiny_tokenizer, greedy_by_hand, prefix, batch_size):
    answers = generate(
        any_model, tiny_tokenizer, PROMPTS, prefix=prefix, max_new_tokens=STEPS, stop=(), batch_size=batch_size
    )
    for answer, prompt in zip(answers, PROMPTS, strict=True):
        path = greedy_by_hand(any_model, tiny_tokenizer(prefix + prompt)["input_ids"], STEPS, (1,))
        assert answer == tiny_tokenizer.decode(path, skip_special_tokens=True)


def test_answers_equal_those_of_transformers(tiny_llama, tiny_tokenizer):
    answers = generate(tiny_llama, tiny_tokenizer, OTHERS[2:3], max_new_tokens=STEPS, stop=())
    inputs = tiny_tokenizer(OTHERS[2:3], return_tensors="pt", return_token_type_ids=False)
    ids = tiny_llama.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    assert answers == [tiny_tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)]


def test_answers_end_before_the_first_stop(tiny_llama, tiny_tokenizer):
    whole = generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS, stop=())
    mark = whole[2][4:6]
    cut = generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS, stop=(mark, "\x00"))
    assert cut == [text.partition(mark)[0] for text in whole]
    assert len(cut[2]) <= 4 < len(whole[2])


def test_finished_questions_leave_the_batch(tiny_llama, tiny_tokenizer):
    whole = generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS, stop=())
    stops = tuple(text[0] for text in whole[1:])
    assert not set(whole[0]) & set(stops)
    rows = []
    handle = tiny_llama.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    assert generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS, stop=stops) == [whole[0], "", "", ""]
    handle.remove()
    assert rows[0] == 4 and set(rows[1:]) == {1}


def test_generation_settings_of_the_model_have_no_say(tiny_llama, tiny_tokenizer):
    plain = generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS)
    tiny_llama.generation_config.do_sample = True
    tiny_llama.generation_config.temperature = 5.0
    tiny_llama.generation_config.repetition_penalty = 3.0
    assert generate(tiny_llama, tiny_tokenizer, OTHERS, max_new_tokens=STEPS) == plain


def test_no_prompts_give_no_answers(tiny_llama, tiny_tokenizer):
    assert generate(tiny_llama, tiny_tokenizer, [], max_new_tokens=STEPS) == []
    assert generate_after(tiny_llama, tiny_tokenizer, [], max_new_tokens=STEPS) == []


class _DropsFirstSpace:
    """Decodes as tokenizers of Llama 2's kind do: the space before the first word is dropped."""

    def decode(self, ids, skip_special_tokens):
        return "".join(" def:\n return x"[each] for each in ids).removeprefix(" ")


@pytest.mark.case("a completion keeps the space that it begins with")
@pytest.mark.parametrize(("context", "tokens", "text"), [([1, 2, 3, 4, 5], [6, 7, 8], " re"), ([1, 2], [0, 1], " d")])
def test_an_answer_keeps_its_first_space(context, tokens, text):
    from farss.evaluation.generation import Ending

    assert Ending(_DropsFirstSpace(), (), frozenset(), 8).cut(context, tokens) == text
