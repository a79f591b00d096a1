"""What an adapter is of each `initialisation` of plans, said by one object each; nothing else knows them by name.

Methods bring forms of their own as the attribute `form`. A form is asked, in this order: whether plan and model suit
it; what the adapter starts from; of what shape its sides are and what PEFT is told; what is begun once it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from farss.adapters.configs import RankAndScale, lora_config
from farss.adapters.factors import Factors, given_factors, initial_factors
from farss.adapters.shapes import Pair, Residual, Shape, mark_
from farss.adapters.trained import is_residual, subtract_
from farss.errors import PlanError
from farss.model.plan import Plan
from farss.model.plan_forms import PlanForm, registry
from farss.model.targets import Target

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from farss.maths.spectrum import Spectrum


class AdapterForm(PlanForm):
    """The adapters of one kind of plan: LoRA layers of PEFT, ordinary ones unless a subclass says otherwise."""

    adapts: ClassVar[bool] = True
    """Whether there is an adapter at all."""

    low_rank: ClassVar[bool] = True
    """Whether it changes weights by products of two thin factors, which is what servers of adapters read."""

    shapes: ClassVar[tuple[type[Shape], ...]] = ()
    """Shapes of its own that its sides may have."""

    def check(self, model: nn.Module, plan: Plan) -> None:
        """Refuse what it cannot be put on, before anything is changed.

        Raises:
            AdapterError: naming what does not suit it.
        """

    def start(
        self,
        model: nn.Module,
        plan: Plan,
        spectra: Callable[[Target], Spectrum] | None = None,
        factors: Mapping[str, Factors] | None = None,
    ) -> dict[str, Factors] | None:
        """B0 and A0 of every module; None where B starts at zero.

        Args:
            model: the base model, which is only read.
            plan: of this form.
            spectra: decomposition of a target; None decomposes the weights here.
            factors: those that were made before, in place of the weights.

        Raises:
            PlanError: if factors are given and it starts from none, or they are not the plan's.
        """
        if factors is not None:
            raise PlanError("a plan without start factors is given some", expected="factors=None", got=self.name)
        return None

    def shape(self, plan: Plan, *, subtracts: bool) -> Shape:
        """How its sides are made.

        Args:
            plan: of this form.
            subtracts: whether it starts from factors whose product is not zero.
        """
        kind = Shape if not subtracts else Residual if plan.base == "residual" else Pair
        return kind(plan.frozen)

    def ranks(self, plan: Plan, shape: Shape) -> dict[str, RankAndScale]:
        """What PEFT has as rank and scaling of every module."""
        return {row.name: RankAndScale(row.rank * shape.share, row.scale) for row in plan.targets}

    def config(self, model: nn.Module, plan: Plan, shape: Shape, dropout: float) -> PeftConfig:
        """What PEFT is told.

        Args:
            model: the base model.
            plan: of this form.
            shape: of its sides.
            dropout: probability of dropping an input entry while training.
        """
        return mark_(lora_config(model, self.ranks(plan, shape), dropout=dropout), shape)

    def begin_(self, model: PeftModel, plan: Plan, seed: int) -> None:
        """Begin what is not drawn by PEFT and not given by factors.

        Args:
            model: with the new adapter "default", its factors in place.
            plan: of this form.
            seed: of everything that is drawn.
        """

    def join_(self, model: PeftModel) -> None:
        """What is done whenever the adapter comes onto a base model, new or loaded."""
        if is_residual(model):
            subtract_(model)

    def lacks_start(self, shape: Shape) -> bool:
        """Whether a saved adapter whose file shows this shape is without what the plan says it started from."""
        return False


class Drawn(AdapterForm):
    """A random, B zero: LoRA's start."""

    name = "random"
    shapes = (Pair,)


class Chosen(AdapterForm):
    """B0 and A0 are the singular directions that the plan names."""

    name = "spectral"
    indexed = True

    def start(
        self,
        model: nn.Module,
        plan: Plan,
        spectra: Callable[[Target], Spectrum] | None = None,
        factors: Mapping[str, Factors] | None = None,
    ) -> dict[str, Factors] | None:
        """The chosen part of every weight, or the factors that were made of it before."""
        if factors is not None:
            return given_factors(model, plan, factors)
        return initial_factors(model, plan, spectra)

    def lacks_start(self, shape: Shape) -> bool:
        """A chosen part is never zero, so a plain adapter is without it."""
        return not shape.marks


class Given(AdapterForm):
    """B0 and A0 are the method's own, kept beside the plan."""

    name = "factors"
    keeps_factors = True

    def start(
        self,
        model: nn.Module,
        plan: Plan,
        spectra: Callable[[Target], Spectrum] | None = None,
        factors: Mapping[str, Factors] | None = None,
    ) -> dict[str, Factors] | None:
        """The factors that are given, or those the plan holds."""
        return given_factors(model, plan, factors)


class Whole(AdapterForm):
    """All weights are trained, without an adapter."""

    name = "none"
    adapts = False


DRAWN = Drawn()
ORDINARY: tuple[AdapterForm, ...] = (DRAWN, Chosen(), Given(), Whole())
"""The forms that no method owns alone."""


def adapter_form(plan: Plan) -> AdapterForm:
    """The form of the adapter of a plan."""
    found: AdapterForm = registry().form_named(plan.initialisation, plan.method)
    return found


def own_forms() -> tuple[AdapterForm, ...]:
    """The forms of farss itself and of its own methods."""
    found: tuple[AdapterForm, ...] = tuple(registry().own_forms().values())
    return found
