"""vLLM behind a measurement: the base model, an adapter on it, or a whole model, each given to it as a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from peft import PeftModel
from torch import nn

from farss.adapters.export import export
from farss.adapters.files import load_adapter
from farss.config import Recipe
from farss.errors import ConfigError
from farss.evaluation.vllm_backend import VllmBackend
from farss.experiment import materials
from farss.experiment.fitting import ADAPTER
from farss.experiment.jobs import Job
from farss.experiment.subjects import Subject, tuned_model
from farss.methods import get_method
from farss.methods.forms import form_of_method
from farss.model.sources import resolve


def check_served(recipe: Recipe) -> None:
    """Refuse settings that vLLM has no choice in.

    Raises:
        ConfigError: if a device is named.
    """
    if recipe.device != "auto":
        raise ConfigError(
            "vLLM is built for one kind of device and takes that",
            where="eval.backend: vllm",
            expected="device auto",
            got=recipe.device,
            do="choose among several GPUs with CUDA_VISIBLE_DEVICES, or leave --backend out",
        )


def served(recipe: Recipe, adapter: Path | None = None, model: str | Path | None = None) -> VllmBackend:
    """A model as vLLM serves it.

    Args:
        recipe: names the base model.
        adapter: a folder of one rank and scale for all modules; None for the model alone.
        model: a folder in place of the base model.

    Raises:
        ConfigError: if vLLM is not installed.
        AdapterError: if vLLM cannot serve the adapter.
    """
    return VllmBackend(
        str(model or resolve(recipe.model.name, recipe.model.revision)),
        adapter,
        dtype="auto" if recipe.model.dtype == "checkpoint" else recipe.model.dtype,
        ends=lambda tokenizer: materials.learned_ends(recipe, tokenizer).tokens,
        seed=recipe.eval.seed,
        trust_remote_code=recipe.model.trust_remote_code,
    )


@contextmanager
def served_job(recipe: Recipe, job: Job, trained: Path) -> Iterator[VllmBackend]:
    """A trained job: its adapter in the form that servers read, or the whole model where its change has full rank.

    Args:
        recipe: of the job.
        job: which was trained.
        trained: the folder of its training.
    """
    method = get_method(job.method)
    if method.trains == "weights":
        yield served(recipe, model=trained / "model")
        return
    loaded = materials.load_model(recipe)
    form = form_of_method(method)
    whole = form is not None and not form.low_rank
    with TemporaryDirectory(prefix="farss-served-") as place:
        folder = Path(place, "served")
        source = trained / ADAPTER
        if whole:
            model = load_adapter(loaded.model, source, fingerprint=loaded.fingerprint)
            _keep(_merged(model), loaded.tokenizer, folder)
        else:
            export(source, folder, to="portable", base=loaded.model)
        del loaded
        yield served(recipe, model=folder) if whole else served(recipe, folder)


@contextmanager
def served_subject(recipe: Recipe, subject: Subject) -> Iterator[VllmBackend]:
    """A model that was trained elsewhere: an adapter of any kind is merged first."""
    if subject.finetuned is not None:
        yield served(recipe, model=resolve(subject.finetuned))
        return
    loaded = materials.load_model(recipe)
    with TemporaryDirectory(prefix="farss-served-") as place:
        _keep(_merged(tuned_model(recipe, subject, loaded)), loaded.tokenizer, Path(place, "served"))
        del loaded
        yield served(recipe, model=Path(place, "served"))


def _merged(model: nn.Module) -> nn.Module:
    return cast("nn.Module", model.merge_and_unload()) if isinstance(model, PeftModel) else model


def _keep(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
