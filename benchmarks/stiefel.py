"""What keeping factors orthonormal costs: its share of a FoRA training step, per way of stepping.

A training step is forward and backward passes over `--batch-size` rows of `--length` random tokens in micro-batches,
clipping and AdamW; the time between the hooks around `hold_factors_` is the Stiefel part of it. Adapters are on the
first half of the layers (which ones makes no difference to speed). Figures are medians over `--steps`;
`error` is the largest `||X'X - I||` at the end.

    python benchmarks/stiefel.py --model smollm2-135m --rank 32 --out stiefel.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farss.adapters.apply import apply
from farss.adapters.gated import constrained_factors
from farss.config import FarssConfig, ModelConfig
from farss.experiment.environment import device, versions
from farss.maths.stiefel import orthogonality_error
from farss.methods.fora.aid import hold_factors_
from farss.methods.fora.method import top_layers
from farss.methods.fora.settings import ForaConfig
from farss.model.plan import Plan, TargetPlan
from farss.model.sources import LoadedModel, load
from farss.model.targets import find_targets
from farss.storage import write_json

CASES = {
    "polar": ForaConfig(retraction="polar"),
    "qr": ForaConfig(retraction="qr"),
    "cayley-adam": ForaConfig(optimizer="cayley_adam"),
}
WARM_UP_STEPS = 2
MOST_ALLOWED = 0.15
"""Share of a training step that the Stiefel part may take."""


class Stopwatch:
    """Seconds spent between pairs of moments, the device's queue emptied at each."""

    def __init__(self, on: torch.device) -> None:
        self.on, self.started, self.seconds = on, 0.0, 0.0

    def start(self, *_: Any) -> None:
        """Begin an interval."""
        self._settle()
        self.started = time.perf_counter()

    def stop(self, *_: Any) -> None:
        """End it, adding to the sum."""
        self._settle()
        self.seconds += time.perf_counter() - self.started

    def read(self) -> float:
        """The sum so far, which begins again at zero."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _settle(self) -> None:
        if self.on.type == "cuda":
            torch.cuda.synchronize(self.on)


def plan_for(loaded: LoadedModel, fora: ForaConfig, rank: int) -> Plan:
    """FoRA's plan with equal scores for all layers."""
    targets = find_targets(loaded.model)
    layers = top_layers({t.layer: 0.0 for t in targets if t.layer is not None}, fora.rho)
    rows = tuple(
        TargetPlan(t.name, t.layer, "deep", t.shape, min(rank, *t.shape), 1.0) for t in targets if t.layer in layers
    )
    settings = FarssConfig(rank=rank, own=(fora,)).to_mapping()
    return Plan("fora", "constrained", "reference", loaded.fingerprint, settings, rows)


def timed_optimizer(model: nn.Module, watch: Stopwatch, rate: float) -> torch.optim.Optimizer:
    """AdamW on the adapter, its factors held, with the stopwatch around both hooks of `hold_factors_`."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    optimizer.register_step_pre_hook(watch.start)
    optimizer.register_step_post_hook(watch.start)
    hold_factors_(model, optimizer)
    optimizer.register_step_pre_hook(watch.stop)
    optimizer.register_step_post_hook(watch.stop)
    return optimizer


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step and of its Stiefel part, and how orthonormal the factors are at the end."""
    loaded = load(ModelConfig(name=options.model), dtype=options.dtype, device=options.device)
    model = apply(loaded.model, plan_for(loaded, CASES[case], options.rank), seed=0).train()
    on = next(model.parameters()).device
    part, whole = Stopwatch(on), Stopwatch(on)
    optimizer = timed_optimizer(model, part, options.learning_rate)
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # a transformers model
    generator = torch.Generator().manual_seed(0)
    steps, parts = [], []
    for _ in range(WARM_UP_STEPS + options.steps):
        ids = torch.randint(vocabulary, (options.batch_size, options.length), generator=generator).to(on)
        whole.start()
        for rows in ids.split(options.micro_batch_size or options.batch_size):
            (model(input_ids=rows, labels=rows).loss * len(rows) / len(ids)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        whole.stop()
        steps.append(whole.read())
        parts.append(part.read())
    held = constrained_factors(model)
    return {
        "step_seconds": statistics.median(steps[WARM_UP_STEPS:]),
        "stiefel_seconds": statistics.median(parts[WARM_UP_STEPS:]),
        "share": statistics.median(p / s for p, s in zip(parts[WARM_UP_STEPS:], steps[WARM_UP_STEPS:], strict=True)),
        "factors": len(held),
        "orthogonality_error": max(orthogonality_error(factor.point()) for factor in held.values()),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--length", type=int, default=256, help="tokens per row")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
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
    }
    for title in ("versions", "device"):
        print(f"{title}:", ", ".join(f"{name} {value}" for name, value in report[title].items()))
    print(f"\n{'stepping':14}{'factors':>8}{'step s':>10}{'stiefel s':>11}{'share':>8}{'allowed':>9}{'error':>12}")
    report["cases"] = {}
    for case in options.cases:
        report["cases"][case] = one = measure(case, options)
        print(
            f"{case:14}{one['factors']:8}{one['step_seconds']:10.4f}{one['stiefel_seconds']:11.4f}"
            f"{one['share']:8.1%}{MOST_ALLOWED:9.0%}{one['orthogonality_error']:12.1e}",
            flush=True,
        )
    if options.out:
        write_json(options.out, report)
        print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
