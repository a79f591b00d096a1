"""Speed of log-likelihood scoring beside the model's own forward pass over the very same batches, in one process.

The scorer's batches are noted once, then three ways of going through them are timed in turn, `--repeats` times, in an
order that is reversed every other time. Figures are medians; tokens are those the model reads, padding not counted.

scorer      `answer_log_probs` or `response_losses` as users call them: tokenising, batching, reading, log probabilities
forward     the model called on the same ids, masks and key-value caches, with the logits of every position, as it comes
head-less   the same with logits at the predicted positions only: the least that any scorer must do

alone       few-shot questions, every one with its examples before it
shared      the same questions, the examples read once
responses   reference responses of a task after their prompts

    python benchmarks/eval.py --knowledge trivia_qa --task gsm8k --data-dir DATA --out eval.json
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farss.config import DataConfig, ModelConfig
from farss.datasets.formats import formatter
from farss.datasets.knowledge import KnowledgeSet, load_knowledge
from farss.datasets.resolve import load_rows
from farss.evaluation import likelihood, prefix
from farss.evaluation.likelihood import answer_log_probs, response_losses
from farss.evaluation.prefix import Prefix, empty_cache, inner_model, logits_at, measuring
from farss.experiment.environment import device, versions
from farss.model.calibration import encode_rows, pad_token
from farss.model.sources import LoadedModel, load
from farss.storage import write_json

CASES = ("alone", "shared", "responses")
WAYS = ("scorer", "forward", "head-less")


@dataclass(frozen=True)
class Reading:
    """One forward pass of the scorer.

    Attributes:
        predicts: [b, t] bool, positions whose logits it needs.
        inputs: of the model's forward, without the cache.
        cached: "none", "empty" (the shared beginning is being read) or "filled" (it stands before these ids).
    """

    predicts: Tensor
    inputs: dict[str, Any]
    cached: str

    @property
    def tokens(self) -> int:
        """Ids read that are no padding."""
        ids = self.inputs["input_ids"]
        mask = self.inputs.get("attention_mask")
        return ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())


@contextmanager
def noted() -> Iterator[list[Reading]]:
    """The forward passes that are made inside the block."""
    readings: list[Reading] = []

    def note(model: Any, rows: Tensor, **inputs: Any) -> Tensor:
        cache = inputs.get("past_key_values")
        cached = "none" if cache is None else "filled" if cache.get_seq_length() else "empty"
        readings.append(Reading(rows, {k: v for k, v in inputs.items() if k != "past_key_values"}, cached))
        return logits_at(model, rows, **inputs)

    likelihood.logits_at = prefix.logits_at = note
    try:
        yield readings
    finally:
        likelihood.logits_at = prefix.logits_at = logits_at


def scorer_for(case: str, loaded: LoadedModel, options: argparse.Namespace) -> Callable[[], object]:
    """What a user would call."""
    if case == "responses":
        rows = load_rows(options.task, "test", data_dir=options.data_dir, limit=options.rows, seed=0)
        form = formatter(options.task, "auto", loaded.tokenizer)
        examples = encode_rows(rows, loaded.tokenizer, form, options.max_length)
        pad = pad_token(loaded.tokenizer)
        return lambda: response_losses(loaded.model, examples, pad_id=pad, batch_tokens=options.batch_tokens)
    asked: KnowledgeSet = load_knowledge(
        options.knowledge, rows=options.rows, shots=options.shots, data_dir=options.data_dir, seed=0
    )
    before, each = (asked.prefix, "") if case == "shared" else ("", asked.prefix)
    prompts = [each + question.prompt for question in asked.questions]
    golds = [question.answers[0] for question in asked.questions]
    return lambda: answer_log_probs(
        loaded.model, loaded.tokenizer, before, prompts, golds, batch_tokens=options.batch_tokens
    )


def beginning(model: nn.Module, readings: list[Reading]) -> Prefix:
    """The shared beginning, read; an empty one where the scorer read none."""
    first = next((reading for reading in readings if reading.cached == "empty"), None)
    if first is None:
        return Prefix()
    cache, ids = empty_cache(model), first.inputs["input_ids"]
    logits_at(model, first.predicts, **first.inputs, past_key_values=cache)
    return Prefix(tuple(ids[0].tolist()), cache)


def read_again(model: Any, readings: list[Reading], way: str) -> float:
    """Seconds that the model alone takes for the same forward passes; caches are made ready outside the clock."""
    known = inspect.signature(inner_model(model).forward).parameters
    seconds = 0.0
    with measuring(model):
        shared = beginning(model, readings)
        for reading in readings:
            inputs = {name: value for name, value in reading.inputs.items() if name in known}
            if reading.cached != "none":
                rows = reading.inputs["input_ids"].shape[0]
                inputs["past_key_values"] = shared.repeated(rows) if reading.cached == "filled" else empty_cache(model)
            seconds += clocked(
                lambda inputs=inputs, reading=reading: (
                    model(**inputs).logits if way == "forward" else logits_at(model, reading.predicts, **inputs)
                )
            )
    return seconds


def clocked(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, a GPU's queue included."""
    settle()
    begun = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - begun


def settle() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(case: str, loaded: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every way and repeat, their medians, tokens per second and ratios of the scorer's speed."""
    scorer = scorer_for(case, loaded, options)
    with noted() as readings:
        scorer()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for repeat in range(options.repeats):
        for way in WAYS[:: -1 if repeat % 2 else 1]:
            taken = clocked(scorer) if way == "scorer" else read_again(loaded.model, readings, way)
            seconds[way].append(taken)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    tokens = sum(reading.tokens for reading in readings)
    padded = sum(reading.inputs["input_ids"].numel() for reading in readings)
    return {
        "forward_passes": len(readings),
        "tokens": tokens,
        "predicted": sum(int(r.predicts.sum()) for r in readings if r.cached != "empty"),
        "padding_share": 1 - tokens / padded,
        "seconds": seconds,
        "tokens_per_second": {way: tokens / median for way, median in medians.items()},
        "ratio": {way: medians[way] / medians["scorer"] for way in WAYS[1:]},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--knowledge", default="facts")
    parser.add_argument("--task", default=DataConfig().task)
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=64, help="questions, and responses")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=DataConfig().max_length)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="processor threads; torch's choice by default")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "versions": versions(),
        "device": device() | {"threads": torch.get_num_threads()},
        "cases": {},
    }
    print("versions:", ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print("machine:", ", ".join(f"{key} {value}" for key, value in report["device"].items()))
    loaded = load(ModelConfig(name=options.model), dtype=options.dtype, device=options.device)
    print(f"\n{'case':12}{'tokens':>8}{'padding':>9}" + "".join(f"{way:>11}" for way in WAYS) + "   ratio to each")
    for case in options.cases:
        report["cases"][case] = found = measure(case, loaded, options)
        speeds = "".join(f"{found['tokens_per_second'][way]:11.0f}" for way in WAYS)
        ratios = "".join(f"{found['ratio'][way]:8.2f}" for way in WAYS[1:])
        print(f"{case:12}{found['tokens']:8}{found['padding_share']:9.1%}{speeds}{ratios}", flush=True)
    print("speeds in tokens/s; a ratio is the scorer's speed over the forward's, over the head-less forward's")
    if options.out:
        write_json(options.out, report)
        print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
