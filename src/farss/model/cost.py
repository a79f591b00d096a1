"""What an initialisation will need, from shapes alone: memory of either engine, before anything is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from farss.amounts import size
from farss.errors import ResourceError
from farss.model.calibration import Batch
from farss.model.targets import Target, chain_prefixes

MOMENT_BYTES = {torch.float64: 8}
PACKED_SHARE = 10 / 16
"""Of 16 blocks of a symmetric sum, 10 are kept (`farss.statistics.moments`)."""

DECOMPOSITION_COPIES = 6
"""float64 matrices of the weight's size and of k x k alive together while one weight is decomposed and checked."""

LOGIT_COPIES = 3
"""Of the logits of a batch, in float32 or wider: their log-softmax and two gradients on the way back."""

PROCESS_BYTES = 600_000_000
"""Python, PyTorch and transformers before any model."""

USABLE_SHARE = 0.9
"""Of the memory that is free at the start; the rest belongs to the file cache and to others."""


@dataclass(frozen=True)
class BatchSize:
    """The size of the largest of some batches; 0 where no data are read.

    Attributes:
        tokens: padded tokens.
        predictions: positions with a loss, which alone get logits.
    """

    tokens: int = 0
    predictions: int = 0

    @classmethod
    def largest(cls, batches: Sequence[Batch]) -> BatchSize:
        """The largest of each, over all batches."""
        return cls(
            max((batch.input_ids.numel() for batch in batches), default=0),
            max((int(batch.supervised.sum()) for batch in batches), default=0),
        )


@dataclass(frozen=True)
class MemoryCost:
    """Predicted peak memory of one engine, in bytes.

    Attributes:
        weights: of the model, or of its parts that are in memory at once.
        moments: sums of outer products.
        activations: of one batch, kept for the backward pass, logits among them.
        decomposition: working space of the largest weight.
        states: hidden states and gradients between blocks, 0 on disk.
    """

    weights: int
    moments: int
    activations: int
    decomposition: int
    states: int = 0

    @property
    def peak(self) -> int:
        """All that is alive together: the pass or the decomposition, whichever needs more."""
        return PROCESS_BYTES + self.weights + self.moments + self.states + max(self.activations, self.decomposition)


def resident_cost(model: nn.Module, targets: Sequence[Target], dtype: torch.dtype, batch: BatchSize) -> MemoryCost:
    """Memory of the pass over the whole model.

    Args:
        model: with or without its weights.
        targets: of it.
        dtype: of its weights during the pass.
        batch: the largest.
    """
    activations = sum(_activation_bytes(block, dtype) for block in _blocks(targets).values()) * batch.tokens
    return MemoryCost(
        weights=_bytes(model.parameters(), dtype),
        moments=curvature_bytes(targets, dtype),
        activations=activations + _logit_bytes(model, dtype, batch),
        decomposition=max(_decomposition_bytes(target) for target in targets),
    )


def streamed_cost(
    model: nn.Module,
    targets: Sequence[Target],
    dtype: torch.dtype,
    batch: BatchSize,
    state_tokens: int = 0,
) -> MemoryCost:
    """Memory of the walk over blocks.

    Args:
        model: with or without its weights.
        targets: of its blocks.
        dtype: of its weights during the walk.
        batch: the largest.
        state_tokens: padded tokens of all batches where hidden states are kept in memory; 0 where they are on disk.
    """
    prefix = chain_prefixes(model)[0]
    block_bytes: dict[str, int] = defaultdict(int)
    outside = 0
    for name, parameter in model.named_parameters():
        size = _bytes([parameter], dtype)
        if name.startswith(f"{prefix}."):
            block_bytes[name[len(prefix) + 1 :].split(".")[0]] += size
        else:
            outside += size
    blocks = _blocks(targets)
    hidden = max(min(target.shape) for target in targets)
    width = torch.empty(0, dtype=dtype).element_size()
    activations = max(_activation_bytes(block, dtype) for block in blocks.values()) * batch.tokens
    return MemoryCost(
        weights=outside + max(block_bytes.values()),
        moments=max(_moment_bytes(block, dtype) for block in blocks.values()),
        activations=max(activations, _logit_bytes(model, dtype, batch)),  # the head is a step of its own
        decomposition=max(_decomposition_bytes(target) for target in targets),
        states=(len(block_bytes) + 2) * state_tokens * hidden * width,
    )


def choose_engine(resident: MemoryCost, streamed: MemoryCost | None, available: int) -> Literal["resident", "streamed"]:
    """The resident engine if it fits, else the streamed one.

    Args:
        resident: cost of the whole model in memory.
        streamed: cost of the walk; None where the model cannot be walked.
        available: bytes that are free where the model is computed.

    Raises:
        ResourceError: if neither fits, with the numbers.
    """
    free = available * USABLE_SHARE
    if resident.peak <= free:
        return "resident"
    if streamed is not None and streamed.peak <= free:
        return "streamed"
    needs = f"{size(resident.peak)} with the whole model in memory"
    if streamed is not None:
        needs += f", {size(streamed.peak)} block by block"
    raise ResourceError(
        "there is too little memory for this model",
        expected=needs,
        got=f"{size(free)} free",
        do="lower init.batch_tokens, close other programs, or use a machine with more memory",
    )


def _blocks(targets: Sequence[Target]) -> dict[int | None, list[Target]]:
    found: dict[int | None, list[Target]] = defaultdict(list)
    for target in targets:
        found[target.layer].append(target)
    return found


def _bytes(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> int:
    width = torch.empty(0, dtype=dtype).element_size()
    return sum(parameter.numel() for parameter in parameters) * width


def _inputs(block: Sequence[Target]) -> dict[tuple[str, int], list[Target]]:
    """Targets that probably read the same tensor: beside each other in one module, with as many in-features.

    A module that gives out as many features as it reads may follow the others of its parent (an output projection),
    and counts as reading a tensor of its own if it is the last of them.
    """
    found: dict[tuple[str, int], list[Target]] = defaultdict(list)
    for target in block:
        found[target.name.rpartition(".")[0], target.shape[1]].append(target)
    apart: dict[tuple[str, int], list[Target]] = {}
    for (parent, n), group in found.items():
        last = group[-1]
        if len(group) > 1 and last.shape[0] == last.shape[1]:
            apart[f"{parent}:last", n] = [last]
            group = group[:-1]
        apart[parent, n] = group
    return apart


def kept_inputs(targets: Sequence[Target]) -> list[int]:
    """In-features n of every distinct input whose second moment S_h, [n, n], the pass keeps."""
    groups = [(n, group) for block in _blocks(targets).values() for (_, n), group in _inputs(block).items()]
    return [n for n, group in groups if any(target.shape[0] >= n for target in group)]


def _moment_bytes(block: Sequence[Target], dtype: torch.dtype) -> int:
    """Sums of one block: h once per shared input that a tall or square module reads, and one of g, delta, y each."""
    numbers = 0
    for (_, n), group in _inputs(block).items():
        shared = any(target.shape[0] >= target.shape[1] for target in group)
        numbers += n * n * shared
        for target in group:
            k = min(target.shape)
            numbers += k * k * (1 if shared or target.shape[0] >= target.shape[1] else 2)
    return int(numbers * PACKED_SHARE * MOMENT_BYTES.get(dtype, 4))


def curvature_bytes(targets: Sequence[Target], dtype: torch.dtype) -> int:
    """The second moments of all targets: what directions are scored with."""
    return sum(_moment_bytes(block, dtype) for block in _blocks(targets).values())


def input_moment_bytes(targets: Sequence[Target], dtype: torch.dtype, copies: int = 1) -> int:
    """Sums `h h'` of every distinct input, `copies` times: what CorDA, LoRA-Null and EVA are planned from."""
    numbers = sum(n * n for block in _blocks(targets).values() for _, n in _inputs(block))
    return int(copies * numbers * PACKED_SHARE * MOMENT_BYTES.get(dtype, 4))


def gradient_bytes(targets: Sequence[Target], dtype: torch.dtype) -> int:
    """Summed weight gradients: what LoRA-GA is planned from."""
    return sum(target.shape[0] * target.shape[1] for target in targets) * MOMENT_BYTES.get(dtype, 4)


def _activation_bytes(block: Sequence[Target], dtype: torch.dtype) -> int:
    """Per token: what the operations between the linear modules keep, about every input and output of these once."""
    return _activation_numbers(block) * max(torch.empty(0, dtype=dtype).element_size(), 4)


def _logit_bytes(model: nn.Module, dtype: torch.dtype, batch: BatchSize) -> int:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    vocabulary = 0 if head is None else head.weight.shape[0]
    return LOGIT_COPIES * batch.predictions * vocabulary * max(torch.empty(0, dtype=dtype).element_size(), 4)


def _activation_numbers(block: Sequence[Target]) -> int:
    return sum(n for _, n in _inputs(block)) + sum(target.shape[0] for target in block)


def kept_numbers(targets: Sequence[Target]) -> int:
    """Numbers per token that a pass keeps for its way back, of all blocks."""
    return sum(_activation_numbers(block) for block in _blocks(targets).values())


def _decomposition_bytes(target: Target) -> int:
    m, n = target.shape
    return DECOMPOSITION_COPIES * 8 * max(m * n, min(m, n) ** 2)
