"""A plan becomes a PEFT adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farss.adapters.configs import RankAndScale, check_injected
from farss.adapters.factors import Factors, check_targets
from farss.adapters.forms import adapter_form
from farss.adapters.layers import DEFAULT, lora_layers, refuse_adapters, set_mode
from farss.adapters.provenance import Provenance, remember
from farss.adapters.sides import Side
from farss.errors import AdapterError, PlanError
from farss.model import sources
from farss.model.plan import Plan
from farss.model.targets import Target

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

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
    is nothing to subtract, and the adapter is a plain one. What the
    form of a method is instead (DoRA, KaSA, AdaLoRA, FoRA), its folder says; what such a method adds to training,
    `farss.training.elsewhere` adds in other trainers.
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
    form = adapter_form(plan)
    form.check(model, plan)
    start = form.start(model, plan, spectra, factors)
    training = model.training
    drawn_from = int(plan.settings.get("seed", 0)) if seed is None else seed
    shape = form.shape(plan, subtracts=start is not None and any(bool(part.up.any()) for part in start.values()))
    wrapped = _wrap(model, form.config(model, plan, shape, dropout), form.ranks(plan, shape), drawn_from)
    layers = lora_layers(wrapped)
    for name, part in (start or {}).items():
        layer = layers[name]
        _begin_(layer.lora_A[DEFAULT], part.down)
        _begin_(layer.lora_B[DEFAULT], part.up)
    form.join_(wrapped)
    form.begin_(wrapped, plan, drawn_from)
    remember(wrapped, Provenance(replace(plan, start=None)))
    set_mode(wrapped, training)
    return wrapped


def _begin_(side: nn.Module, factor: Tensor) -> None:
    """Start one side from `factor`, in its own dtype."""
    if isinstance(side, Side):
        side.begin_(factor)
    else:
        side.weight.data = factor.clone()  # type: ignore[union-attr]  # a linear map


def check_plan(model: nn.Module, plan: Plan, fingerprint: str | None = None) -> None:
    """Check that `plan` asks for an adapter and was made for `model`.

    Raises:
        AdapterError: if the plan trains all weights.
        PlanError: saying what differs between plan and model.
    """
    if not adapter_form(plan).adapts:
        raise AdapterError(
            f"the method `{plan.method}` trains all weights and has no adapter",
            do="train the model itself, or choose another method",
        )
    check_targets(model, plan)
    actual = sources.fingerprint(model) if fingerprint is None else fingerprint
    if actual != plan.model_fingerprint:
        raise PlanError(
            "the plan was made for other weights",
            expected=plan.model_fingerprint,
            got=actual,
            do="make the plan again for this model with `farss init`",
        )


def _wrap(model: nn.Module, config: PeftConfig, ranks: Mapping[str, RankAndScale], seed: int) -> PeftModel:
    from peft import get_peft_model

    with _random_state(seed):
        wrapped = get_peft_model(model, config)  # type: ignore[arg-type]  # any nn.Module will do
    check_injected(wrapped, ranks, DEFAULT)
    return wrapped  # type: ignore[return-value]  # not a mixed model


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """PEFT draws on the CPU from the global generator; lend it a seeded one and give the user's back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
