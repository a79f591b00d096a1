"""The commonsense sets in the instruction form of LLM-Adapters (Hu et al. 2023), answered in words and by likelihood.

In words, the published rule counts: the first option's name that the output holds. The authors search with four beams;
here the greedy path is taken, as everywhere in farss. Beside it, the likelihood of each option's sentence after the
same prompt, as a model trained on the set would write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from farss.datasets.files import read_rows
from farss.errors import DataError
from farss.evaluation.benchmarks.base import Benchmark, BenchmarkResult, BenchmarkRun, Sample, accuracy

SETS = {
    "boolq": "boolq",
    "piqa": "piqa",
    "social_i_qa": "social_i_qa",
    "winogrande": "winogrande",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
}
"""Our name of a set -> its folder in `commonsense/`."""

INDENT = " " * 16
"""Stands before all lines but the first in the published prompt, and so in what models were trained on."""
PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. \n\n"
    f"{INDENT}### Instruction:\n{INDENT}{{}}\n\n{INDENT}### Response:\n{INDENT}"
)
"""The published prompt, word for word, with its spaces."""
SENTENCE = "the correct answer is {}"
"""How every response of these sets reads."""
MOST_TOKENS = 32
"""As published."""
STOP = ("### Instruction",)
BATCH, BATCH_TOKENS = 32, 8192
WORDS, LIKELIHOOD = "words", "likelihood"
FAMILIES = (
    ("true", "false"),
    ("solution1", "solution2"),
    ("option1", "option2"),
    ("answer1", "answer2", "answer3", "answer4", "answer5"),
)
"""The names among which the published rule looks for the first, by set."""

_FORMAT = re.compile(r"Answer format: *(\S+)\s*\Z")


@dataclass(frozen=True)
class Item:
    """One row: what is asked, the names of its options in order, and the right one."""

    instruction: str
    options: tuple[str, ...]
    gold: str


def item(row: Mapping[str, Any], where: str) -> Item:
    """A row of the instruction form, its options read from the answer format that ends the instruction.

    Raises:
        DataError: if a field is missing, there is no answer format, or the answer is none of the options.
    """
    instruction, gold = row.get("instruction"), row.get("answer")
    found = _FORMAT.search(instruction) if isinstance(instruction, str) else None
    options = tuple(found[1].split("/")) if found else ()
    good = gold in options and len(set(options)) == len(options) > 1
    if not isinstance(instruction, str) or not isinstance(gold, str) or not good:
        raise DataError(
            "a row is not in the instruction form of LLM-Adapters",
            where=where,
            expected="an instruction that ends in `Answer format: A/B`, and an answer that is A or B",
            got=str(dict(row))[-200:],
        )
    return Item(instruction, options, gold)


def chosen_in_words(text: str, options: tuple[str, ...]) -> str | None:
    """The option whose name comes first in a model's output, by the published rule; None if it names none.

    As published, every name of the options' family counts: "answer5" is found, and wrong, where there are four.
    """
    family = next((names for names in FAMILIES if set(options) <= set(names)), options)
    found = re.search("|".join(map(re.escape, family)), text)
    return found[0] if found else None


def ask(run: BenchmarkRun, name: str) -> BenchmarkResult:
    """Ask one set; scores "accuracy/words" and "accuracy/likelihood".

    Args:
        run: the model and the data directory.
        name: key of `SETS`.

    Raises:
        DataError: if the file is missing, or a row is not in the instruction form.
    """
    file = _file(name)
    rows = read_rows(run.data_dir / f"{file}.jsonl.gz")[: run.limit]
    items = [item(row, f"{file}, row {number}") for number, row in enumerate(rows, start=1)]
    texts = run.backend.generate(
        [PROMPT.format(one.instruction) for one in items],
        max_new_tokens=MOST_TOKENS,
        stop=STOP,
        batch_size=BATCH,
        progress=lambda done, of: _report(run, done, 2 * of),
    )
    likeliest = _likeliest(run, items)
    samples = [_sample(number, *parts) for number, parts in enumerate(zip(items, texts, likeliest, strict=True))]
    scores = {f"accuracy/{way}": accuracy([sample.right[way] for sample in samples]) for way in (WORDS, LIKELIHOOD)}
    return BenchmarkResult(scores, samples)


def _sample(number: int, asked: Item, text: str, likeliest: str) -> Sample:
    chosen = chosen_in_words(text, asked.options)
    right = {WORDS: chosen == asked.gold, LIKELIHOOD: likeliest == asked.gold}
    details = {"gold": asked.gold, "chosen": chosen, "likeliest": likeliest}
    return Sample(str(number), asked.instruction, text, right, details=details)


def _likeliest(run: BenchmarkRun, items: list[Item]) -> list[str]:
    """The option of each item whose sentence is the most probable as a whole; the first of equals."""
    asked = [(one, option) for one in items for option in one.options]
    scores = run.backend.answer_log_probs(
        "",
        [PROMPT.format(one.instruction) for one, _ in asked],
        [SENTENCE.format(option) for _, option in asked],
        batch_tokens=BATCH_TOKENS,
        progress=lambda done, of: _report(run, len(items) * (of + done) // of, 2 * len(items)),
    )
    totals = iter([score.total for score in scores])
    return [max((next(totals), -place, option) for place, option in enumerate(one.options))[2] for one in items]


def _report(run: BenchmarkRun, done: int, of: int) -> None:
    if run.progress is not None:
        run.progress(done, of)


def _file(name: str) -> str:
    return f"commonsense/{SETS[name]}/test"


BENCHMARKS: tuple[Benchmark, ...] = tuple(
    Benchmark(
        f"commonsense_{name}",
        f"{folder} as an instruction (LLM-Adapters), in words and by likelihood",
        (_file(name),),
        partial(ask, name=name),
        rule=WORDS,
    )
    for name, folder in SETS.items()
)
