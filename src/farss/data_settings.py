"""The part of the recipe that says which rows are used, how they are read, and what of them is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from farss.settings import Settings, require

TEMPLATES = ("auto", "chat", "none", "plain", "alpaca")
"""Templates by name; any other is the path of a file with a chat template."""
Turns = Literal["all", "last"]
Learn = Literal["answers", "everything"]
OnBadRow = Literal["refuse", "skip"]
TooLong = Literal["cut", "drop", "refuse"]

MOST_ROWS = 256
"""Calibration rows that are read at most where their number is "auto": those of the publication."""


@dataclass(frozen=True)
class MixedSet(Settings):
    """A set that is trained on beside the task: `rows` of it, a seeded sample, or all; read by settings of its own."""

    name: str = ""
    rows: int | None = None
    split: str = "train"
    test_split: str = "test"
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.name), "a set that is mixed in has no name", where="data.mix", do="give it as `name`")


@dataclass(frozen=True)
class DataConfig(Settings):
    """The task data. A name is a file, else `NAME/SPLIT.jsonl.gz` in `data_dir`, else embedded, else a hub data set.

    `calibration_rows` is how many rows statistics are taken of. "auto" reads rows until two halves of them ask for the
    same plan, at most 256; statistics beside the curvature are then taken of 256. They are a sample of the training
    rows, or with `calibration_order="first"` the first of them.

    `split` is trained on, a part of it if it says so (`train[:1000]`); `subset` is a hub set's configuration. Held out
    are the rows of `test`, another name or file, if it is set, else the split `test_split`; of a single file, which has
    no splits, the share `held_out` of its questions, chosen by their content, so that rows added later move none (0
    trains on all, 1 only measures). `columns` maps fields of ours to columns of the rows: `{prompt: query}`.

    `mix` names further sets that are trained on; of each rows are held out and measured like the task's.

    `template` is `auto`, `chat`, `none`, `plain`, `alpaca` or a file with a chat template; `turns` says which turns of
    the assistant are learned, `learn="everything"` that all tokens are. An answer that no chat template closes is
    closed by `end_of_turn`, a token of the tokenizer; None is its end of sequence. What is longer than `max_length` is
    cut, or with `too_long` dropped or refused. A row that cannot be read is refused by its number, or with
    `on_bad_row="skip"` left out and counted. `knowledge_calibration` names the knowledge set whose questions some
    methods take statistics from, the first of `eval.knowledge` by default; questions that are evaluated are never
    taken. `date` is what a chat template that asks for the date is given; None is the day on which the run was begun.
    """

    REFUSED: ClassVar[dict[str, str]] = {
        "streaming": "sets are read whole, so that rows are held out by what they ask and results repeat; take a part "
        "with data.split, train[:100000] say, or save the rows you want as a file",
        "num_proc": "rows are tokenised a thousand at a time, by all cores; nothing is to be set",
        "preprocessing_num_workers": "rows are tokenised a thousand at a time, by all cores; nothing is to be set",
        "cache_dir": "tokens are not kept: rows are drawn first, and only those used are tokenised",
        "packing": "say `train.packing`",
        "weights": "say how many rows of each set: data.mix with `rows`",
        "interleave_probs": "say how many rows of each set: data.mix with `rows`",
        "mix_strategy": "rows of all sets are shuffled together; say how many of each: data.mix with `rows`",
        "dataset": "use data.task",
        "datasets": "name the first as data.task and the others in data.mix",
        "max_samples": "use data.train_rows, or data.split: train[:N] for the first rows",
        "test_size": "use data.held_out, a share",
        "val_size": "use data.held_out, a share",
        "val_set_size": "use data.held_out, a share",
        "eval_dataset": "use data.test",
        "shuffle": "rows are shuffled in every training, by train.seed",
        "roles_to_train": "the assistant is learned; single turns are left out by `train: false` in messages",
        "chat_template": "use data.template: a name, a file or the text of a template",
        "eos_token": "use data.end_of_turn",
        "eot_tokens": "the ends that the chat template writes are learned; without a template, data.end_of_turn",
        "train_on_inputs": "use data.learn: everything",
        "assistant_only_loss": "answers are learned as it is; data.learn: everything learns all",
        "completion_only_loss": "answers are learned as it is; data.learn: everything learns all",
        "mask_history": "use data.turns: last",
        "max_seq_length": "use data.max_length",
        "cutoff_len": "use data.max_length",
        "field_messages": "use data.columns: {messages: COLUMN}",
        "dataset_text_field": "use data.columns: {text: COLUMN}",
    }
    """What people write for these settings elsewhere, with how it is said here or why it is not."""

    task: str = "word_problems"
    data_dir: str | None = None
    train_rows: int | None = None
    calibration_rows: int | Literal["auto"] = "auto"
    knowledge_calibration: str | None = None
    max_length: int = 512
    template: str = "auto"
    turns: Turns = "all"
    learn: Learn = "answers"
    end_of_turn: str | None = None
    too_long: TooLong = "cut"
    mix: tuple[MixedSet, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    subset: str | None = None
    split: str = "train"
    test: str | None = None
    test_split: str = "test"
    held_out: float = 0.1
    on_bad_row: OnBadRow = "refuse"
    date: str | None = None
    calibration_order: Literal["random", "first"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.most_rows >= 1, "at least one calibration row is needed", got=self.calibration_rows)
        require(self.max_length >= 8, "max_length is too short for a prompt and a response", got=self.max_length)
        require(0 <= self.held_out <= 1, "a share is between 0 and 1", where="held_out", got=self.held_out)
        chosen = self.learn == "answers" or self.turns == "all"
        require(chosen, "either all tokens are learned or only the last turn is", where="data.learn, data.turns")
        named = [(self.task, self.split, self.subset), *((one.name, one.split, one.subset) for one in self.mix)]
        require(len({*named}) == len(named), "a set comes twice", where="data.mix", got=[name for name, _, _ in named])

    @property
    def most_rows(self) -> int:
        """The most calibration rows that may be read."""
        return MOST_ROWS if self.calibration_rows == "auto" else self.calibration_rows
