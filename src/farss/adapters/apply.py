"""A plan becomes a PEFT adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farss.adapters import factors as initial
from farss.adapters.configs import RankAndScale, check_injected, lora_config
from farss.adapters.factors import Factors
from farss.adapters.forms import Form, form_of_plan, mark_
from farss.adapters.gated import constrain_, draw_diagonals_
from farss.adapters.layers import DEFAULT, lora_layers, refuse_adapters, set_mode
from farss.adapters.magnitude import check_norms, start_magnitudes_
from farss.adapters.provenance import Provenance, remember
from farss.adapters.sides import Started, TruncatedDown
from farss.adapters.trained import subtract_
from farss.adapters.triplets import check_alike, refuse_another_, triplet_config
from farss.errors import AdapterError, PlanError
from farss.model import sources
from farss.model.plan import BY_INDEX, Plan
from farss.model.targets import Target

if TYPE_CHECKING:
    from peft import PeftModel

    from farss.maths.spectrum import Spectrum

__all__ = ["DEFAULT", "apply", "check_plan"]


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

    With `plan.base` "reference" the weight in use is `W + s (B A - B0 A0)`: W is untouched, and the adapter "default"
    holds the trainable A and B beside the A0 and B0 it started from. To PEFT it is one ordinary LoRA of twice the rank,
    which it may merge, save, copy or rename. With "residual" the published form is made: **the weights of `model`
    change** to `W - s B0 A0`, computed in float32 and cast once, and the adapter adds `s B A`. Where B0 is zero there
    is nothing to subtract, and the adapter is a plain one. A constrained plan (FoRA) gives an adapter on untouched
    weights, with a gate of zero. A plan of magnitudes (DoRA) gives PEFT's DoRA on untouched weights. A truncated plan
    (KaSA) starts from the base without the dropped directions, which the adapter subtracts. A plan of triplets gives
    PEFT's AdaLoRA. What training adds for FoRA, KaSA and AdaLoRA, `farss.training.elsewhere` adds in other trainers.
    As with any PEFT model, `model` itself now contains the adapter layers.

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
    form = form_of_plan(plan, subtracts=start is not None and any(bool(part.up.any()) for part in start.values()))
    wrapped = _wrap(model, plan, form, dropout, drawn_from)
    layers = lora_layers(wrapped)
    for name, part in (start or {}).items():
        layer = layers[name]
        _begin_(layer.lora_A[DEFAULT], part.down)
        _begin_(layer.lora_B[DEFAULT], part.up)
    if form.kind == "residual":
        subtract_(wrapped)
    if plan.initialisation == "truncated":
        draw_diagonals_(wrapped, drawn_from)
    elif plan.initialisation == "constrained":
        constrain_(wrapped, plan, drawn_from)
    elif plan.initialisation == "magnitude":
        start_magnitudes_(wrapped)
    remember(wrapped, Provenance(replace(plan, start=None)))
    set_mode(wrapped, training)
    return wrapped


def _begin_(side: nn.Module, factor: Tensor) -> None:
    """Start one side from `factor`, in its own dtype; of KaSA's it is what is dropped."""
    if isinstance(side, (Started, TruncatedDown)):
        side.begin_(factor)
    else:
        side.weight.data = factor.clone()  # type: ignore[union-attr]  # a linear map


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


def _wrap(model: nn.Module, plan: Plan, form: Form, dropout: float, seed: int) -> PeftModel:
    from peft import get_peft_model

    if plan.initialisation == "triplets":
        # Here PEFT keeps alpha itself as the "scaling", and divides by the rank in the forward pass.
        modules = {row.name: RankAndScale(row.rank, row.scale * row.rank) for row in plan.targets}
        config = triplet_config(model, plan, dropout)
    else:
        modules = {row.name: RankAndScale(form.width(row.rank), row.scale) for row in plan.targets}
        magnitudes = plan.initialisation == "magnitude"
        config = mark_(lora_config(model, modules, dropout=dropout, magnitudes=magnitudes), form)
    with _random_state(seed):
        wrapped = get_peft_model(model, config)  # type: ignore[arg-type]  # any nn.Module will do
    check_injected(wrapped, modules, DEFAULT)
    if plan.initialisation == "triplets":
        refuse_another_(wrapped)
    return wrapped  # type: ignore[return-value]  # not a mixed model


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """PEFT draws on the CPU from the global generator; lend it a seeded one and give the user's back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
