"""Knowledge sets and tasks, asked of tiny models."""

from __future__ import annotations

import pytest

from farss.datasets.knowledge import KnowledgeSet, Question
from farss.errors import DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.generation import generate
from farss.evaluation.knowledge import measure_knowledge
from farss.evaluation.likelihood import answer_log_probs
from farss.evaluation.task import TaskSet, measure_task
from farss.model.calibration import Example

PREFIX = "Q: capital of Peru?\nA: Lima\n\n"


def question(number, answers=("Bern",), distractors=("Oslo", "Rome"), prompt="Q: capital {}?\nA:"):
    return Question("s", str(number), prompt.format(number), answers, distractors, None)


def few_shot(questions):
    return KnowledgeSet("s", PREFIX, questions)


def test_samples_hold_likelihood_choice_and_words(tiny_llama, tiny_tokenizer):
    questions = [question(1), question(2, distractors=())]
    samples = measure_knowledge(
        TorchBackend(tiny_llama, tiny_tokenizer), [few_shot(questions)], generate=True, choices=True
    )
    scores = answer_log_probs(tiny_llama, tiny_tokenizer, PREFIX, [questions[0].prompt] * 3, ["Bern", "Oslo", "Rome"])
    assert samples[0].log_prob == pytest.approx(scores[0].log_prob, abs=1e-5)
    assert samples[0].tokens == 5 and samples[0].gold == "Bern" and samples[0].set == "s" and samples[0].id == "1"
    assert samples[0].choice == (scores[0].log_prob > max(scores[1].log_prob, scores[2].log_prob))
    assert samples[1].choice is None
    said = generate(tiny_llama, tiny_tokenizer, [q.prompt for q in questions], prefix=PREFIX, max_new_tokens=12)
    assert [sample.words for sample in samples] == [text.strip() for text in said]
    assert samples[0].correct is False


def test_an_answer_the_model_gives_is_right(tiny_llama, tiny_tokenizer):
    asked = question(1)
    said = generate(tiny_llama, tiny_tokenizer, [asked.prompt], prefix=PREFIX, max_new_tokens=12)[0]
    told = question(1, answers=("Bern", said))
    sample = measure_knowledge(
        TorchBackend(tiny_llama, tiny_tokenizer), [few_shot([told])], generate=True, choices=False
    )[0]
    assert sample.correct and sample.choice is None


def test_cloze_answers_may_go_on(tiny_llama, tiny_tokenizer):
    asked = question(1, prompt="Bern {} is")
    said = generate(tiny_llama, tiny_tokenizer, [asked.prompt], max_new_tokens=12)[0].strip()
    told = question(1, answers=(said[:4],), prompt="Bern {} is")
    sample = measure_knowledge(
        TorchBackend(tiny_llama, tiny_tokenizer), [KnowledgeSet("s", "", [told])], generate=True, choices=False
    )[0]
    assert said.startswith(sample.words) and len(sample.words) <= 6


def test_likelihood_only_asks_for_no_words(tiny_llama, tiny_tokenizer):
    sets = [few_shot([question(1), question(2), question(3)])]
    samples = measure_knowledge(TorchBackend(tiny_llama, tiny_tokenizer), sets, generate=False, choices=False, rows=2)
    assert [sample.id for sample in samples] == ["1", "2"]
    assert all(sample.words is None and sample.correct is None and sample.choice is None for sample in samples)


def test_progress_of_all_sets_is_one_count(tiny_llama, tiny_tokenizer):
    seen = []
    sets = [few_shot([question(1), question(2)]), KnowledgeSet("t", "", [question(1)])]
    measure_knowledge(
        TorchBackend(tiny_llama, tiny_tokenizer),
        sets,
        generate=True,
        choices=True,
        progress=lambda *done: seen.append(done),
    )
    assert seen[-1] == (12, 12) and [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("questions", [[], [question(1), question(1)]])
def test_sets_that_cannot_be_paired_are_refused(tiny_llama, tiny_tokenizer, questions):
    with pytest.raises(DataError):
        measure_knowledge(
            TorchBackend(tiny_llama, tiny_tokenizer), [few_shot(questions)], generate=False, choices=False
        )


def task_set(tokenizer, golds=("18", "7", None)):
    prompts = ["Question: a?\nAnswer:", "Question: bb?\nAnswer:", "Question: ccc?\nAnswer:"]
    examples = [Example(tuple(tokenizer(p)["input_ids"]), (*tokenizer(" x")["input_ids"], 1)) for p in prompts]
    return TaskSet("problems", examples, prompts, golds)


def test_task_samples_hold_loss_and_words(tiny_llama, tiny_tokenizer, by_hand):
    task = task_set(tiny_tokenizer)
    samples = measure_task(TorchBackend(tiny_llama, tiny_tokenizer), task, generate_rows=3, max_new_tokens=6)
    for sample, example in zip(samples, task.examples, strict=True):
        found, _ = by_hand(tiny_llama, list(example.prompt_ids), list(example.response_ids))
        assert sample.loss == pytest.approx(-sum(found), abs=1e-4) and sample.tokens == 3
    assert [sample.correct for sample in samples] == [False, False, None]
    assert samples[2].words is None and samples[0].words is not None
    assert samples[0].words == generate(tiny_llama, tiny_tokenizer, task.prompts[:1], max_new_tokens=6, stop=())[0]


def test_task_answers_first_rows_only(tiny_llama, tiny_tokenizer):
    task = task_set(tiny_tokenizer)
    samples = measure_task(TorchBackend(tiny_llama, tiny_tokenizer), task, generate_rows=1, max_new_tokens=2)
    assert [sample.correct for sample in samples] == [False, None, None]
    samples = measure_task(TorchBackend(tiny_llama, tiny_tokenizer), task, generate_rows=0, max_new_tokens=2)
    assert all(sample.words is None for sample in samples)


def test_uneven_task_lists_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="equally long"):
        task_set(tiny_tokenizer, golds=("1",))
