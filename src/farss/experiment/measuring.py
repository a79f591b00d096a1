"""Measuring a model at the end of a job: knowledge and task in full, then the scale frontier on fewer rows."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from farss.adapters.update import can_be_scaled, scaled_update
from farss.config import Recipe
from farss.evaluation.backends import Backend, TorchBackend
from farss.evaluation.knowledge import measure_knowledge
from farss.evaluation.records import Measurement
from farss.evaluation.scores import summarise
from farss.evaluation.task import measure_task
from farss.evaluation.window import counting_cuts
from farss.experiment import materials
from farss.experiment.benchmarking import benchmark_samples
from farss.experiment.environment import peak_bytes
from farss.experiment.jobs import Job
from farss.experiment.outputs import rescued
from farss.experiment.progress import ProgressLine
from farss.experiment.serving import served, served_job, served_subject
from farss.experiment.subjects import Subject, tuned_model
from farss.methods import get_method

SAMPLES = "samples.jsonl.gz"
BASE = "base"
VALIDATION = "validation.jsonl.gz"
"""The rows that choose between trials, in a file that no score is taken from."""


def measure_base(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Measure the untouched model; leaves its samples."""
    if recipe.eval.backend == "vllm":
        return _measure_in_full(recipe, served(recipe), folder, BASE)
    loaded = materials.load_model(recipe)
    return _measure_in_full(recipe, TorchBackend(loaded.model, loaded.tokenizer), folder, BASE)


def measure_job(recipe: Recipe, job: Job, trained: Path, folder: Path) -> dict[str, Any]:
    """Measure a trained job as it would be shipped (the exported adapter on the base), and its scale frontier."""
    account: dict[str, Any] = {}
    if recipe.eval.backend == "vllm":
        with served_job(recipe, job, trained) as backend:
            account = _measure_in_full(recipe, backend, folder, job.id)
    loaded = materials.load_model(recipe)
    model, scaled = trained_model(loaded.model, trained, get_method(job.method).trains)
    account = account or _measure_in_full(recipe, TorchBackend(model, loaded.tokenizer), folder, job.id)
    if recipe.select == "validation":
        account |= _measure_validation(recipe, model, loaded.tokenizer, folder, job.id)
    return account | _measure_frontier(recipe, model, scaled, loaded.tokenizer, folder, job.id)


def measure_subject(recipe: Recipe, subject: Subject, folder: Path) -> dict[str, Any]:
    """Measure a model that was trained elsewhere as a job is measured, by the recipe of the run it is put beside."""
    account: dict[str, Any] = {}
    if recipe.eval.backend == "vllm":
        with served_subject(recipe, subject) as backend:
            account = _measure_in_full(recipe, backend, folder, subject.name)
    loaded = materials.load_model(recipe)
    # An adapter may change the base's own weights when it is loaded or merged.
    initial = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    model = tuned_model(recipe, subject, loaded).eval()
    account = account or _measure_in_full(recipe, TorchBackend(model, loaded.tokenizer), folder, subject.name)
    if isinstance(model, PeftModel) and not can_be_scaled(model):
        model = cast("nn.Module", model.merge_and_unload()).eval()  # then its weights can be scaled, as a model's
    elif isinstance(model, PeftModel):
        initial = None
    account |= {"kind": "model" if subject.adapter is None else "adapter"}
    scaled = functools.partial(scaled_update, model, initial=initial)
    return account | _measure_frontier(recipe, model, scaled, loaded.tokenizer, folder, subject.name)


def _measure_frontier(
    recipe: Recipe,
    model: nn.Module,
    scaled: Callable[[float], AbstractContextManager[None]],
    tokenizer: Any,
    folder: Path,
    title: str,
) -> dict[str, Any]:
    """The samples of every scale of the update but 0 and 1."""
    started, backend = time.perf_counter(), TorchBackend(model, tokenizer)
    # The full measurement holds scale 1, and scale 0 is the base by construction (a test of `scaled_update`).
    scales = [scale for scale in recipe.eval.frontier_scales if scale not in (0.0, 1.0)]
    with ProgressLine(f"frontier of {title}") as line:
        for number, scale in enumerate(scales):
            line(number, len(scales), f"scale {scale:g}")
            with scaled(scale):
                measurement = measure(recipe, backend, rows=recipe.eval.frontier_rows, words=False)
            measurement.save(folder / frontier_file(scale))
    return {"frontier_seconds": time.perf_counter() - started, "eval_peak_bytes": peak_bytes()}


def frontier_file(scale: float) -> str:
    """The name of the samples taken with the update times `scale`."""
    return SAMPLES if scale == 1.0 else f"scale-{scale:g}.jsonl.gz"


def trained_model(
    base: nn.Module, trained: Path, trains: str
) -> tuple[nn.Module, Callable[[float], AbstractContextManager[None]]]:
    """The trained model of a job's folder, and the context that multiplies its update by a number.

    Args:
        base: the loaded pre-trained model; an adapter is put around it.
        trained: holds `peft/` (adapter methods) or `model/` (full fine-tuning).
        trains: "adapter" or "weights".
    """
    dtype, device = next(base.parameters()).dtype, next(base.parameters()).device
    if trains == "weights":
        model = AutoModelForCausalLM.from_pretrained(trained / "model", dtype=dtype).eval()
        model.to(device)  # pyright: ignore[reportArgumentType]  # a quirk of its stub
        initial = base.state_dict()
        return model, lambda t: scaled_update(model, t, initial=initial)
    folder = str(trained / "peft")
    # A trained norm is of the size of the weight: rounding it to half precision would weigh more than the update.
    exact = bool(getattr(PeftConfig.from_pretrained(folder), "use_dora", False))
    model = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=exact).eval()
    if not exact:
        model.to(dtype)
    return model, lambda t: scaled_update(model, t)


def measure(
    recipe: Recipe,
    backend: Backend,
    *,
    rows: int | None,
    words: bool,
    task: bool = True,
    progress: ProgressLine | None = None,
) -> Measurement:
    """Knowledge and task samples of one model.

    Args:
        recipe: names the sets and how they are asked.
        backend: the model.
        rows: at most this many per set, the first ones; None for all the recipe asks for.
        words: also let the model answer, benchmarks too, and score choices; otherwise likelihoods only.
        task: also measure the task.
        progress: told how far it is.
    """
    settings = recipe.eval
    benchmarks = settings.benchmarks if task and words else ()
    portions = progress and Portions(progress, 1 + task + len(benchmarks))
    with torch.inference_mode():
        knowledge = measure_knowledge(
            backend,
            materials.knowledge_sets(recipe, rows),
            generate=words,
            choices=words,
            batch_tokens=settings.batch_tokens,
            progress=portions and portions.part(0),
        )
        solved = []
        if task:
            solved = measure_task(
                backend,
                materials.test_set(recipe, backend.tokenizer, rows),
                generate_rows=settings.generate_rows if words and not benchmarks else 0,
                max_new_tokens=settings.max_new_tokens,
                batch_tokens=settings.batch_tokens,
                progress=portions and portions.part(1),
            )
        for place, name in enumerate(benchmarks, start=2):
            solved += benchmark_samples(recipe, backend, name, portions and portions.part(place))
    return Measurement(knowledge=knowledge, task=solved)


@dataclass(frozen=True)
class Portions:
    """One progress line shared by several pieces of work that follow each other."""

    line: ProgressLine
    parts: int

    def part(self, number: int) -> Callable[[int, int], None]:
        """The progress callback of one piece."""
        return lambda done, total: self.line(number + done / max(total, 1), self.parts)


def _measure_in_full(recipe: Recipe, backend: Backend, folder: Path, title: str) -> dict[str, Any]:
    started = time.perf_counter()
    with counting_cuts() as cut, ProgressLine(f"evaluating {title}") as line:
        measurement = measure(recipe, backend, rows=None, words=True, progress=line)
    with rescued({"measured": title, "scores": summarise(measurement)}):
        measurement.save(folder / SAMPLES)
    rows = materials.measured_rows(recipe, backend.tokenizer)
    seconds = time.perf_counter() - started
    return {"eval_seconds": seconds, "eval_peak_bytes": peak_bytes(), "rows": rows, "cut": cut}


def _measure_validation(recipe: Recipe, model: nn.Module, tokenizer: Any, folder: Path, title: str) -> dict[str, Any]:
    """Likelihoods on the rows that choose between trials; leaves their samples."""
    started = time.perf_counter()
    with ProgressLine(f"validating {title}") as line, torch.inference_mode():
        samples = measure_task(
            TorchBackend(model, tokenizer),
            materials.validation_set(recipe, tokenizer),
            generate_rows=0,
            max_new_tokens=recipe.eval.max_new_tokens,
            batch_tokens=recipe.eval.batch_tokens,
            progress=line,
        )
    measurement = Measurement(task=samples)
    measurement.save(folder / VALIDATION)
    seconds = time.perf_counter() - started
    return {"validation_loss": measurement.task_loss, "validation_rows": len(samples), "validation_seconds": seconds}
