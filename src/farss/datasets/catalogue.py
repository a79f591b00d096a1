"""The data sets farss knows by name: what each is, its splits, and where the hub keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["knowledge", "task", "classification"]

SPLIT_ALIASES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "train_slice", "train_9k", "train_5k"),
    "validation": ("validation", "dev"),
    "test": ("test", "dev", "validation", "facts", "test_1k", "test_500"),
}
"""File names (without `.jsonl.gz`) tried in this order in the data directory; any other split is taken literally."""


@dataclass(frozen=True)
class HubSource:
    """Where the hub keeps a data set.

    Attributes:
        repository: hub id.
        configuration: its configuration, None for the only one.
        splits: our split name -> the hub's, where they differ.
    """

    repository: str
    configuration: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownSet:
    """One line of `farss tasks`."""

    kind: Kind
    summary: str
    splits: tuple[str, ...]
    hub: HubSource | None = None
    embedded: bool = False


def _glue(name: str, summary: str, **splits: str) -> KnownSet:
    hub = HubSource("nyu-mll/glue", name, splits)
    return KnownSet("classification", f"GLUE, {summary} (`farss glue`)", ("train", "validation"), hub)


CATALOGUE: Mapping[str, KnownSet] = {
    "facts": KnownSet(
        "knowledge", "embedded facts in 24 relations, few-shot questions", ("shots", "test"), embedded=True
    ),
    "facts_rephrased": KnownSet(
        "knowledge", "the same facts, questions in other words", ("shots", "test"), embedded=True
    ),
    "facts_cloze": KnownSet("knowledge", "the same facts, sentences to be completed", ("shots", "test"), embedded=True),
    "trivia_qa": KnownSet(
        "knowledge",
        "TriviaQA, open domain, few-shot",
        ("train", "test"),
        HubSource("mandarjoshi/trivia_qa", "rc.nocontext", {"test": "validation"}),  # the hub's test has no answers
    ),
    "nq_open": KnownSet(
        "knowledge",
        "Natural Questions, open domain, few-shot",
        ("train", "test"),
        HubSource("google-research-datasets/nq_open", None, {"test": "validation"}),
    ),
    "web_questions": KnownSet(
        "knowledge", "WebQuestions, few-shot", ("train", "test"), HubSource("stanfordnlp/web_questions")
    ),
    "known_1000": KnownSet("knowledge", "factual statements to be completed, zero-shot (data directory)", ("test",)),
    "popqa": KnownSet(
        "knowledge", "PopQA, questions about entities by popularity, few-shot", ("test",), HubSource("akariasai/PopQA")
    ),
    "word_problems": KnownSet(
        "task",
        "embedded arithmetic word problems with worked solutions",
        ("train", "validation", "test"),
        embedded=True,
    ),
    "gsm8k": KnownSet(
        "task", "grade-school mathematics word problems", ("train", "test"), HubSource("openai/gsm8k", "main")
    ),
    "metamathqa": KnownSet(
        "task", "MetaMathQA, mathematics with solutions", ("train",), HubSource("meta-math/MetaMathQA")
    ),
    "metamathqa_substitute": KnownSet(
        "task", "GSM8K and MATH solutions in the form of MetaMathQA (data directory)", ("train",)
    ),
    "alpaca": KnownSet("task", "Alpaca, instruction following", ("train",), HubSource("tatsu-lab/alpaca")),
    "glue/cola": _glue("cola", "is a sentence acceptable English"),
    "glue/sst2": _glue("sst2", "is a review positive"),
    "glue/mrpc": _glue("mrpc", "do two sentences say the same"),
    "glue/rte": _glue("rte", "does a text entail a sentence"),
    "glue/qnli": _glue("qnli", "does a sentence answer a question"),
    "glue/stsb": _glue("stsb", "how alike are two sentences, 0 to 5"),
    "glue/qqp": _glue("qqp", "do two questions ask the same"),
    "glue/mnli": _glue("mnli", "entailment, neutral or contradiction", validation="validation_matched"),
    "adv_glue": KnownSet(
        "classification", "AdvGLUE, the split `adversarial` of GLUE tasks (data directory)", ("validation",)
    ),
}


def describe() -> list[dict[str, str]]:
    """Every known data set as a row of `farss tasks`: name, kind, summary, splits and where it comes from."""
    return [
        {
            "name": name,
            "kind": known.kind,
            "summary": known.summary,
            "splits": " ".join(known.splits),
            "source": _source(known),
        }
        for name, known in CATALOGUE.items()
    ]


def _source(known: KnownSet) -> str:
    if known.embedded:
        return "embedded"
    return f"--data-dir or {known.hub.repository}" if known.hub else "--data-dir"
