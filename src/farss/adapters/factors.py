"""The factors an adapter starts from: the chosen singular directions of each weight, or a method's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from farss.adapters.layers import oriented, weight_shape
from farss.errors import PlanError
from farss.maths.choice import named_route
from farss.maths.spectrum import decompose, directions
from farss.model.plan import Plan, TargetPlan
from farss.model.start import Factors, adapter_dtype, factors_digest
from farss.model.targets import Target, weight_matrix

if TYPE_CHECKING:
    from farss.maths.spectrum import Spectrum

__all__ = [
    "Factors",
    "adapter_dtype",
    "add_to_weight_",
    "check_targets",
    "given_factors",
    "initial_factors",
    "shift_weight_",
    "weight_of",
]


def planned_target(model: nn.Module, row: TargetPlan) -> Target:
    """The module of `model` that `row` speaks of, as the model layer describes it."""
    from transformers.pytorch_utils import Conv1D

    module = model.get_submodule(row.name)
    return Target(
        name=row.name,
        module=module,
        layer=row.layer,
        kind=row.name.rpartition(".")[2],
        shape=row.shape,
        bias=getattr(module, "bias", None) is not None,
        transposed=isinstance(module, Conv1D),
    )


def initial_factors(
    model: nn.Module, plan: Plan, spectra: Callable[[Target], Spectrum] | None = None
) -> dict[str, Factors]:
    """B0 and A0 of every planned module; the model is only read.

    Args:
        model: the base model.
        plan: a plan that names directions.
        spectra: the decomposition of a target, for example `SpectrumCache.get`; None decomposes each weight here.

    Returns:
        Per module name, `up` [m, r] and `down` [r, n] in `adapter_dtype`, with `scale * up @ down` equal to the chosen
        part of the weight (`factor_scaling` "divided") or `up @ down` equal to it ("published"). Where it
        is dropped, it may be zero or of a lower rank: r then counts columns of zeros too.

    Raises:
        PlanError: if a chosen direction has singular value zero, from which training could never move.
    """
    route = plan.settings.get("route", "gram")
    found = {}
    for row in plan.targets:
        target = planned_target(model, row)
        weight = weight_matrix(target).detach()
        spectrum = decompose(weight, named_route(route, weight)) if spectra is None else spectra(target)
        found[row.name] = _factors(row, weight, spectrum, plan)
    return found


def given_factors(model: nn.Module, plan: Plan, given: Mapping[str, Factors] | None = None) -> dict[str, Factors]:
    """B0 and A0 of every planned module as they were made before; of the model only dtypes and devices are read.

    Args:
        model: the base model.
        plan: a plan with factors of its own, or one that names directions.
        given: the factors of all modules the plan was made for; None takes those the plan holds.

    Returns:
        Per planned module name, `up` [m, r] and `down` [r, n] in `adapter_dtype` on the weight's device.

    Raises:
        PlanError: if there are none, they are not those the plan was made with, or their ranks differ from the plan's.
    """
    start = plan.start if given is None else given
    if start is None:
        raise PlanError(
            "the plan starts from factors of its own, and they are not here",
            got=f"a plan of {plan.method}",
            do="read the plan with `Plan.load(path, start=True)`, the factors beside it",
        )
    digest = factors_digest(start) if plan.factors_digest is not None else None
    if digest != plan.factors_digest:
        raise PlanError(
            "the factors are not those the plan was made with",
            expected=plan.factors_digest,
            got=digest,
            do="keep plan and factors together, or make the plan again with `farss init`",
        )
    return {row.name: _fitting(model, row, start.get(row.name)) for row in plan.targets}


def _fitting(model: nn.Module, row: TargetPlan, part: Factors | None) -> Factors:
    (m, n), rank = row.shape, row.rank
    shapes = None if part is None else (tuple(part.up.shape), tuple(part.down.shape))
    if part is None or shapes != ((m, rank), (rank, n)):
        raise PlanError(
            "the plan does not fit its factors",
            where=row.name,
            expected=f"{(m, rank)} and {(rank, n)}",
            got=shapes,
            do="modules can be taken out of such a plan, but ranks cannot be changed",
        )
    weight = weight_matrix(planned_target(model, row))
    dtype, device = adapter_dtype(weight), weight.device
    return Factors(part.up.to(device, dtype).contiguous(), part.down.to(device, dtype).contiguous())


def _factors(row: TargetPlan, weight: Tensor, spectrum: Spectrum, plan: Plan) -> Factors:
    """B0 = U sqrt(sigma / s), A0 = sqrt(sigma / s) V^T (Eq. 16 and 17, divided by the scale), zeros up to the rank."""
    dtype, device, (m, n) = adapter_dtype(weight), weight.device, row.shape
    if not row.indices:  # nothing of this weight is dropped
        zeros = (torch.zeros(size, dtype=dtype, device=device) for size in ((m, row.rank), (row.rank, n)))
        return Factors(*zeros)
    left, sigma, right = directions(spectrum, weight, row.indices)
    dead = [index for index, value in zip(row.indices, sigma.tolist(), strict=True) if not value > 0]
    if dead and not plan.form.drops:
        raise PlanError(
            "the plan chooses directions whose singular value is zero",
            where=row.name,
            got=f"indices {dead[:8]}",
            do="take these indices out of the plan and lower `rank` with them",
        )
    root = (sigma / row.scale if plan.factor_scaling == "divided" else sigma).sqrt()
    spare = row.rank - len(root)
    up, down = (functional.pad(part, (0, spare)) for part in (left * root, right * root))
    return Factors(up.to(device, dtype).contiguous(), down.T.to(device, dtype).contiguous())


def shift_weight_(layer: nn.Module, factors: Factors, scale: float) -> None:
    """Add `scale * up @ down` to the weight of a linear layer in place, in float32 or better, with one cast."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    wide = adapter_dtype(weight)
    add_to_weight_(layer, scale * (factors.up.to(weight.device, wide) @ factors.down.to(weight.device, wide)))


def add_to_weight_(layer: nn.Module, change: Tensor) -> None:
    """Add `change` [m, n] to the weight of a linear layer in place, in float32 or better, with one cast."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    wide = adapter_dtype(weight)
    with torch.no_grad():
        weight.copy_((weight.to(wide) + oriented(layer, change.to(weight.device, wide))).to(weight.dtype))


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer, [m, n], detached, in float32 or better."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return oriented(layer, weight.detach()).to(adapter_dtype(weight), copy=True)


def check_targets(model: nn.Module, plan: Plan) -> None:
    """Check that every planned module is in `model` with the planned shape.

    Raises:
        PlanError: naming the first modules that are missing, of another kind, or of another shape.
    """
    modules = dict(model.named_modules())
    wrong = []
    for row in plan.targets:
        shape = weight_shape(modules[row.name]) if row.name in modules else None
        if shape != row.shape:
            got = "missing" if row.name not in modules else "not a plain linear" if shape is None else f"shape {shape}"
            wrong.append(f"{row.name} {row.shape}: {got}")
    if wrong or not plan.targets:
        raise PlanError(
            "the plan does not fit the model",
            expected="the modules and shapes of the plan" if wrong else "at least one target",
            got="; ".join(wrong[:4]) + (f"; {len(wrong) - 4} more" if len(wrong) > 4 else "") or "an empty plan",
            do="make the plan again for this model with `farss init`",
        )
