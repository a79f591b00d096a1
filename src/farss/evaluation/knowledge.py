"""Knowledge sets asked of a model: likelihood of the gold answer, choice among distractors, answers in words."""

from __future__ import annotations

from collections.abc import Sequence

from farss.datasets.knowledge import KnowledgeSet, Question
from farss.errors import DataError
from farss.evaluation.answers import begins_with, exact_match, first_line
from farss.evaluation.backends import Backend
from farss.evaluation.likelihood import TokenScores
from farss.evaluation.prefix import encode
from farss.evaluation.records import KnowledgeSample, Progress
from farss.evaluation.window import asking

MOST_ANSWER_TOKENS = 12
"""Tokens a short answer may take; the gold answers of TriviaQA, NQ-Open and WebQuestions rarely need more."""
ANSWER_BATCH = 128
"""Short answers are written this many at a time."""


def measure_knowledge(
    backend: Backend,
    sets: Sequence[KnowledgeSet],
    *,
    generate: bool,
    choices: bool,
    rows: int | None = None,
    batch_tokens: int = 8192,
    max_new_tokens: int = MOST_ANSWER_TOKENS,
    progress: Progress | None = None,
) -> list[KnowledgeSample]:
    """Ask every question of every set.

    A few-shot set is answered up to the end of the line and is right by exact match. A set without prefix is cloze:
    the model goes on writing after the answer, so it is right if its words begin with an accepted answer.

    Args:
        backend: the model.
        sets: questions with their few-shot prefix.
        generate: also let the model answer in words.
        choices: also score the distractors.
        rows: only the first `rows` questions of each set; None for all.
        batch_tokens: most tokens of a batch.
        max_new_tokens: most tokens of an answer in words.
        progress: called with (answers scored or written, of how many).

    Returns:
        One sample per question, sets and questions in order.

    Raises:
        DataError: if a set has no questions, a set or question occurs twice, or a gold answer has no token.
    """
    asked = [(chosen, list(chosen.questions)[:rows]) for chosen in sets]
    _check(asked)
    work = [sum(1 + len(q.distractors) * choices + generate for q in questions) for _, questions in asked]
    samples: list[KnowledgeSample] = []
    for number, (chosen, questions) in enumerate(asked):
        report = _Share(progress, sum(work[:number]), sum(work))
        words: list[str] | list[None] = [None] * len(questions)
        with asking(chosen.name):
            scores = _score(backend, chosen.prefix, questions, choices, batch_tokens, report)
            if generate:
                report.before += sum(map(len, scores))
                words = _ask(backend, chosen.prefix, questions, max_new_tokens, report)
        right = exact_match if chosen.prefix else begins_with
        samples += [
            KnowledgeSample(
                set=chosen.name,
                id=question.id,
                question=question.prompt,
                gold=question.answers[0],
                log_prob=gold.log_prob,
                tokens=gold.tokens,
                hit=gold.hit,
                choice=all(gold.log_prob > other.log_prob for other in others) if others else None,
                words=said,
                correct=None if said is None else right(said, question.answers),
            )
            for question, (gold, *others), said in zip(questions, scores, words, strict=True)
        ]
    return samples


class _Share:
    """The progress of one part of the work, reported as progress of the whole."""

    def __init__(self, progress: Progress | None, before: int, total: int) -> None:
        self.progress, self.before, self.total = progress, before, total

    def __call__(self, done: int, _: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done, self.total)


def _check(asked: Sequence[tuple[KnowledgeSet, list[Question]]]) -> None:
    names = [chosen.name for chosen, _ in asked]
    for chosen, questions in asked:
        if not questions:
            raise DataError("the knowledge set has no questions", where=chosen.name)
        if len({question.id for question in questions}) < len(questions) or names.count(chosen.name) > 1:
            raise DataError("a question is asked twice, so answers cannot be paired", where=chosen.name)


def _score(
    backend: Backend,
    prefix: str,
    questions: list[Question],
    choices: bool,
    batch_tokens: int,
    progress: Progress,
) -> list[list[TokenScores]]:
    """Scores of the gold answer, and of the distractors behind it, per question."""
    candidates = [(q.answers[0], *(q.distractors if choices else ())) for q in questions]
    prompts = [q.prompt for q, answers in zip(questions, candidates, strict=True) for _ in answers]
    flat = [answer for answers in candidates for answer in answers]
    scores = iter(backend.answer_log_probs(prefix, prompts, flat, batch_tokens=batch_tokens, progress=progress))
    return [[next(scores) for _ in answers] for answers in candidates]


def _ask(
    backend: Backend, prefix: str, questions: list[Question], max_new_tokens: int, progress: Progress
) -> list[str]:
    if not prefix:  # nothing after the answer is read, so a cloze sentence need not be finished
        longest = max(map(len, encode(backend.tokenizer, [f" {answer}" for q in questions for answer in q.answers])))
        max_new_tokens = min(max_new_tokens, longest + 1)
    texts = backend.generate(
        [question.prompt for question in questions],
        prefix=prefix,
        max_new_tokens=max_new_tokens,
        stop=("\n",),
        batch_size=ANSWER_BATCH,
        progress=progress,
    )
    return [first_line(text) for text in texts]
