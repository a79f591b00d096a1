"""How the two sides of an adapter are made, and how PEFT is told: one mark on the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from farss.adapters.sides import PairedDown, PairedUp, ResidualDown, ResidualUp, held
from farss.model.plan import Frozen

if TYPE_CHECKING:
    from peft import LoraConfig

# Kept on the configuration object, which PEFT hands to every layer; it is no field, so no file and no copy with other
# ranks (PEFT's combinations of adapters, which are plain) has it.
_ATTRIBUTE = "farss_shape"


@dataclass(frozen=True)
class Shape:
    """A plain product BA, as PEFT makes it; subclasses make other sides of it.

    Attributes:
        frozen: the side that stays as it starts.
    """

    frozen: Frozen = "none"

    share: ClassVar[int] = 1
    """The rank of the ordinary LoRA that it is to others, for each unit of the rank that is trained."""

    marks: ClassVar[frozenset[str]] = frozenset()
    """The tensors by which its files are known, such as `A.start`."""

    def sides(self, layer: Any, adapter: str) -> tuple[nn.Module, nn.Module]:
        """A and B, made of those that PEFT has just made, of the rank that is trained.

        Args:
            layer: PEFT's LoRA layer.
            adapter: its name there.
        """
        return layer.lora_A[adapter], layer.lora_B[adapter]

    def shape_(self, layer: Any, adapter: str) -> None:
        """Turn one adapter that PEFT has just made, of the rank that is trained, into this shape."""
        a, b = self.sides(layer, adapter)
        if self.frozen != "none":
            a, b = (_keep(a), b) if self.frozen == "down" else (a, _keep(b))
        layer.lora_A[adapter], layer.lora_B[adapter] = a, b


class Pair(Shape):
    """It subtracts what it started from."""

    share = 2
    marks = frozenset({"A.start"})

    def sides(self, layer: Any, adapter: str) -> tuple[nn.Module, nn.Module]:
        """Both sides remember their start."""
        return PairedDown(layer.lora_A[adapter].weight.detach()), PairedUp(layer.lora_B[adapter].weight.detach())


class Residual(Pair):
    """It stands beside a base from which its start was taken; files hold the pair."""

    def sides(self, layer: Any, adapter: str) -> tuple[nn.Module, nn.Module]:
        """Both sides remember what was taken."""
        return ResidualDown(layer.lora_A[adapter].weight.detach()), ResidualUp(layer.lora_B[adapter].weight.detach())


def marks_of(tensors: Iterable[str], shapes: Iterable[type[Shape]]) -> frozenset[str]:
    """The marks of the shape that a saved adapter has, by the names of its tensors; none for an ordinary LoRA.

    Args:
        tensors: names in its file.
        shapes: those it may have.
    """
    endings = {name.partition(".lora_")[2] for name in tensors}
    return max((shape.marks for shape in shapes if shape.marks <= endings), key=len, default=frozenset())


def mark_(config: LoraConfig, shape: Shape) -> LoraConfig:
    """`config`, whose adapters will have `shape`; a plain adapter of which nothing is frozen stays PEFT's own."""
    from transformers.pytorch_utils import Conv1D

    from farss.adapters.started import StartedLinear

    if shape != Shape():
        setattr(config, _ATTRIBUTE, shape)
        config._register_custom_module({nn.Linear: StartedLinear, Conv1D: StartedLinear})
    return config


def shape_of(config: object) -> Shape | None:
    """The shape that a configuration is marked with; None where its adapters are PEFT's own."""
    return getattr(config, _ATTRIBUTE, None)


def _keep(side: nn.Module) -> nn.Module:
    if isinstance(side, nn.Linear):
        return held(side)
    side.held = True  # type: ignore[assignment]  # a flag of our sides
    return side
