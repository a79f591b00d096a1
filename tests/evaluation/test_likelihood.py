"""Likelihoods equal a plain forward pass, however they are batched and cached."""

from __future__ import annotations

import pytest
import torch

from farss.errors import DataError, ModelError, NumericalError
from farss.evaluation.likelihood import Continuation, answer_log_probs, continuations, response_losses, score
from farss.evaluation.prefix import Prefix, empty_cache, measuring, read_prefix
from farss.model.calibration import Example

PREFIX = "Q: capital of Peru?\nA: Lima\n\nQ: capital of Chad?\nA: N'Djamena\n\n"
PROMPTS = ["Q: one?\nA:", "Q: a rather longer question, twice as long?\nA:", "Q: two?\nA:", "Q: ?\nA:"]
ANSWERS = ["yes", "no", "a longer answer", "x"]
TOLERANCE = 1e-4


def totals(scores):
    return torch.tensor([score.total for score in scores], dtype=torch.float64)


@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["shared", "alone"])
def test_scores_equal_a_plain_forward_pass(any_model, tiny_tokenizer, by_hand, prefix):
    scores = answer_log_probs(any_model, tiny_tokenizer, prefix, PROMPTS, ANSWERS)
    for each, prompt, answer in zip(scores, PROMPTS, ANSWERS, strict=True):
        context = tiny_tokenizer(prefix + prompt)["input_ids"]
        found, greedy = by_hand(any_model, context, tiny_tokenizer(" " + answer)["input_ids"])
        assert each.tokens == len(answer) + 1
        assert each.total == pytest.approx(sum(found), abs=TOLERANCE)
        assert each.log_prob == pytest.approx(sum(found) / len(found), abs=TOLERANCE)
        assert each.hit == all(greedy)


@pytest.mark.parametrize("shared", [False, True])
def test_the_greedy_path_and_no_other_is_a_hit(any_model, tiny_tokenizer, greedy_by_hand, shared):
    context = tiny_tokenizer(PREFIX + PROMPTS[0])["input_ids"]
    path = greedy_by_hand(any_model, context, 4, ())
    other = [*path[:3], (path[3] + 1) % len(tiny_tokenizer)]
    pairs = [Continuation(tuple(context), tuple(target)) for target in (path, other, path[:1])]
    with measuring(any_model):
        prefix = read_prefix(any_model, [context]) if shared else Prefix()
        scores = score(any_model, pairs, prefix, pad_id=0, batch_tokens=4096)
    assert [found.hit for found in scores] == [True, False, True]


@pytest.mark.parametrize("batch_tokens", [1, 150, 8192])
def test_batch_size_does_not_matter(any_model, tiny_tokenizer, batch_tokens):
    reference = answer_log_probs(any_model, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS)
    scores = answer_log_probs(any_model, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS, batch_tokens=batch_tokens)
    torch.testing.assert_close(totals(scores), totals(reference), atol=TOLERANCE, rtol=0)


def test_order_does_not_matter(any_model, tiny_tokenizer):
    order = [2, 0, 3, 1]
    reference = answer_log_probs(any_model, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS)
    shuffled = answer_log_probs(
        any_model, tiny_tokenizer, PREFIX, [PROMPTS[i] for i in order], [ANSWERS[i] for i in order]
    )
    torch.testing.assert_close(totals(shuffled), totals(reference)[order], atol=TOLERANCE, rtol=0)


def test_the_prefix_is_read_once(tiny_llama, tiny_tokenizer):
    widths = []
    handle = tiny_llama.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    answer_log_probs(tiny_llama, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS, batch_tokens=150)
    handle.remove()
    assert widths[0] == (1, len(PREFIX) + len("Q: "))
    assert all(width < 60 for _, width in widths[1:])


@pytest.mark.parametrize(
    ("fixture", "cached"), [("tiny_llama", True), ("tiny_gemma3", True), ("tiny_gpt2", True), ("tiny_mamba", False)]
)
def test_the_architecture_decides_whether_a_prefix_is_cached(request, fixture, cached):
    model = request.getfixturevalue(fixture)
    assert (empty_cache(model) is not None) == cached
    with measuring(model):
        assert len(read_prefix(model, [[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 4, 8]])) == (2 if cached else 0)


def test_the_shared_prefix_leaves_one_token_of_every_context(tiny_llama):
    with measuring(tiny_llama):
        assert len(read_prefix(tiny_llama, [[5, 6, 7], [5, 6]])) == 1
        assert len(read_prefix(tiny_llama, [[5], [5, 6]])) == 0


def test_head_sees_answer_positions_only(tiny_llama, tiny_tokenizer):
    seen = []
    handle = tiny_llama.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    answer_log_probs(tiny_llama, tiny_tokenizer, "", PROMPTS, ANSWERS)
    handle.remove()
    assert sum(seen) == sum(len(answer) + 1 for answer in ANSWERS)


def alike(context: list[int]) -> list[Continuation]:
    """Answers that differ in their last token only, one of them twice, between two that differ elsewhere."""
    targets = [(8, 20), (8, 9, 21), (8, 9, 22), (8, 9, 22), (8, 9, 23), (30,), (31,), (7, 9, 21)]
    return [Continuation(tuple(context), target) for target in targets]


@pytest.mark.parametrize("shared", [False, True])
def test_answers_that_differ_in_their_last_token_are_scored_as_if_alone(any_model, tiny_tokenizer, by_hand, shared):
    context = tiny_tokenizer(PREFIX + PROMPTS[0])["input_ids"]
    pairs = alike(context)
    with measuring(any_model):
        prefix = read_prefix(any_model, [context]) if shared else Prefix()
        together = score(any_model, pairs, prefix, pad_id=0, batch_tokens=1)  # so that every forward has one row
        alone = [score(any_model, [pair], prefix, pad_id=0, batch_tokens=1)[0] for pair in pairs]
    for each, single, pair in zip(together, alone, pairs, strict=True):
        assert each.total == pytest.approx(single.total, abs=1e-6)
        assert each.log_prob == pytest.approx(single.log_prob, abs=1e-6)
        assert (each.tokens, each.hit) == (single.tokens, single.hit)
        found, greedy = by_hand(any_model, context, list(pair.target))
        assert each.total == pytest.approx(sum(found), abs=TOLERANCE)
        assert each.hit == all(greedy)


def test_answers_that_differ_in_their_last_token_are_read_once(tiny_llama):
    read = []
    handle = tiny_llama.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.extend(map(tuple, kwargs["input_ids"].tolist())), with_kwargs=True
    )
    context = [5, 6, 7]
    with measuring(tiny_llama):
        score(tiny_llama, alike(context), Prefix(), pad_id=0, batch_tokens=1)
    handle.remove()
    assert sorted(read) == [(5, 6, 7), (5, 6, 7, 7, 9), (5, 6, 7, 8), (5, 6, 7, 8, 9)]


def test_many_predicted_positions_equal_few(tiny_llama, by_hand):
    # More positions than are turned into float32 at once, on both sides of the border.
    pairs = [Continuation((5,), tuple(4 + (7 * i + j) % 90 for j in range(150))) for i in range(5)]
    with measuring(tiny_llama):
        scores = score(tiny_llama, pairs, Prefix(), pad_id=0, batch_tokens=4096)
    for each, pair in zip(scores, pairs, strict=True):
        found, greedy = by_hand(tiny_llama, [5], list(pair.target))
        assert each.total == pytest.approx(sum(found), abs=1e-3)
        assert each.hit == all(greedy)


def test_mode_and_gradients_are_restored(tiny_llama, tiny_tokenizer):
    tiny_llama.train()
    tiny_llama.model.norm.eval()
    answer_log_probs(tiny_llama, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS)
    assert tiny_llama.training and not tiny_llama.model.norm.training and torch.is_grad_enabled()
    assert not tiny_llama.lm_head._forward_pre_hooks


def test_bos_stands_once_in_front_of_the_prefix(bos_tokenizer):
    bos = bos_tokenizer.bos_token_id
    for texts in (["Q: a?"], ["<bos>Q: a?"], [""]):
        context = continuations(bos_tokenizer, texts, ["b"])[0].context
        assert context[0] == bos and context.count(bos) == 1


def test_gemma_with_bos_equals_a_plain_forward_pass(tiny_gemma3, bos_tokenizer, by_hand):
    scores = answer_log_probs(tiny_gemma3, bos_tokenizer, PREFIX, PROMPTS, ANSWERS)
    for each, prompt, answer in zip(scores, PROMPTS, ANSWERS, strict=True):
        context = bos_tokenizer(PREFIX + prompt)["input_ids"]
        found, _ = by_hand(tiny_gemma3, context, bos_tokenizer(" " + answer, add_special_tokens=False)["input_ids"])
        assert each.total == pytest.approx(sum(found), abs=TOLERANCE)


@pytest.mark.parametrize("context", ["Q: a?\nA:", "Q: a?\nA: ", "The word", "end.\n"])
@pytest.mark.parametrize("answer", ["Paris", "New York", "7"])
def test_tokens_are_split_as_lm_eval_does(tiny_tokenizer, context, answer):
    model = pytest.importorskip("lm_eval.api.model")

    class Harness(model.TemplateLM):
        backend = "causal"
        eot_token_id = 1
        loglikelihood_rolling = generate_until = _loglikelihood_tokens = None  # the harness asks for definitions

        def tok_encode(self, string, **_):
            return tiny_tokenizer(string)["input_ids"]

    Harness.__abstractmethods__ = frozenset()
    gap = "" if context.endswith(" ") else " "
    expected = Harness()._encode_pair(context, gap + answer)
    pair = continuations(tiny_tokenizer, [context], [answer])[0]
    assert (list(pair.context), list(pair.target)) == expected


def test_a_token_across_the_boundary_is_split_apart():
    class Merging:
        """Characters, but "a b" is one token: the answer cannot be cut out of the whole text."""

        bos_token = None
        bos_token_id = None
        eos_token_id = 1

        def __call__(self, text, add_special_tokens=True):
            if isinstance(text, list):
                return {"input_ids": [self(one)["input_ids"] for one in text]}
            return {"input_ids": [ord(c) for c in text.replace("a b", "\x01")]}

    pair = continuations(Merging(), ["xa"], ["bc"])[0]
    assert "".join(map(chr, pair.context + pair.target)) == "xa bc"
    assert len(pair.target) == 3


def test_an_answer_without_tokens_is_refused(tiny_llama, tiny_tokenizer):
    with pytest.raises(DataError, match="no token"):
        answer_log_probs(tiny_llama, tiny_tokenizer, "", ["a"], [""])
    with pytest.raises(DataError, match="its question"):
        answer_log_probs(tiny_llama, tiny_tokenizer, "", ["a"], [])


def test_a_diverged_model_is_refused(tiny_llama, tiny_tokenizer):
    tiny_llama.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        answer_log_probs(tiny_llama, tiny_tokenizer, "", ["a"], ["b"])


def test_response_losses_equal_a_plain_forward_pass(any_model, by_hand):
    examples = [Example((5, 6, 7), (8, 9, 1)), Example((5,), (1,)), Example((9, 8, 7, 6), (20, 21, 22, 23, 1))]
    losses = response_losses(any_model, examples, pad_id=0, batch_tokens=16)
    for (loss, tokens), example in zip(losses, examples, strict=True):
        found, _ = by_hand(any_model, list(example.prompt_ids), list(example.response_ids))
        assert tokens == len(example.response_ids)
        assert loss == pytest.approx(-sum(found), abs=TOLERANCE)


def test_response_losses_need_prompt_and_response(tiny_llama):
    with pytest.raises(DataError, match="example 1"):
        response_losses(tiny_llama, [Example((5,), (6,)), Example((), (6,))], pad_id=0)


def test_progress_counts_to_the_end(tiny_llama, tiny_tokenizer):
    seen = []
    answer_log_probs(
        tiny_llama, tiny_tokenizer, "", PROMPTS, ANSWERS, batch_tokens=60, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (4, 4) and [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_peft_model_is_scored_with_its_adapter(tiny_llama, tiny_tokenizer, by_hand):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_llama, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    scores = answer_log_probs(model, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS)
    model.eval()
    context = tiny_tokenizer(PREFIX + PROMPTS[1])["input_ids"]
    found, _ = by_hand(model, context, tiny_tokenizer(" " + ANSWERS[1])["input_ids"])
    assert scores[1].total == pytest.approx(sum(found), abs=TOLERANCE)


def test_virtual_tokens_are_refused(tiny_llama, tiny_tokenizer):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_llama, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ModelError, match="virtual tokens"):
        answer_log_probs(model, tiny_tokenizer, PREFIX, PROMPTS, ANSWERS)
