"""From the tensors of a checkpoint to the weights of a model, by the conversions that transformers itself applies.

A checkpoint keeps the names and pieces it was published with (`embed_out`, one tensor per expert); the model of today's
transformers may call them otherwise, or hold them fused. Which tensors make a weight, and how, is read off the same
table that `from_pretrained` uses, so that both ways of reading a folder end with the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """The stored tensors that one weight is made of, or several weights together.

    Attributes:
        keys: their names in the checkpoint, in the order in which they are joined.
        first: the name in the model that transformers converts them under.
        patterns: per key, the pattern of `converter` that it fits; empty without one.
        converter: transformers' conversion, or None where the tensor is the weight.
    """

    keys: tuple[str, ...]
    first: str
    patterns: tuple[str, ...] = ()
    converter: Any = None

    def make(self, name: str, model: Any, read: Callable[[str], Tensor]) -> Tensor:
        """The weight called `name`.

        Args:
            name: of a weight that this is the source of.
            model: the model it belongs to, for its configuration.
            read: a stored tensor by its name; called once per key.
        """
        if self.converter is None:
            return read(self.keys[0])
        conversion = copy.deepcopy(self.converter)  # it collects what it is given
        for key, pattern in zip(self.keys, self.patterns, strict=True):
            conversion.add_tensor(self.first, key, pattern, partial(read, key))
        with torch.no_grad():
            made = conversion.convert(self.first, model=model, config=model.config)[name]
        return made[0] if isinstance(made, list) else made


def sources_of(model: Any, stored: Iterable[str]) -> dict[str, Source]:
    """Name of a weight or buffer in the model -> what it is made of; without those that the checkpoint lacks.

    Args:
        model: a transformers model, perhaps without weights.
        stored: names of the tensors in the checkpoint.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state, prefix = model.state_dict(), model.base_model_prefix
    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found: dict[str, list[tuple[str, str | None]]] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = key, None
        if name in state:
            found.setdefault(name, []).append((key, pattern))
    sources: dict[str, Source] = {}
    for first, entries in found.items():
        keys, patterns = zip(*entries, strict=True)
        if patterns[0] is None:
            sources[first] = Source((keys[-1],), first)
            continue
        converter = by_pattern[patterns[0]]
        source = Source(keys, first, patterns, converter)
        for target in converter.target_patterns:  # one tensor may be split into several weights
            sources[first.replace(converter.target_patterns[0], target)] = source
    return sources
