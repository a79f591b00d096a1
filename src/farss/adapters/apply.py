"""A plan becomes a PEFT adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from farss.adapters import factors as initial
from farss.adapters.configs import RankAndScale, check_injected, lora_config
from farss.adapters.factors import Factors
from farss.adapters.gated import constrain_, draw_diagonals_
from farss.adapters.layers import DEFAULT, REFERENCE, lora_layers, refuse_adapters, set_mode
from farss.adapters.magnitude import check_norms, start_magnitudes_
from farss.adapters.pairs import add_reference, hold, write_factors
from farss.adapters.provenance import Provenance, remember
from farss.adapters.triplets import check_alike, triplet_config
from farss.errors import AdapterError, PlanError
from farss.model import sources
from farss.model.plan import BY_INDEX, Plan
from farss.model.targets import Target

if TYPE_CHECKING:
    from peft import PeftModel

    from farss.maths.spectrum import Spectrum

__all__ = ["DEFAULT", "REFERENCE", "apply", "check_plan"]


def apply(
    model: nn.Module,
    plan: Plan,
    spectra: Callable[[Target], Spectrum] | None = None,
    *,
    dropout: float = 0.0,
    seed: int | None = None,
    fingerprint: str | None = None,
    factors: Mapping[str, Factors] | None = None,
) -> PeftModel:
    """Wrap `model` with the adapter of `plan`; its outputs are those of `model` until training moves the adapter.

    With `plan.base` "reference" the weight in use is `W + s (B A - B0 A0)`: W is untouched, adapter "default" holds
    the trainable A and B, and a second, frozen adapter "reference" holds A0 and -B0. Both are active. With "residual"
    the published form is made: **the weights of `model` change** to `W - s B0 A0`, computed in float32 and cast once,
    and a single adapter holds A and B. Where B0 is zero there is nothing to subtract, and a single adapter holds A and
    B. A constrained plan (FoRA) gives one adapter on untouched weights, with a gate of zero; an optimiser of your own
    needs `farss.training.stiefel.hold_factors_`. A plan of magnitudes (DoRA) gives PEFT's DoRA on untouched weights. A
    truncated plan (KaSA) starts from the base without the dropped directions, which the frozen adapter subtracts; its
    regularisers belong to training (`farss.training.regularisers`). A plan of triplets gives PEFT's AdaLoRA, whose
    ranks are cut by `farss.training`. As with any PEFT model, `model` itself now contains the adapter layers.

    Args:
        model: the base model, in any float dtype. Adapters are float32, or float64 on a float64 model.
        plan: what to adapt and how.
        spectra: decomposition of a target, for example `SpectrumCache.get`; None decomposes the weights here.
        dropout: probability of dropping an input entry of the adapters while training, one mask for both.
        seed: of random initialisation; None takes the seed in the plan's settings.
        fingerprint: of the model, where it is known already; None computes it.
        factors: B0 and A0 per module, for a plan that starts from factors of its own (None takes those in the plan) or
            a spectral one (None computes them). With them and the fingerprint, the base's weights are not read and may
            be placeholders that tell dtype and device.

    Raises:
        AdapterError: if the plan trains all weights, or the model already carries an adapter.
        PlanError: if the plan was made for another model, or with other factors; the model is then as it was.
    """
    check_plan(model, plan, fingerprint)
    refuse_adapters(model)
    if plan.initialisation == "magnitude":
        check_norms(model, plan)
    elif plan.initialisation == "triplets":
        check_alike(plan)
    start = _start(model, plan, spectra, factors)
    training = model.training
    drawn_from = int(plan.settings.get("seed", 0)) if seed is None else seed
    wrapped = _wrap(model, plan, dropout, drawn_from)
    truncates = plan.initialisation == "truncated"
    if truncates:
        draw_diagonals_(wrapped, drawn_from)
    elif start is not None:
        for name, layer in lora_layers(wrapped).items():
            write_factors(layer, DEFAULT, start[name])
    subtracts = start is not None and any(bool(part.up.any()) for part in start.values())
    removed = start if subtracts and plan.base == "residual" and not truncates else None
    if removed is not None:
        subtract_(wrapped, plan, removed)
    elif start is not None and (subtracts or truncates):
        add_reference(wrapped, start)
    if plan.initialisation == "constrained":
        constrain_(wrapped, plan, drawn_from)
    elif plan.initialisation == "magnitude":
        start_magnitudes_(wrapped)
    hold(wrapped, plan.frozen)
    remember(wrapped, Provenance(replace(plan, start=None), removed))
    set_mode(wrapped, training)
    return wrapped


def _start(
    model: nn.Module,
    plan: Plan,
    spectra: Callable[[Target], Spectrum] | None,
    factors: Mapping[str, Factors] | None,
) -> dict[str, Factors] | None:
    """What the adapter starts from, or what is dropped of the weights; None where B is zero or gated."""
    if plan.initialisation == "factors" or (plan.initialisation in BY_INDEX and factors is not None):
        return initial.given_factors(model, plan, factors)
    if factors is not None:
        raise PlanError("a plan without start factors is given some", expected="factors=None", got=plan.initialisation)
    return initial.initial_factors(model, plan, spectra) if plan.initialisation in BY_INDEX else None


def check_plan(model: nn.Module, plan: Plan, fingerprint: str | None = None) -> None:
    """Check that `plan` asks for an adapter and was made for `model`.

    Raises:
        AdapterError: if the plan trains all weights.
        PlanError: saying what differs between plan and model.
    """
    if plan.initialisation == "none":
        raise AdapterError(
            f"the method `{plan.method}` trains all weights and has no adapter",
            do="train the model itself, or choose another method",
        )
    initial.check_targets(model, plan)
    actual = sources.fingerprint(model) if fingerprint is None else fingerprint
    if actual != plan.model_fingerprint:
        raise PlanError(
            "the plan was made for other weights",
            expected=plan.model_fingerprint,
            got=actual,
            do="make the plan again for this model with `farss init`",
        )


def subtract_(model: PeftModel, plan: Plan, removed: Mapping[str, Factors]) -> None:
    """Take `scale * B0 A0` out of the base weights of `model`, in float32 with one cast: the residual form."""
    scales = {row.name: row.scale for row in plan.targets}
    for name, layer in lora_layers(model).items():
        initial.shift_weight_(layer.get_base_layer(), removed[name], -scales[name])


def _wrap(model: nn.Module, plan: Plan, dropout: float, seed: int) -> PeftModel:
    from peft import get_peft_model

    if plan.initialisation == "triplets":
        # Here PEFT keeps alpha itself as the "scaling", and divides by the rank in the forward pass.
        modules = {row.name: RankAndScale(row.rank, row.scale * row.rank) for row in plan.targets}
        config = triplet_config(model, plan, dropout)
    else:
        modules = {row.name: RankAndScale(row.rank, row.scale) for row in plan.targets}
        config = lora_config(model, modules, dropout=dropout, magnitudes=plan.initialisation == "magnitude")
    with _random_state(seed):
        wrapped = get_peft_model(model, config)  # type: ignore[arg-type]  # any nn.Module will do
    check_injected(wrapped, modules, DEFAULT)
    return wrapped


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """PEFT draws on the CPU from the global generator; lend it a seeded one and give the user's back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
