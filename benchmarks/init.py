"""Time and memory of an initialisation, beside the least that any method of this kind must do.

The floor is one forward and backward pass over the same batches with frozen weights (no weight gradient, logits at
supervised positions only) and one decomposition of every target weight. Ours is the data pass, the decompositions and
the plan. Both run in this process, in turn, `--repeats` times; the ratio compares the medians.

    python benchmarks/init.py --model smollm2-135m --task gsm8k --data-dir DATA --rows 256 --out init.json
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from farss.config import DataConfig, FarssConfig, ModelConfig
from farss.datasets.formats import formatter
from farss.datasets.resolve import load_rows
from farss.experiment.environment import device, versions
from farss.maths.spectrum import Spectrum, decompose
from farss.methods import get_method
from farss.methods.base import Evidence
from farss.model.calibration import Batch, batches, encode_rows, pad_token
from farss.model.curvature import collect
from farss.model.loss import SupervisedLoss
from farss.model.observing import reading_only
from farss.model.sources import LoadedModel, load
from farss.model.targets import Target, find_targets, weight_matrix
from farss.storage import write_json

MEMORY_SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall and of all processors, and resident memory above the start of the step, in bytes."""

    wall: float
    processor: float
    memory: int


def measured(step: Callable[[], Any]) -> tuple[Any, Cost]:
    """What `step` returns, and its cost; memory is sampled from a thread."""
    process = psutil.Process()
    start = peak = process.memory_info().rss
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(MEMORY_SAMPLING_SECONDS):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    wall, processor = time.perf_counter(), time.process_time()
    result = step()
    cost = time.perf_counter() - wall, time.process_time() - processor
    done.set()
    sampler.join()
    return result, Cost(*cost, max(peak, process.memory_info().rss) - start)


def bare_pass(model: nn.Module, queue: list[Batch]) -> None:
    """One forward and backward per batch, without weight gradients."""
    with reading_only(model), SupervisedLoss(model, "token_sum", "empirical", seed=0).reading() as reader:
        for batch in queue:
            reader.loss(batch).backward()
            reader.gradient_is_finite()


def decompositions(targets: list[Target]) -> dict[str, Spectrum]:
    """The spectrum of every target."""
    return {target.name: decompose(weight_matrix(target)) for target in targets}


def repeat(loaded: LoadedModel, queue: list[Batch], targets: list[Target], config: FarssConfig) -> dict[str, Cost]:
    """The cost of every step, floor and ours, once."""
    _, floor_pass = measured(lambda: bare_pass(loaded.model, queue))
    _, floor_svd = measured(lambda: decompositions(targets))
    curvature, our_pass = measured(lambda: collect(loaded.model, queue, targets))
    spectra, our_svd = measured(lambda: decompositions(targets))
    evidence = Evidence(loaded.fingerprint, lambda target: spectra[target.name], curvature, None)
    _, our_plan = measured(lambda: get_method("farss").plan(targets, evidence, config))
    return {
        "floor pass": floor_pass,
        "floor decompositions": floor_svd,
        "farss pass": our_pass,
        "farss decompositions": our_svd,
        "farss plan": our_plan,
    }


def summarise(repeats: list[dict[str, Cost]]) -> dict[str, Any]:
    """Medians of every step, and the ratios of ours to the floor."""
    steps = {
        step: {part: statistics.median(getattr(one[step], part) for one in repeats) for part in ("wall", "processor")}
        | {"memory": max(one[step].memory for one in repeats)}
        for step in repeats[0]
    }
    ratios = {}
    for part in ("wall", "processor"):
        floor = sum(value[part] for step, value in steps.items() if step.startswith("floor"))
        ours = sum(value[part] for step, value in steps.items() if step.startswith("farss"))
        ratios[part] = ours / floor
        ratios[f"{part}, pass only"] = steps["farss pass"][part] / steps["floor pass"][part]
    return {"steps": steps, "ratios": ratios}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--task", default=DataConfig().task)
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=DataConfig().calibration_rows)
    parser.add_argument("--max-length", type=int, default=DataConfig().max_length)
    parser.add_argument("--batch-tokens", type=int, default=FarssConfig().batch_tokens)
    parser.add_argument("--rank", type=int, default=FarssConfig().rank)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="processor threads; torch's choice by default")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelConfig(name=options.model), dtype=options.dtype)
    rows = load_rows(options.task, "train", data_dir=options.data_dir, limit=options.rows)
    render = formatter(options.task, "auto", loaded.tokenizer)
    examples = encode_rows(rows, loaded.tokenizer, render, options.max_length)
    queue = batches(examples, batch_tokens=options.batch_tokens, pad_id=pad_token(loaded.tokenizer))
    targets = find_targets(loaded.model)
    config = FarssConfig(rank=options.rank)
    bare_pass(loaded.model, queue[-1:])
    collected = collect(loaded.model, queue[-1:], targets)
    report: dict[str, Any] = {
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "device": device() | {"threads": torch.get_num_threads()},
        "versions": versions(),
        "rows": len(examples),
        "tokens": sum(batch.tokens for batch in queue),
        "padded_tokens": sum(batch.input_ids.numel() for batch in queue),
        "targets": len(targets),
        "model_bytes": sum(p.numel() * p.element_size() for p in loaded.model.parameters()),
        "accumulator_bytes": collected.bytes,
    }
    print(", ".join(f"{key} {value}" for key, value in report.items() if key not in ("options", "versions")))
    print("versions:", ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    repeats = []
    for number in range(options.repeats):
        repeats.append(repeat(loaded, queue, targets, config))
        walls = ", ".join(f"{step} {cost.wall:.1f} s" for step, cost in repeats[-1].items())
        print(f"repeat {number + 1}: {walls}", flush=True)
    report |= summarise(repeats) | {"repeats": [{k: vars(v) for k, v in one.items()} for one in repeats]}
    print(f"\n{'step':24}{'wall s':>10}{'processor s':>14}{'memory MB':>12}")
    for step, value in report["steps"].items():
        print(f"{step:24}{value['wall']:10.2f}{value['processor']:14.2f}{value['memory'] / 1e6:12.0f}")
    for part, ratio in report["ratios"].items():
        print(f"ours / floor, {part}: {ratio:.3f}")
    if options.out:
        write_json(options.out, report)
        print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
