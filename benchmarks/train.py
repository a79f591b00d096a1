"""Speed and memory of training steps, side by side: the same rows in the same order, a step of each training in turn.

`stock lora` is PEFT's LoRA under transformers' Trainer as it comes (bfloat16 mode, labels given to the model, random
batches). By `farss.training.sft.train`: `lora` is the same adapter, `farss` the reference-subtracted adapter
of the same rank, `farss residual` one adapter beside the changed base, and `full` all weights.

Each training has a process of its own, so peak memory is its own. All are in memory at once, and one works at a time:
after a step it waits until each of the others has done one, and who goes first changes from step to step. So steps
that are compared lie seconds apart, each behind a step of another training, and a machine that slows down slows all
alike. The trainings by farss see the same batches in the same order, so step i of one is compared with step i of
`lora`: `step ratio` is the median of these ratios over the steps of a repeat, and of that the median over repeats; a
stall of single steps does not move it. Other figures are medians over repeats, and their ratios are to those of `lora`.

    python benchmarks/train.py --task gsm8k --data-dir DATA --steps 20 --repeats 3 --out train.json
    python benchmarks/train.py --task gsm8k --data-dir DATA --steps 20 --cases "stock lora" lora full   # 18 GB
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farss.adapters.apply import apply
from farss.config import DataConfig, ModelConfig, TrainConfig
from farss.datasets.formats import formatter
from farss.datasets.resolve import load_rows
from farss.experiment.environment import device, versions
from farss.model.calibration import Example, encode_rows, pad_token
from farss.model.plan import Plan, TargetPlan
from farss.model.sources import LoadedModel, load
from farss.model.targets import find_targets
from farss.storage import write_json
from farss.training.batching import PaddedBatch
from farss.training.memory import PeakMemory
from farss.training.sft import train

CASES = ("lora", "farss", "farss residual", "full", "stock lora")
WARM_UP_STEPS = 2
PLAN_KINDS = {
    "lora": ("random", "residual"),
    "stock lora": ("random", "residual"),
    "farss": ("spectral", "reference"),
    "farss residual": ("spectral", "residual"),
}
MOST_ALLOWED = {"farss": 1.12, "farss residual": 1.02}
"""Time of a step over that of a step of `lora` which each form may take."""
JUDGED = ("lora", *MOST_ALLOWED)


class Clock:
    """Wall and processor seconds of every step; between two steps the process waits for its turn."""

    def __init__(self, turns: Connection) -> None:
        self.turns = turns
        self.began: list[tuple[float, float]] = []
        self.ended: list[tuple[float, float]] = []

    def wait(self) -> None:
        """Come back when it is this process's turn."""
        self.turns.recv()
        self.began.append((time.perf_counter(), time.process_time()))

    def tick(self, *_: object) -> None:
        """Note that a step has ended, and let the others have theirs."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ended.append((time.perf_counter(), time.process_time()))
        self.turns.send(None)
        self.wait()

    def seconds(self) -> tuple[list[float], list[float]]:
        """Wall and processor seconds of every step after the first ones, which warm up."""
        # The first turn loads the model and makes the first step, and the last begins after the last step.
        steps = list(zip(self.began[:-1], self.ended, strict=True))[WARM_UP_STEPS:]
        wall = [end[0] - start[0] for start, end in steps]
        return wall, [end[1] - start[1] for start, end in steps]


def plan_for(case: str, loaded: LoadedModel, rank: int) -> Plan:
    """An adapter on every linear; which directions it starts from makes no difference to speed: the last ones."""
    initialisation, base = PLAN_KINDS[case]
    rows = []
    for target in find_targets(loaded.model):
        k = min(target.shape)
        indices = tuple(range(k - min(rank, k), k)) if initialisation == "spectral" else None
        rows.append(TargetPlan(target.name, target.layer, "deep", target.shape, min(rank, k), 1.0, indices))
    return Plan(case, initialisation, base, loaded.fingerprint, {"seed": 0}, tuple(rows))  # type: ignore[arg-type]


def adapted(case: str, loaded: LoadedModel, options: argparse.Namespace) -> nn.Module:
    """The model that `case` trains."""
    if case == "full":
        return loaded.model
    return apply(loaded.model, plan_for(case, loaded, options.rank), dropout=options.dropout)


def stock_training(
    model: nn.Module, loaded: LoadedModel, rows: list[Example], config: TrainConfig, clock: Clock
) -> int:
    """Train as transformers' Trainer does on its own; returns the peak of memory in bytes."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=config.micro_batch_size or config.batch_size,
            gradient_accumulation_steps=config.batch_size // (config.micro_batch_size or config.batch_size),
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            bf16=config.precision != "float32",
            use_cpu=next(model.parameters()).device.type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=config.seed,
        )
        collate = PaddedBatch(pad_token(loaded.tokenizer), multiple=1)
        trainer = Trainer(
            model=model,  # type: ignore[arg-type]
            args=args,
            data_collator=collate,  # type: ignore[arg-type]
            train_dataset=rows,  # type: ignore[arg-type]
            callbacks=[Ticks()],
        )
        trainer.remove_callback(PrinterCallback)
        memory = PeakMemory(args.device)
        trainer.train()
        return memory.bytes()


def measure(case: str, options: argparse.Namespace, turns: Connection) -> None:
    """Train `case` in this process, a step whenever it is its turn, and send its figures."""
    clock = Clock(turns)
    clock.wait()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelConfig(name=options.model), dtype=options.dtype, device=options.device)
    config = TrainConfig(
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    rows = load_rows(options.task, "train", data_dir=options.data_dir, limit=options.steps * options.batch_size, seed=0)
    examples = encode_rows(
        rows, loaded.tokenizer, formatter(options.task, "auto", loaded.tokenizer), options.max_length
    )
    model = adapted(case, loaded, options)
    if case == "stock lora":
        peak, loss = stock_training(model, loaded, examples, config, clock), None
    else:
        trains = "weights" if case == "full" else "adapter"
        report = train(model, loaded.tokenizer, examples, config, None, trains=trains, progress=clock.tick)
        peak, loss = report.peak_bytes, report.curve[-1][1]
    wall, processor = clock.seconds()
    # Batches differ between trainings, so the tokens of the steps timed are taken as their share of all tokens.
    tokens = sum(len(example) for example in examples) * len(wall) / len(clock.ended)
    turns.send(
        {
            "tokens_per_second": tokens / sum(wall),
            "tokens_per_processor_second": tokens / sum(processor),
            "peak_bytes": peak,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "last_loss": loss,
            "steps": len(wall),
            "step_seconds": wall,
            "same_batches": case != "stock lora",
            "device": device() | {"threads": torch.get_num_threads()},
        }
    )


def side_by_side(cases: Sequence[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of each of `cases`, from processes of their own that take turns step by step."""
    context = multiprocessing.get_context("spawn")
    waiting: dict[str, Connection] = {}
    processes = []
    for case in cases:
        waiting[case], turns = context.Pipe()
        processes.append(context.Process(target=measure, args=(case, options, turns), daemon=True))
        processes[-1].start()
        turns.close()
    found: dict[str, dict[str, Any]] = {}
    order = list(cases)
    while waiting:
        for case in order:
            try:
                waiting[case].send(None)
                figures = waiting[case].recv()
            except (EOFError, ConnectionError):
                raise SystemExit(f"the training `{case}` failed") from None
            if figures is not None:
                found[case] = figures
                del waiting[case]
        order = [case for case in (*order[1:], order[0]) if case in waiting]
    for process in processes:
        process.join()
    return {case: found[case] for case in cases}


def step_ratio(case: str, repeats: list[dict[str, dict[str, Any]]]) -> float | None:
    """The time of a step over that of the same step of `lora`; None where their batches are not the same."""
    if "lora" not in repeats[0] or not repeats[0][case]["same_batches"]:
        return None
    pairs = [zip(one[case]["step_seconds"], one["lora"]["step_seconds"], strict=True) for one in repeats]
    return statistics.median(statistics.median(ours / plain for ours, plain in steps) for steps in pairs)


def summarise(repeats: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Medians per case, and ratios of speed, of step time and of memory to `lora`."""
    parts = ("tokens_per_second", "tokens_per_processor_second", "peak_bytes")
    medians = {
        case: {part: statistics.median(one[case][part] for one in repeats) for part in parts} for case in repeats[0]
    }
    base = medians.get("lora")
    return {
        case: {
            **values,
            **({f"ratio_{part}": values[part] / base[part] for part in parts} if base else {}),
            "ratio_step_seconds": step_ratio(case, repeats),
            "most_allowed": MOST_ALLOWED.get(case),
        }
        for case, values in medians.items()
    }


def show(medians: dict[str, dict[str, float | None]]) -> None:
    """Print the table; a dash where a figure does not exist."""
    columns = {
        "tokens/s": ("tokens_per_second", ".0f"),
        "ratio": ("ratio_tokens_per_second", ".2f"),
        "per cpu s": ("tokens_per_processor_second", ".0f"),
        "cpu ratio": ("ratio_tokens_per_processor_second", ".2f"),
        "step ratio": ("ratio_step_seconds", ".3f"),
        "allowed": ("most_allowed", ".2f"),
        "peak bytes": ("peak_bytes", ".3g"),
        "peak ratio": ("ratio_peak_bytes", ".2f"),
    }
    print(f"\n{'training':15}" + "".join(f"{title:>11}" for title in columns))
    for case, values in medians.items():
        found = [(values.get(key), form) for key, form in columns.values()]
        print(f"{case:15}" + "".join(f"{'-' if v is None else format(v, form):>11}" for v, form in found))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "auto"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--task", default=DataConfig().task)
    parser.add_argument("--data-dir")
    parser.add_argument("--max-length", type=int, default=DataConfig().max_length)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--cases", nargs="+", default=list(JUDGED), choices=CASES)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, help="processor threads; torch's choice by default")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    if options.steps <= WARM_UP_STEPS:
        raise SystemExit(f"--steps must be more than {WARM_UP_STEPS}, which are not timed")
    report: dict[str, Any] = {
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "versions": versions(),
    }
    print("versions:", ", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    repeats = []
    for number in range(options.repeats):
        repeats.append(side_by_side(options.cases if number % 2 == 0 else options.cases[::-1], options))
        for case, one in repeats[-1].items():
            print(
                f"repeat {number + 1}, {case}: {one['tokens_per_second']:.0f} tokens/s, "
                f"{one['tokens_per_processor_second']:.0f} per processor second, {one['peak_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
    report |= {"device": next(iter(repeats[0].values()))["device"], "medians": summarise(repeats), "repeats": repeats}
    print("machine:", ", ".join(f"{key} {value}" for key, value in report["device"].items()))
    show(report["medians"])
    if options.out:
        write_json(options.out, report)
        print(f"figures in {options.out}")


if __name__ == "__main__":
    main()
