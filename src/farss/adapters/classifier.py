"""A classifier's adapter in PEFT's own form, its head in `modules_to_save`; and proof that its encoder is untouched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from farss.adapters.export import ExportReport, export
from farss.adapters.files import WEIGHTS_FILE, write_config
from farss.adapters.layers import base_of
from farss.adapters.trained import original_base
from farss.adapters.verify import check_difference, logits, max_difference, sample_inputs
from farss.errors import NumericalError, PlanError
from farss.model.fingerprints import base_parameters, weight_hash
from farss.model.heads import head_modules, head_parameters
from farss.model.plan import Plan
from farss.storage import new_folder, read_tensors, write_tensors

if TYPE_CHECKING:
    from peft import PeftModel


def export_classifier(model: PeftModel, out: str | Path) -> ExportReport:
    """Write an adapter and the trained head as one PEFT folder, load it with PEFT, and compare the outputs.

    The folder is an ordinary LoRA for sequence classification (`task_type` SEQ_CLS) on the unmodified encoder: stock
    PEFT puts it, head included, on `AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=...)`.

    Args:
        model: a PEFT model of a classifier whose head was trained in place.
        out: a new or empty folder.

    Raises:
        AdapterError: if the adapter cannot take this form.
        NumericalError: if the written files do not reproduce the trained model; nothing is left behind.
        StorageError: if `out` is not empty or cannot be written.
    """
    from peft import PeftConfig, PeftModel

    inner = base_of(model)
    head = {name: parameter.detach() for name, parameter in head_parameters(inner).items()}
    with new_folder(out) as folder:
        report = export(model, folder, "peft")
        tensors, _ = read_tensors(folder / WEIGHTS_FILE)
        # The fingerprint of the base is left out: it covers the head, which everybody's base draws anew.
        saved = {f"base_model.model.{name}": tensor for name, tensor in head.items()}
        write_tensors(folder / WEIGHTS_FILE, {**tensors, **saved}, {"format": "pt"})
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type = "SEQ_CLS"
        config.modules_to_save = list(head_modules(inner))  # type: ignore[attr-defined]  # a LoRA configuration
        write_config(folder, config)
        base = _without_head(original_base(model))
        inputs = sample_inputs(base)
        loaded = PeftModel.from_pretrained(base, str(folder))  # type: ignore[arg-type]  # any nn.Module will do
        difference = max_difference(logits(model, inputs), logits(loaded, inputs))
        check_difference(difference, report.tolerance, out)
    return ExportReport(Path(out), "peft", max(difference, report.max_logit_difference), report.tolerance, report.rank)


def _without_head(base: nn.Module) -> nn.Module:
    """`base` with zeros for a head, so that one that is not loaded shows."""
    with torch.no_grad():
        for parameter in head_parameters(base).values():
            parameter.zero_()
    return base


def encoder_hashes(model: nn.Module) -> dict[str, str]:
    """The exact hash of every parameter of the encoder under its name without adapters; the head is left out."""
    heads = tuple(f"{name}." for name in head_modules(base_of(model)))
    return {name: weight_hash(tensor) for name, tensor in base_parameters(model) if not name.startswith(heads)}


def check_encoder(model: nn.Module, before: dict[str, str]) -> None:
    """Check that the encoder's weights are, bit for bit, what they were.

    Args:
        model: a classifier or a PEFT model of one.
        before: `encoder_hashes` of the classifier before it got an adapter.

    Raises:
        NumericalError: naming weights that differ.
    """
    now = encoder_hashes(model)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise NumericalError(
            "training changed weights of the encoder",
            where=", ".join(changed[:3]),
            got=f"{len(changed)} of {len(before)} tensors",
            do="please report it: an adapter must leave the base as it is",
        )


def check_apart(model: nn.Module, plan: Plan) -> None:
    """Check that no module of the head is adapted: it is trained in full.

    Raises:
        PlanError: naming the modules.
    """
    heads = head_modules(model)
    both = [row.name for row in plan.targets if row.name in heads or row.name.startswith(tuple(f"{h}." for h in heads))]
    if both:
        raise PlanError(
            "a module of the head is to be adapted, and is trained in full",
            where=", ".join(both[:3]),
            do="leave it out with `init.exclude`",
        )
