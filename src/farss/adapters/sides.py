"""The two sides of an adapter that is more than a plain product: modules that stand where PEFT keeps A and B.

Every side has a `weight`, and the product of the two weights is what the adapter adds, so PEFT merges, combines, saves
and loads it as the ordinary LoRA that it is. What is trained, and what the adapter started from, are parameters of the
sides: whatever copies, moves, renames or deletes the adapter takes them along.

A started adapter adds `s (B A - B0 A0)`: zero at the start, so the base weights stay as they are. It is computed as
`(B - B0) A x + B0 (A - A0) x`, the weights `[A; A - A0]` and `[B - B0, B0]`, from the same (dropped) input. The
differences are taken between the small factors, in their own dtype: they vanish exactly where training has not moved
them, nothing cancels between activations that were rounded, and either side is a single product of width 2r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHT = "weight"


class Side(nn.Module):
    """One side with a trained `factor`; files hold `weight`, which any loader reads, and what does not follow from it.

    Args:
        factor: A [r, n] or B [m, r].
    """

    implied: ClassVar[tuple[str, ...]] = ()
    """The parameters that follow from `weight` and the others, and are left out of files."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor)
        self.held = False

    @property
    def weight(self) -> Tensor:
        """What PEFT takes for A [R, n] or B [m, R]; gradients pass to the parameters."""
        return self.plain()

    def plain(self) -> Tensor:
        """The weight of this side as an ordinary LoRA on the original base model."""
        raise NotImplementedError

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters that make `plain()` equal to `weight`.

        Args:
            weight: of the shape of `plain()`.
            others: the parameters that are known, by name.
        """
        raise NotImplementedError

    def learned(self) -> Tensor:
        """The part of the weight that is trained, [r, n] or [m, r], without what it started from."""
        return self.trained

    def begin_(self, factor: Tensor) -> None:
        """Start from `factor`."""
        self.factor.data = factor.clone()

    @property
    def trained(self) -> Tensor:
        """The factor, which passes gradients unless this side is held."""
        return self.factor.detach() if self.held else self.factor

    def freeze_(self) -> None:
        """Take from the optimiser what is not to be trained, whatever has switched gradients on."""
        if self.held:
            self.factor.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T`."""
        return functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.implied:
            del destination[prefix + name]
        destination[prefix + WEIGHT] = self.plain().detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        weight = state_dict.pop(prefix + WEIGHT, None)
        if weight is not None:
            names = [name for name, _ in self.named_parameters()]
            others = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
            fits = weight.shape == self.plain().shape
            # A weight of another shape goes where torch finds and names the mismatch.
            found = self.parts(weight, others) if fits else {"factor": weight}
            state_dict.update({prefix + name: tensor for name, tensor in found.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Started(Side):
    """One side of an adapter that started from `start`, which is subtracted and never trained.

    Args:
        factor: A [r, n] or B [m, r]; a copy is the start.
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        self.start = nn.Parameter(factor.detach().clone(), requires_grad=False)

    @property
    def initial(self) -> Tensor:
        """The start as the factor's dtype rounds it, so that their difference is zero at the start in any dtype."""
        return self.start.detach().to(self.factor.dtype)

    def begin_(self, factor: Tensor) -> None:
        """Start from `factor`."""
        self.factor.data, self.start.data = factor.clone(), factor.clone()

    def freeze_(self) -> None:
        """As for any side; the start is never trained."""
        super().freeze_()
        self.start.requires_grad_(False)


class PairedDown(Started):
    """`x` through A and through what training has changed of it, side by side: [..., n] to [..., 2r]."""

    implied = ("factor",)

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        self.in_features, self.out_features = factor.shape[1], 2 * factor.shape[0]

    def plain(self) -> Tensor:
        """`[A; A - A0]`, [2r, n]."""
        trained = self.trained
        return torch.cat([trained, trained - self.initial])

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A, the upper half; A0 as it was kept, or else up to a rounding."""
        factor, moved = weight.chunk(2)
        return {"start": factor - moved, **others, "factor": factor}


class PairedUp(Started):
    """The two halves of `PairedDown` through `B - B0` and B0, added: [..., 2r] to [..., m].

    While B and A are where they started, one half is multiplied by zeros and the other is zero, so the sum is zero to
    the last bit in every dtype and by every kernel.
    """

    implied = ("start",)

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        self.in_features, self.out_features = 2 * factor.shape[1], factor.shape[0]

    def plain(self) -> Tensor:
        """`[B - B0, B0]`, [m, 2r]."""
        return torch.cat([self.trained - self.initial, self.initial], dim=1)

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """B0, the right half; B as it was kept, or else up to a rounding."""
        moved, start = weight.chunk(2, dim=1)
        return {"factor": moved + start, **others, "start": start}


class ResidualDown(PairedDown):
    """A alone, beside a base from which `s B0 A0` was taken; files hold the pair, for the original base."""

    @property
    def weight(self) -> Tensor:
        """`[A; 0]`: as wide as the configuration says."""
        return functional.pad(self.trained, (0, 0, 0, len(self.factor)))

    def forward(self, x: Tensor) -> Tensor:
        """`A x`, [..., r]."""
        return functional.linear(x, self.trained)


class ResidualUp(PairedUp):
    """B alone, beside a base from which `s B0 A0` was taken."""

    @property
    def weight(self) -> Tensor:
        """`[B, 0]`."""
        return functional.pad(self.trained, (0, self.factor.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """`B x`."""
        return functional.linear(x, self.trained)


class GatedDown(Side):
    """`x` through `g A` or `diag(g) A`: [..., n] to [..., r].

    Args:
        factor: A [r, n].
        gate: g [1, 1], or d [r, 1]; PEFT takes flat tensors of an adapter for damaged ones.
    """

    def __init__(self, factor: Tensor, gate: Tensor) -> None:
        super().__init__(factor)
        self.out_features, self.in_features = factor.shape
        self.gate = nn.Parameter(gate)

    def learned(self) -> Tensor:
        """`g A`, [r, n]."""
        return self.gate * self.factor

    def plain(self) -> Tensor:
        """`g A`, [r, n]."""
        return self.learned()

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A and g as they were kept; of a product alone, A is all of it."""
        return dict(others) if others.keys() >= {"factor", "gate"} else _ungated(self.gate, weight)


class TruncatedDown(GatedDown):
    """`x` through `diag(d) A` and, for what is dropped of the weight, through V': [..., n] to [..., 2r].

    Dropout belongs to what is trained. What is dropped of the weight is gone for good, and sees the whole input.

    Args:
        factor: A [r, n].
        gate: d [r, 1].
        dropout: of the input of A.
    """

    def __init__(self, factor: Tensor, gate: Tensor, dropout: nn.Module) -> None:
        super().__init__(factor, gate)
        self.out_features *= 2
        self.start = nn.Parameter(torch.zeros_like(factor), requires_grad=False)
        self.dropout = dropout

    def plain(self) -> Tensor:
        """`[diag(d) A; V']`, [2r, n]."""
        return torch.cat([self.learned(), self.dropped])

    @property
    def dropped(self) -> Tensor:
        """V' in the dtype of A."""
        return self.start.detach().to(self.factor.dtype)

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A and d as they were kept, or A times d for A; V' is the lower half."""
        upper, start = weight.chunk(2)
        return {**super().parts(upper, others), "start": start}

    def begin_(self, dropped: Tensor) -> None:
        """Drop `dropped`, V' [r, n]."""
        self.start.data = dropped.clone()

    def freeze_(self) -> None:
        """As for any side; what is dropped is never trained."""
        super().freeze_()
        self.start.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """`[diag(d) A x, V' x]`, the first of a dropped input."""
        kept = functional.linear(self.dropout(x), self.learned())
        return torch.cat([kept, functional.linear(x, self.dropped)], dim=-1)


class TruncatedUp(Started):
    """The two halves of `TruncatedDown` through B and -U, added: [..., 2r] to [..., m]."""

    implied = ("factor", "start")

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        self.start.data.zero_()
        self.in_features, self.out_features = 2 * factor.shape[1], factor.shape[0]

    def plain(self) -> Tensor:
        """`[B, -U]`, [m, 2r]."""
        return torch.cat([self.trained, -self.initial], dim=1)

    def parts(self, weight: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The two halves."""
        factor, negated = weight.chunk(2, dim=1)
        return {"factor": factor, "start": -negated}

    def begin_(self, factor: Tensor) -> None:
        """Drop `factor`, U [m, r]."""
        self.start.data = factor.clone()


class HeldLinear(nn.Linear):
    """One side of a plain adapter that stays as it starts; no optimiser can move it, whatever switches gradients on."""

    held = True

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T`, [..., n] to [..., m], passing gradients on to `x` only."""
        return functional.linear(x, self.weight.detach())

    def freeze_(self) -> None:
        """Take the weight from the optimiser."""
        self.weight.requires_grad_(False)


def plain_weight(side: nn.Module) -> Tensor:
    """The weight of one side as an ordinary LoRA on the original base model: A [R, n] or B [m, R]."""
    if isinstance(side, Side):
        return side.plain()
    weight = side.weight
    assert isinstance(weight, Tensor)
    return weight


def held(linear: nn.Module) -> HeldLinear:
    """The same weight in a linear map that keeps it."""
    assert isinstance(linear, nn.Linear)
    other = HeldLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    other.weight = linear.weight
    other.train(linear.training)
    return other


def _ungated(gate: Tensor, product: Tensor) -> dict[str, Tensor]:
    return {"factor": product, "gate": torch.ones_like(gate)}
