"""The dtype that farss chooses beside float32 and bfloat16 forced: tokens a second of statistics, evaluation, training.

Each capability of the processor is a process of its own, because oneDNN reads its limit (ONEDNN_MAX_CPU_ISA) once: as
the processor is, and held to AVX2. Inside a process the three dtypes take turns at every piece of work, so that what
slows the machine slows all alike; figures are medians over repeats. `share` is the default's speed over the better of
the two forced ones: at least 0.9 is what the decision promises.

    python benchmarks/arithmetic.py --repeats 3 --out arithmetic.json
    python benchmarks/arithmetic.py --limits AVX2 AVX512_CORE --model smollm2-135m
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from farss.adapters.apply import apply
from farss.config import DataConfig, Dtype, FarssConfig, ModelConfig, Precision, TrainConfig
from farss.datasets.formats import formatter
from farss.datasets.resolve import load_rows
from farss.evaluation.generation import generate_after
from farss.evaluation.likelihood import response_losses
from farss.experiment.environment import device, versions
from farss.experiment.initialisation.planning import take
from farss.methods.statistics import CURVATURE
from farss.model.arithmetic import ISA_LIMIT
from farss.model.calibration import Example, batches, encode_rows, pad_token
from farss.model.plan import Plan, TargetPlan
from farss.model.sources import LoadedModel, load
from farss.model.targets import find_targets
from farss.storage import write_json
from farss.training.sft import train

CASES: dict[str, tuple[Dtype, Precision]] = {
    "default": ("auto", "auto"),
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
}
ENOUGH = 0.9
"""The least share of the better forced dtype's speed that the default must reach."""
AS_IT_IS = "none"
"""The limit of a process whose oneDNN is not held back."""


class Case:
    """One dtype: its model, and the three kinds of work, each of which returns the tokens that went through."""

    def __init__(self, dtype: Dtype, precision: Precision, options: argparse.Namespace) -> None:
        self.loaded = load(ModelConfig(name=options.model, dtype=dtype))
        self.precision, self.options = precision, options
        self.rows = _rows(self.loaded, options)
        self.adapted = apply(copy.deepcopy(self.loaded.model), _plan(self.loaded, options.rank))

    def statistics(self) -> int:
        """The data pass of an initialisation."""
        queue = batches(self.rows[: self.options.rows], batch_tokens=1024, pad_id=pad_token(self.loaded.tokenizer))
        return take(CURVATURE, self.loaded.model, queue, find_targets(self.loaded.model), FarssConfig()).tokens

    def evaluation(self) -> int:
        """Losses of held-out responses, and answers in words."""
        rows = self.rows[: self.options.rows]
        response_losses(self.loaded.model, rows, pad_id=pad_token(self.loaded.tokenizer))
        contexts = [row.prompt_ids for row in rows]
        generate_after(self.loaded.model, self.loaded.tokenizer, contexts, max_new_tokens=8, stop=())
        return sum(map(len, rows)) + sum(map(len, contexts)) + 8 * len(rows)

    def training(self) -> int:
        """Steps of a reference-subtracted adapter on every linear."""
        config = TrainConfig(learning_rate=1e-5, batch_size=self.options.batch, precision=self.precision, dropout=0.0)
        rows = self.rows[: 2 * self.options.batch]
        return train(self.adapted, self.loaded.tokenizer, rows, config, None).tokens


WORK: dict[str, Callable[[Case], int]] = {
    "statistics": Case.statistics,
    "evaluation": Case.evaluation,
    "training": Case.training,
}


def _rows(loaded: LoadedModel, options: argparse.Namespace) -> list[Example]:
    data = DataConfig()
    render = formatter(data.task, "plain", loaded.tokenizer)
    return encode_rows(load_rows(data.task, "train", limit=64), loaded.tokenizer, render, options.length)


def _plan(loaded: LoadedModel, rank: int) -> Plan:
    """Directions at the end of every spectrum: which ones makes no difference to speed."""
    rows = []
    for target in find_targets(loaded.model):
        k = min(target.shape)
        rows.append(TargetPlan(target.name, target.layer, "deep", target.shape, rank, 1.0, tuple(range(k - rank, k))))
    return Plan("farss", "spectral", "reference", loaded.fingerprint, {"seed": 0}, tuple(rows))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of every kind of work and case, in this process."""
    cases = {name: Case(*asked, options) for name, asked in CASES.items()}
    decided = cases["default"].loaded.arithmetic
    assert decided is not None, "farss loaded the model"
    found: dict[str, Any] = {"arithmetic": decided.to_mapping(), "capability": torch.backends.cpu.get_cpu_capability()}
    for kind, work in WORK.items():
        speeds: dict[str, list[float]] = {name: [] for name in cases}
        for repeat in range(options.repeats + 1):  # the first one starts libraries and is not counted
            order = list(cases)[repeat % len(cases) :] + list(cases)[: repeat % len(cases)]
            for name in order:
                started = time.perf_counter()
                tokens = work(cases[name])
                speeds[name].append(tokens / (time.perf_counter() - started))
                print(f"  {kind} {name}: {speeds[name][-1]:,.1f} tokens/s", file=sys.stderr, flush=True)
        medians = {name: statistics.median(each[1:]) for name, each in speeds.items()}
        best = max(medians["float32"], medians["bfloat16"])
        found[kind] = medians | {"share": medians["default"] / best}
    return found


def in_a_process(limit: str) -> dict[str, Any]:
    """`measure` in a process whose oneDNN is held to an instruction set."""
    environment = {name: value for name, value in os.environ.items() if name != ISA_LIMIT}
    if limit != AS_IT_IS:
        environment[ISA_LIMIT] = limit
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        subprocess.run([sys.executable, *sys.argv, "--here", str(out)], env=environment, check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        "| oneDNN held to | work | default is | default | float32 | bfloat16 | share of the better |",
        "|---|---|---|---|---|---|---|",
    ]
    for limit, measured in found.items():
        for kind in WORK:
            row, decided = measured[kind], measured["arithmetic"]
            chosen = decided["training" if kind == "training" else "weights"]
            speeds = " | ".join(f"{row[name]:,.0f}" for name in CASES)
            lines.append(f"| {limit} | {kind} | {chosen} | {speeds} | {row['share']:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure under every limit and print one table; exit code 1 where the default falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limits", nargs="+", default=[AS_IT_IS, "AVX2"], help="values of ONEDNN_MAX_CPU_ISA")
    parser.add_argument("--rows", type=int, default=8, help="rows of a pass of statistics and of evaluation")
    parser.add_argument("--batch", type=int, default=4, help="rows of a training step; a turn is two steps")
    parser.add_argument("--length", type=int, default=256, help="most tokens of a row")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", metavar="FILE", help="JSON with every figure")
    parser.add_argument("--here", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        write_json(Path(options.here), measure(options))
        return 0
    found = {limit: in_a_process(limit) for limit in options.limits}
    machine = device("cpu") | {"threads": torch.get_num_threads()}
    print(f"{machine['name']}, {machine['threads']} threads, {versions()}\n\n{table(found)}")
    for limit, measured in found.items():
        print(f"\noneDNN held to {limit}: because {measured['arithmetic']['reason']}")
    if options.out:
        write_json(Path(options.out), {"machine": machine, "versions": versions(), "limits": found})
    return int(any(measured[kind]["share"] < ENOUGH for measured in found.values() for kind in WORK))


if __name__ == "__main__":
    sys.exit(main())
