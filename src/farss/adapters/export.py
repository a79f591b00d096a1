"""A trained adapter as files that other tools load, each checked against the trained model after writing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from farss.adapters.accounting import changed_weights
from farss.adapters.configs import RankAndScale, lora_config, name_shortly_
from farss.adapters.factors import Factors, add_to_weight_, shift_weight_, weight_of
from farss.adapters.files import load_adapter, write_lora_folder
from farss.adapters.layers import lora_layers
from farss.adapters.magnitude import change_mismatch, has_magnitudes, magnitudes, weight_changes
from farss.adapters.provenance import provenance_of
from farss.adapters.trained import (
    Update,
    adapter_factors,
    contributing,
    initial_part,
    original_base,
    trained_part,
    trained_updates,
    update_mismatch,
)
from farss.adapters.verify import (
    UPDATE_TOLERANCE,
    check_difference,
    logits,
    max_difference,
    sample_inputs,
    tolerance,
)
from farss.errors import AdapterError, StorageError
from farss.maths.recompress import recompress
from farss.model.ends import Taught, stop_at_
from farss.storage import new_folder

if TYPE_CHECKING:
    from peft import PeftModel

Form = Literal["peft", "portable", "merged", "residual"]
FORMS: tuple[Form, ...] = ("peft", "portable", "merged", "residual")
RESIDUAL_BASE = "base"
NOTABLE_LOSS = 0.1
"""The share of a training's change that rounding may take from merged weights before a warning says so."""


class MergeWarning(UserWarning):
    """Merged weights have lost part of what training changed."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it reproduces the trained model.

    Attributes:
        path: the folder.
        form: "peft", "portable", "merged" or "residual".
        max_logit_difference: between the trained model and the written files loaded by PEFT or transformers.
        tolerance: what was allowed; None where a truncation was asked for, whose effect is reported but not refused.
        rank: largest rank of a module, None for merged weights.
        recompression_error: relative Frobenius error over all modules of the truncation, None without one.
        share_of_change: `max_logit_difference` as a share of what training changed of the same logits; None where it
            changed nothing.
        lost: what rounding to the dtype of merged weights leaves out of the change of the weights, as a share of it
            (relative Frobenius norm over all modules); None for adapters.
    """

    path: Path
    form: Form
    max_logit_difference: float
    tolerance: float | None
    rank: int | None
    recompression_error: float | None = None
    share_of_change: float | None = None
    lost: float | None = None


def export(
    source: nn.Module | str | Path,
    out: str | Path,
    to: Form = "peft",
    *,
    base: nn.Module | None = None,
    tokenizer: Any = None,
    sample: Tensor | Mapping[str, Tensor] | None = None,
    rank: int | None = None,
    weights: torch.dtype | None = None,
    taught: Taught | None = None,
) -> ExportReport:
    """Write a trained adapter for use elsewhere, load what was written on the original base, and compare the outputs.

    `peft`: an ordinary LoRA on the unmodified base, of rank 2r per module with its scale unchanged.
    `portable`: the same for servers that read one rank and one scale: scales folded into B, alpha = r, ranks padded
    with zeros, no patterns; with `rank`, recompressed to it. `merged`: a full model, `W + s (B A - B0 A0)` computed in
    float32 and cast once. `residual`: the published form, an adapter of rank r beside a changed base in `base/`.

    DoRA's change has full rank: `peft` writes it as PEFT's DoRA, and `portable` needs `rank`.

    Args:
        source: a PEFT model, which is not changed, or a folder of `save_adapter`.
        out: a new or empty folder.
        to: the form.
        base: the original base model, which is not changed; needed for a folder, else taken from `source`.
        tokenizer: written beside full models.
        sample: inputs of the comparison, token ids [b, t] or keyword inputs; None draws random tokens.
        rank: only for `portable`: the rank to recompress every module to.
        weights: only for `merged` and `residual`: the dtype that whole models are written in; None is the base's own,
            which may have been loaded in a wider one to compute in.
        taught: tokens at which the model is to stop writing and the chat template it is to be asked in, written into
            what is exported, beside an adapter too; None leaves both as they are.

    Raises:
        AdapterError: if the form is unknown or the adapter cannot take it.
        NumericalError: if the written files do not reproduce the trained model; nothing is left behind.
        StorageError: if `out` is not empty or cannot be written.
    """
    if to not in FORMS:
        raise AdapterError("unknown form", expected=", ".join(FORMS), got=repr(to))
    if rank is not None and to != "portable":
        raise AdapterError("only the portable form is recompressed to a rank", got=f"--to {to}, rank {rank}")
    model = _trained(source, base)
    original = original_base(model) if base is None else copy.deepcopy(base)
    taught = taught or Taught()
    stop_at_(original, taught.ends)
    inputs = sample_inputs(original, sample)
    expected = logits(model, inputs)
    change = max_difference(expected, logits(original, inputs))
    with new_folder(out) as folder:
        written = _write(model, original, folder, to, taught.asking(tokenizer), rank, weights)
        if to in ("peft", "portable"):
            taught.write_beside(original, folder)
        loaded = _reload(original, folder, to)
        difference = max_difference(expected, logits(loaded, inputs))
        allowed = None if written.truncated else tolerance(expected, weights or _coarsest(model))
        check_difference(difference, allowed, out)
        if to != "merged" and not written.truncated:
            check_difference(_mismatch(model, loaded, to), UPDATE_TOLERANCE, out, "updates")  # type: ignore[arg-type]  # PEFT loaded it
    _warn_of_loss(written.lost, out)
    share = difference / change if change > 0 else None
    return ExportReport(Path(out), to, difference, allowed, written.rank, written.error, share, written.lost)


@dataclass(frozen=True)
class _Written:
    rank: int | None = None
    error: float | None = None
    truncated: bool = False
    lost: float | None = None


def _trained(source: nn.Module | str | Path, base: nn.Module | None) -> PeftModel:
    from peft import PeftModel

    if isinstance(source, PeftModel):
        return source
    if isinstance(source, nn.Module):
        raise AdapterError("the model carries no adapter", do="pass the PEFT model that `farss.apply` returned")
    if base is None:
        raise AdapterError("an adapter folder needs its base model", where=source, do="pass `base`")
    return load_adapter(copy.deepcopy(base), source, trainable=False)


def _check_products(model: PeftModel, to: Form) -> None:
    """Check that products BA on the user's base are all that the adapter changes; merged weights may hold more.

    Raises:
        AdapterError: naming the weights of the base that it changes beside them.
    """
    beside = changed_weights(model) if to != "merged" else []
    if beside:
        raise AdapterError(
            "the adapter changes weights of the base beside its products, and an exported LoRA would lose them",
            where=f"--to {to}",
            got=f"{len(beside)} weights: {', '.join(beside[:3])}",
            do="use `--to merged`, which writes them, or give the adapter away as PEFT saved it",
        )


def _warn_of_loss(lost: float | None, out: str | Path) -> None:
    if lost is not None and lost > NOTABLE_LOSS:
        warnings.warn(
            f"{out}: rounding the merged weights loses {lost:.0%} of what training changed; "
            "write them in float32 (`--dtype float32`), or export the adapter (`--to peft`, `--to portable`)",
            MergeWarning,
            stacklevel=3,
        )


def _write(
    model: PeftModel,
    original: nn.Module,
    folder: Path,
    to: Form,
    tokenizer: Any,
    rank: int | None,
    weights: torch.dtype | None,
) -> _Written:
    _check_products(model, to)
    if to == "peft":
        return _write_peft(model, original, folder)
    if to == "portable":
        return _write_portable(model, original, folder, rank)
    if to == "merged":
        return _write_merged(model, original, folder, tokenizer, weights)
    return _write_residual(model, original, folder, tokenizer, weights)


def _mismatch(model: PeftModel, loaded: PeftModel, to: Form) -> float:
    if has_magnitudes(loaded):
        return change_mismatch(model, loaded)
    wanted = trained_part(model) if to == "residual" else dict(_one_by_one(model))
    return update_mismatch(wanted, trained_updates(loaded))


def _write_peft(model: PeftModel, original: nn.Module, folder: Path) -> _Written:
    if has_magnitudes(model):
        return _write_dora(model, original, folder)
    updates = trained_updates(model)
    modules = {name: RankAndScale(update.rank, update.scale) for name, update in updates.items()}
    config = lora_config(original, modules, inference=True)
    write_lora_folder(folder, config, {name: update.factors for name, update in updates.items()}, _fingerprint(model))
    return _Written(max(entry.rank for entry in modules.values()))


def _write_dora(model: PeftModel, original: nn.Module, folder: Path) -> _Written:
    """DoRA as it is trained: PEFT's own form, on the original base."""
    norms, (adapter,) = magnitudes(model), contributing(model)
    updates = {
        name: Update(adapter_factors(layer, adapter), layer.scaling[adapter])
        for name, layer in lora_layers(model).items()
        if name in norms
    }
    modules = {name: RankAndScale(update.rank, update.scale) for name, update in updates.items()}
    config = lora_config(original, modules, inference=True, use_dora=True)
    factors = {name: update.factors for name, update in updates.items()}
    write_lora_folder(folder, config, factors, _fingerprint(model), norms)
    return _Written(max(entry.rank for entry in modules.values()))


def _write_portable(model: PeftModel, original: nn.Module, folder: Path, rank: int | None) -> _Written:
    if rank is not None and rank < 1:
        raise AdapterError("the rank must be at least 1", got=rank)
    if has_magnitudes(model) and rank is None:
        raise AdapterError(
            "the change that DoRA makes has full rank and is no plain LoRA",
            where="--to portable",
            do="name a rank to recompress it to (the error is reported), or use `--to merged` or `--to peft`",
        )
    if rank is None:
        updates = trained_updates(model)
        wanted = max(update.rank for update in updates.values())
        factors, error, truncated = _folded(updates, wanted), None, False
    else:
        wanted, (factors, error, truncated) = rank, _recompressed(_one_by_one(model), rank)
    config = lora_config(original, {name: RankAndScale(wanted, 1.0) for name in factors}, inference=True)
    name_shortly_(config, original, list(factors))
    write_lora_folder(folder, config, factors, _fingerprint(model), lean=True)
    return _Written(wanted, error, truncated)


def _one_by_one(model: PeftModel) -> Iterator[tuple[str, Update]]:
    """The updates of all modules; those of DoRA are formed one after the other, as products with an identity."""
    if not has_magnitudes(model):
        yield from trained_updates(model).items()
        return
    for name, change in weight_changes(model):
        m, n = change.shape
        same = torch.eye(min(m, n), dtype=change.dtype, device=change.device)
        yield name, Update(Factors(change, same) if n <= m else Factors(same, change), 1.0)


def _folded(updates: Mapping[str, Update], rank: int) -> dict[str, Factors]:
    """Every update as a product of rank `rank` with scale 1, padded with zeros."""
    factors = {}
    for name, update in updates.items():
        missing = rank - update.rank
        up = nn.functional.pad(update.factors.up * update.scale, (0, missing))
        factors[name] = Factors(up, nn.functional.pad(update.factors.down, (0, 0, 0, missing)))
    return factors


def _recompressed(updates: Iterable[tuple[str, Update]], rank: int) -> tuple[dict[str, Factors], float, bool]:
    """Every update as its best product of rank `rank` with scale 1.

    Also the relative error over all of them, and whether one had a larger rank.
    """
    factors, error, norm, truncated = {}, 0.0, 0.0, False
    for name, update in updates:
        up, down = update.factors.up, update.factors.down
        best = recompress(update.scale * up.double(), down, rank)
        factors[name] = Factors(best.up.to(up.dtype), best.down.to(down.dtype))
        error, norm, truncated = error + best.error**2, norm + best.norm**2, truncated or update.rank > rank
    return factors, (error / norm) ** 0.5 if norm > 0 else 0.0, truncated


def _write_merged(
    model: PeftModel, original: nn.Module, folder: Path, tokenizer: Any, weights: torch.dtype | None
) -> _Written:
    merged, lost, size = copy.deepcopy(original), 0.0, 0.0
    for name, change in _changes(model):
        layer = merged.get_submodule(name)
        before = weight_of(layer)
        add_to_weight_(layer, change)
        wide = change.to(before.device)
        after = weight_of(layer)
        lost += float((after.to(weights or after.dtype) - before - wide).double().norm()) ** 2
        size += float(wide.double().norm()) ** 2
    _save_model(merged.to(weights), folder, tokenizer)
    return _Written(lost=(lost / size) ** 0.5 if size > 0 else None)


def _changes(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """The change of one weight [m, n] after the other, in float32 or better."""
    if has_magnitudes(model):
        yield from weight_changes(model)
        return
    for name, update in trained_updates(model).items():
        yield name, update.scale * (update.factors.up @ update.factors.down)


def _write_residual(
    model: PeftModel, original: nn.Module, folder: Path, tokenizer: Any, weights: torch.dtype | None
) -> _Written:
    initial = initial_part(model)
    if initial is None:
        raise AdapterError(
            "the adapter starts from zero, so there is no residual base", do="export it with `--to peft`"
        )
    updates = trained_part(model)
    residual = copy.deepcopy(original)
    for name, update in updates.items():
        shift_weight_(residual.get_submodule(name), initial[name], -update.scale)
    modules = {name: RankAndScale(update.rank, update.scale) for name, update in updates.items()}
    config = lora_config(original, modules, inference=True)
    # No fingerprint: it would name the original base, and this adapter belongs on the changed one beside it.
    write_lora_folder(folder, config, {name: update.factors for name, update in updates.items()})
    _save_model(residual.to(weights), folder / RESIDUAL_BASE, tokenizer)
    return _Written(max(update.rank for update in updates.values()))


def _reload(original: nn.Module, folder: Path, to: Form) -> nn.Module:
    """The written files as PEFT or transformers load them; `original` is used up."""
    from peft import PeftModel

    if to == "merged":
        return _load_model(original, folder)
    base = _load_model(original, folder / RESIDUAL_BASE) if to == "residual" else original
    return PeftModel.from_pretrained(base, str(folder))  # type: ignore[arg-type]  # any nn.Module will do


def _save_model(model: nn.Module, folder: Path, tokenizer: Any) -> None:
    try:
        model.save_pretrained(str(folder))  # type: ignore[operator]  # a transformers model
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise StorageError("the model could not be written", where=folder, got=str(error)) from error


def _load_model(like: nn.Module, folder: Path) -> nn.Module:
    first = next(like.parameters())
    loaded = type(like).from_pretrained(str(folder), dtype=first.dtype)  # type: ignore[attr-defined]
    return loaded.to(first.device)


def _fingerprint(model: PeftModel) -> str | None:
    provenance = provenance_of(model)
    return None if provenance is None else provenance.plan.model_fingerprint


def _coarsest(model: nn.Module) -> torch.dtype:
    """The float dtype of `model` with the widest spacing: the one that limits how equal two outputs can be."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
