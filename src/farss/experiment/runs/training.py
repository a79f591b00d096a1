"""The stage of a run that trains one of its jobs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farss.adapters.apply import apply
from farss.adapters.export import export
from farss.adapters.files import load_adapter
from farss.config import Recipe
from farss.experiment import materials
from farss.experiment.environment import device, peak_bytes
from farss.experiment.fitting import ADAPTER, Rows, fit, keep_learned, training_account
from farss.experiment.initialisation.planning import spectrum_folder
from farss.experiment.jobs import Job
from farss.experiment.pinned import start_of
from farss.methods import get_method
from farss.model.plan import Plan
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache


def train_job(recipe: Recipe, job: Job, plans: Path, folder: Path) -> dict[str, Any]:
    """Train one job; leaves `adapter/` (all that is needed to go on) and `peft/` (plain LoRA), or `model/`.

    Args:
        recipe: of the job.
        job: method, learning rate and seed.
        plans: the folder of the plans, each under the name of its job's.
        folder: receives what was learned.

    Returns:
        What it took and how it went, JSON-ready.
    """
    loaded, trains = materials.load_model(recipe), get_method(job.method).trains
    rows = Rows.of(recipe, loaded.tokenizer)
    config = dataclasses.replace(recipe.train, learning_rate=job.learning_rate, seed=job.seed)
    started = time.perf_counter()
    model, learned = _start(recipe, job, loaded, plans) if job.adapts else (loaded.model, None)
    seconds = time.perf_counter() - started if job.adapts else 0.0
    report = fit(
        model, loaded.tokenizer, rows, config, folder / "checkpoints", title=f"training {job.id}", trains=trains
    )
    if learned is None:
        learned = sum(p.numel() for p in model.parameters())
        model.to(loaded.dtype)
    keep_learned(recipe, model, loaded.tokenizer, folder, trains)
    account = training_account(report)
    return {
        "apply_seconds": seconds,
        "trainable_params": learned,
        "rows": rows.account,
        **account,
        "train_peak_bytes": max(report.peak_bytes, peak_bytes()),
        "machine": device(recipe.device) | {"threads": torch.get_num_threads()},
        **(_export(recipe, model, loaded, folder) if job.adapts else {}),
    }


def _start(recipe: Recipe, job: Job, loaded: LoadedModel, plans: Path) -> tuple[nn.Module, int]:
    """The model with the adapter of the job's plan or of the folder it starts from, and how many numbers it trains."""
    given, dropout = start_of(recipe, job.method), recipe.train.dropout
    plan = Plan.load(plans / f"{job.plan_name}.json", start=given is None)
    if given is not None:
        folder, known = given.folder / ADAPTER, loaded.fingerprint
        model = load_adapter(loaded.model, folder, dropout=dropout, trainable=True, fingerprint=known)
        return model, plan.trainable_parameters
    cache = SpectrumCache(spectrum_folder())
    model = apply(
        loaded.model,
        plan,
        lambda target: cache.get(target, recipe.init.route),
        dropout=dropout,
        seed=job.seed,
        fingerprint=loaded.fingerprint,
    )
    return model, plan.trainable_parameters


def _export(recipe: Recipe, model: Any, loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    """Write the adapter as a plain LoRA, which is measured; how far its outputs are from the trained model's."""
    taught = materials.taught(recipe, loaded.tokenizer)
    checked = export(model, folder / "peft", to="peft", tokenizer=loaded.tokenizer, taught=taught)
    return {"export_max_logit_difference": checked.max_logit_difference}
