"""Which files of a data directory hold the rows of lm-eval's tasks, and how they get the fields of the hub's versions.

`minerva_math` is left out: it asks for ANTLR 4.11 where math-verify is installed with 4.13, and refuses to be imported;
`hendrycks_math` has the same problems. `boolq` is left out: its prompt has the passage, which the LLM-Adapters form of
the data set lost. HumanEval and MBPP are benchmarks of ours, in the sandbox: lm-eval runs their code unprotected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from farss.errors import DataError

Row = dict[str, Any]

HEADING = re.compile(r"^ = [^=].*[^=] = \s*$")
"""The first line of an article of WikiText: one equals sign on each side."""

SOCIAL = re.compile(
    r"""Please choose the correct answer to the question: (?P<context>.*[.!?"']) (?P<question>[^.!?]*\?)\n\n"""
    r"Answer1: (?P<answerA>.*) Answer2: (?P<answerB>.*) Answer3: (?P<answerC>.*)\n\nAnswer format: .*",
    re.DOTALL,
)
"""A row of Social IQa in the LLM-Adapters form; the last sentence before the answers is the question."""


@dataclass(frozen=True)
class Source:
    """Where one task of lm-eval, or a group of them, finds its rows in a data directory.

    Attributes:
        summary: one line of `farss tasks`.
        files: split of the task -> `NAME/SPLIT` in the data directory, or several that are joined.
        convert: to the fields of the data set's own version on the hub.
        settings: laid over lm-eval's own settings of the task.
        part: for a group, which configuration of the hub's data set a row belongs to.
    """

    summary: str
    files: Mapping[str, str | tuple[str, ...]]
    convert: Callable[[list[Row]], list[Row]] = field(default=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: Callable[[Row], str] | None = None

    def stems(self, split: str) -> tuple[str, ...]:
        """The `NAME/SPLIT` of every file that makes up a split."""
        found = self.files[split]
        return (found,) if isinstance(found, str) else found

    @property
    def all_stems(self) -> tuple[str, ...]:
        """The `NAME/SPLIT` of every file."""
        return tuple(stem for split in self.files for stem in self.stems(split))


def _hellaswag(rows: list[Row]) -> list[Row]:
    """The hub's fields from cleaned ones; lm-eval's own cleaning leaves clean text as it is."""
    found = []
    for row in rows:
        activity, _, context = row["query"].partition(": ")
        found.append(
            {
                "activity_label": activity,
                "ctx_a": context,
                "ctx_b": "",
                "endings": row["endings"],
                "label": str(row["label"]),
            }
        )
    return found


def _pages(rows: list[Row]) -> list[Row]:
    """WikiText's lines put together to articles."""
    pages: list[list[str]] = []
    for row in rows:
        line = row["text"]
        if HEADING.match(line) or not pages:
            pages.append([])
        pages[-1].append(line.rstrip("\r\n"))
    return [{"page": "\n".join(lines)} for lines in pages if any(line.strip() for line in lines)]


def _math(rows: list[Row]) -> list[Row]:
    """MATH's own fields; the 500 problems have other names for two of them."""
    return [
        {
            "problem": row["problem"],
            "level": str(row["level"]),
            "type": row["type"] if "type" in row else row["subject"],
            "solution": row["solution"],
        }
        for row in rows
    ]


def _math_configuration(row: Row) -> str:
    return row["type"].lower().replace("&", "and").replace(" ", "_")


def _social(rows: list[Row]) -> list[Row]:
    """The hub's fields from the LLM-Adapters form.

    lm-eval's prompt joins context and question by a space, as that form does, so the prompt is the same wherever the
    two are told apart.
    """
    found = []
    for number, row in enumerate(rows):
        match = SOCIAL.fullmatch(row["instruction"])
        if match is None:
            raise DataError(
                "a row of Social IQa is not of the LLM-Adapters form", where=f"row {number}", got=row["instruction"]
            )
        found.append(match.groupdict() | {"label": row["answer"].removeprefix("answer")})
    return found


SOURCES: dict[str, Source] = {
    "triviaqa": Source("TriviaQA, closed book", {"train": "trivia_qa/train_slice", "validation": "trivia_qa/dev"}),
    "nq_open": Source("Natural Questions, closed book", {"train": "nq_open/train_slice", "validation": "nq_open/dev"}),
    "webqs": Source(
        "WebQuestions, answer among choices", {"train": "web_questions/train", "test": "web_questions/test"}
    ),
    "gsm8k": Source("grade-school mathematics, five worked examples", {"train": "gsm8k/train", "test": "gsm8k/test"}),
    "hendrycks_math": Source(
        "MATH, the whole test split by its seven subjects (no model trained on math/test_rest)",
        {"test": ("math/test_500", "math/test_rest")},
        _math,
        part=_math_configuration,
    ),
    "hendrycks_math500": Source("MATH, the 500 problems held out by PRM800K", {"test": "math/test_500"}, _math),
    "mmlu": Source(
        "MMLU, 57 subjects, examples from the dev split",
        {"dev": "mmlu/dev", "test": "mmlu/test"},
        part=lambda row: row["subject"],
    ),
    "ifeval": Source(
        "instruction following, by prompt and by instruction, strict and loose",
        {"test": "ifeval/test"},
        settings={"test_split": "test"},
    ),
    "arc_easy": Source("ARC, easy part", {"train": "arc_easy/train", "test": "arc_easy/test"}),
    "arc_challenge": Source("ARC, challenge part", {"train": "arc_challenge/train", "test": "arc_challenge/test"}),
    "openbookqa": Source(
        "OpenBookQA, without the book",
        {"train": "openbookqa/train", "validation": "openbookqa/validation", "test": "openbookqa/test"},
    ),
    "hellaswag": Source("HellaSwag, endings of situations", {"validation": "hellaswag/validation"}, _hellaswag),
    "piqa": Source("PIQA, physical commonsense", {"validation": "piqa/validation"}),
    "winogrande": Source("WinoGrande, pronouns", {"validation": "winogrande/validation"}),
    "social_iqa": Source("Social IQa, social commonsense", {"validation": "commonsense/social_i_qa/test"}, _social),
    "wikitext": Source("WikiText-2, perplexity of whole articles", {"test": "wikitext2/test_raw"}, _pages),
}
