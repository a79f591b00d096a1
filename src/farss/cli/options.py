"""Flags shared by the verbs, each standing for one key of the recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from farss.config import Recipe
from farss.errors import ConfigError
from farss.reading import Document
from farss.storage.owned import is_as_left
from farss.storage.places import keep_apart
from farss.yaml_text import parse_yaml

ASSIGNED = Document("value of --set", ConfigError)


def rows_or_auto(text: str) -> int | str:
    """A number of rows, or the word that leaves it to the data.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of rows or auto, got {text!r}") from None


def columns(text: str) -> dict[str, str]:
    """What `--columns prompt=TICKET,completion=REPLY` says.

    Raises:
        ArgumentTypeError: if it is not of that form.
    """
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(ours.strip() and equals and theirs.strip() for ours, equals, theirs in pairs):
        raise argparse.ArgumentTypeError("the form is prompt=COLUMN,completion=COLUMN")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def mixed_sets(text: str) -> list[dict[str, Any]]:
    """What `--mix CHAT.jsonl=1000,MORE.jsonl` says.

    Raises:
        ArgumentTypeError: if it is not of that form.
    """
    sets = list[dict[str, Any]]()
    for entry in text.split(","):
        name, equals, rows = entry.strip().rpartition("=") if "=" in entry else (entry.strip(), "", "")
        if not name or (equals and not rows.isascii()) or (equals and not rows.isdigit()):
            raise argparse.ArgumentTypeError("the form is NAME=ROWS,NAME (ROWS is a number; without it, all)")
        sets.append({"name": name} | ({"rows": int(rows)} if equals else {}))
    return sets


def folders(text: str) -> dict[str, str]:
    """What `--subjects mine=DIR,theirs=DIR` says.

    Raises:
        ArgumentTypeError: if it is not of that form.
    """
    pairs = [entry.partition("=") for entry in text.split(",")]
    if not all(name.strip() and place.strip() for name, _, place in pairs):
        raise argparse.ArgumentTypeError("the form is NAME=DIR,NAME=DIR")
    return {name.strip(): place.strip() for name, _, place in pairs}


# flag, recipe key, type, help
FLAGS: dict[str, tuple[str, Any, str]] = {
    "--model": ("model.name", str, "short name (see `farss models`), folder or hub id"),
    "--revision": ("model.revision", str, "branch, tag or commit of a hub model"),
    "--dtype": (
        "model.dtype",
        str,
        "auto (what the device does fastest), checkpoint, float32, bfloat16 or float16",
    ),
    "--device": ("device", str, "auto (a GPU if there is one), cpu or cuda"),
    "--data": ("data.task", str, "task data: file, name in the data directory, embedded set or hub data set"),
    "--data-dir": ("data.data_dir", str, "folder laid out as NAME/SPLIT.jsonl.gz"),
    "--columns": ("data.columns", columns, "which column is which: prompt=COLUMN,completion=COLUMN"),
    "--split": ("data.split", str, "split to train on, or a part of it: train[:1000]"),
    "--template": ("data.template", str, "auto, chat, none, plain, alpaca, or a file with a chat template"),
    "--turns": ("data.turns", str, "turns of the assistant that are learned: all or last"),
    "--learn": ("data.learn", str, "answers, or everything: the prompts too"),
    "--mix": ("data.mix", mixed_sets, "further sets to train on, all rows of each or so many: NAME=ROWS,NAME"),
    "--too-long": ("data.too_long", str, "rows longer than the maximum: cut, drop or refuse"),
    "--held-out": ("data.held_out", float, "share of a single file that is only measured (0: train on all, 1: none)"),
    "--test-data": ("data.test", str, "held-out rows: another file or name"),
    "--on-bad-row": ("data.on_bad_row", str, "refuse, or skip and count rows that cannot be read"),
    "--train-rows": ("data.train_rows", int, "train on a seeded sample of this many rows"),
    "--calibration-rows": (
        "data.calibration_rows",
        rows_or_auto,
        "rows the statistics are taken from: a number, or auto (until two halves of them agree, at most 256)",
    ),
    "--calibration-order": ("data.calibration_order", str, "random, or first: the first of the training rows"),
    "--max-length": ("data.max_length", int, "longest prompt plus response, in tokens"),
    "--rank": ("init.rank", int, "R, the rank of deep modules"),
    "--match": ("match", str, "what adapters have in common: rank, or params (ranks solved for one number of them)"),
    "--shallow-layers": ("init.shallow_layers", int, "N, the number of shallow layers"),
    "--base": ("init.base", str, "reference (base untouched) or residual (as published)"),
    "--compat": ("init.compat", str, "none or published-code"),
    "--lr": ("train.learning_rate", float, "peak learning rate"),
    "--epochs": ("train.epochs", float, "passes over the training rows"),
    "--max-steps": ("train.max_steps", int, "steps of the training, whatever --epochs says"),
    "--warmup-steps": ("train.warmup_steps", int, "steps over which the learning rate rises"),
    "--schedule": ("train.schedule", str, "of the learning rate: linear, cosine, constant, ..."),
    "--optim": ("train.optim", str, "optimiser by transformers' name: adamw_torch, adafactor, adamw_8bit, ..."),
    "--select": (
        "select",
        str,
        "none, or validation: rows are held out that are neither trained on nor scored",
    ),
    "--validation-rows": ("validation_rows", int, "how many rows --select validation holds out"),
    "--eval-steps": ("train.eval_steps", int, "measure the loss on validation rows every so many steps"),
    "--report-to": ("train.report_to", str, "comma-separated trackers: tensorboard, wandb, mlflow, ..."),
    "--batch-size": ("train.batch_size", int, "sequences per optimiser step"),
    "--seed": ("train.seed", int, "seed of data order, dropout and random factors"),
    "--knowledge-rows": ("eval.knowledge_rows", int, "questions per knowledge set"),
    "--task-rows": ("eval.task_rows", int, "held-out rows of a task or benchmark that are scored"),
    "--generate-rows": ("eval.generate_rows", int, "held-out rows answered in words"),
    "--init-from": ("init_from", folders, "methods that start from folders of `farss init`: METHOD=DIR,METHOD=DIR"),
    "--subjects": ("subjects", folders, "adapters and models trained elsewhere, measured too: NAME=DIR,NAME=DIR"),
}

ROWS = (
    *("--columns", "--split", "--mix", "--template", "--turns", "--learn", "--too-long"),
    *("--held-out", "--test-data", "--on-bad-row"),
)
"""Flags of how the rows of `--data` are read and shared out."""
SCHEDULE = (
    *("--max-steps", "--warmup-steps", "--schedule", "--optim"),
    *("--select", "--validation-rows", "--eval-steps", "--report-to"),
)
"""Flags of how long and how a model is trained, and what is looked at meanwhile."""
ONE_TRAINING = {"--lr", "--seed"}
"""Flags of settings that a run of many jobs does not read: it takes `learning_rates` and `seeds`."""
RUN_FLAGS = tuple(flag for flag in FLAGS if flag not in ONE_TRAINING)


def add_recipe_options(parser: argparse.ArgumentParser, flags: Sequence[str]) -> None:
    """Add `--recipe`, `--set KEY=VALUE` and the named shorthand flags."""
    parser.add_argument("--recipe", metavar="FILE", help="YAML file of settings; flags override it")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any recipe key, e.g. init.budget=redistribute"
    )
    for flag in flags:
        key, kind, text = FLAGS[flag]
        parser.add_argument(flag, type=kind, dest=key, metavar=flag[2:].upper(), help=f"{text} ({key})")


def add_workers_option(parser: argparse.ArgumentParser, default: int | None = 1) -> None:
    """Add `--workers`, which changes how long a run takes and nothing it finds; None leaves the number to the verb."""
    usual = "as many as memory and cores allow, at most 2" if default is None else default
    text = f"jobs at a time, each with its share of the threads or a GPU of its own (default {usual})"
    parser.add_argument("--workers", type=int, metavar="N", default=default, help=text)


def add_fresh_option(parser: argparse.ArgumentParser) -> None:
    """Add `--fresh`, of verbs that go on where an earlier call stopped."""
    text = "begin again: remove what an earlier call left in --out, and nothing that farss did not write"
    parser.add_argument("--fresh", action="store_true", help=text)


def recipe_from(arguments: argparse.Namespace, recipe: Recipe | None = None) -> Recipe:
    """The recipe of `--recipe` (or the given one, or the defaults) with the flags' values put in.

    Raises:
        ConfigError: for an unknown key, a wrong type or an impossible value.
        OutputError: if the recipe lies in the output folder and was not written there by farss.
    """
    if getattr(arguments, "recipe", None):
        recipe = Recipe.from_yaml(arguments.recipe)
        if getattr(arguments, "out", None) and not is_as_left(arguments.recipe):
            keep_apart(arguments.out, {"the recipe": arguments.recipe})
    known = {key for key, _, _ in FLAGS.values()}
    changes = {key: value for key, value in vars(arguments).items() if key in known and value is not None}
    for assignment in arguments.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError("--set needs KEY=VALUE", got=assignment)
        changes[key.strip()] = _value(text)
    return (recipe or Recipe()).override(changes)


def _value(text: str) -> Any:
    return parse_yaml(text, ASSIGNED, "--set")
