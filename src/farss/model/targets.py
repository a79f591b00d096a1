"""Which linear modules of a model are adapted: names, layer indices, shapes and storage orientation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from farss.errors import ModelError, near_names
from farss.patterns import full_matches

PATTERN_HINT = "a pattern is one part of the module name (`q_proj`) or a regular expression for the whole dotted name"

PLAIN: tuple[type, ...] = (nn.Parameter,)
"""Kinds of weights that are nothing but numbers; those of quantisation libraries are kinds of their own."""


@dataclass(frozen=True)
class Target:
    """One plain linear map `y = W h (+ b)` of the model.

    Attributes:
        name: dotted module name.
        module: the `nn.Linear` or transformers `Conv1D` itself.
        layer: index of its block in the main chain of blocks, or None outside it.
        kind: last part of the name, for example "q_proj".
        shape: (m, n), out-features by in-features.
        bias: whether a bias is added.
        transposed: True for `Conv1D`, whose weight is stored as [n, m].
    """

    name: str
    module: nn.Module
    layer: int | None
    kind: str
    shape: tuple[int, int]
    bias: bool
    transposed: bool


def weight_matrix(target: Target) -> Tensor:
    """The weight as [m, n]: a detached view of the stored parameter, transposed for `Conv1D`."""
    weight = target.module.get_parameter("weight").detach()
    return weight.t() if target.transposed else weight


def layer_count(targets: Sequence[Target]) -> int:
    """Number of blocks that the targets span: the highest layer index plus one, 0 if no target lies in a block."""
    return max((t.layer + 1 for t in targets if t.layer is not None), default=0)


def chain_prefixes(model: nn.Module) -> list[str]:
    """Name prefixes of the lists of blocks that layers are counted in: one for a decoder, none without blocks."""
    return _main_chain(model, _linears(model))


def find_targets(
    model: nn.Module, targets: Sequence[str] = (), exclude: Sequence[str] = (), *, in_memory: bool = True
) -> list[Target]:
    """The linear modules to adapt, in model order.

    Without `targets`, every linear inside the main chain of blocks (`layers.N`, `h.N`, `encoder.layer.N`, ...): never
    the embeddings, the output head, a classifier beside the chain, or a weight that another module shares.

    Args:
        model: the base model, without adapters.
        targets: patterns that select modules; each is a part of the dotted name ("q_proj") or a regular expression
            that matches the whole dotted name.
        exclude: patterns of the same form that remove modules from the selection.
        in_memory: whether weights must be there; False accepts a model whose weights are read later.

    Raises:
        ModelError: if a pattern selects nothing, nothing is left, a selected module is not a plain linear (quantised,
            already adapted, offloaded), or a pattern names the output head or a shared weight.
    """
    linears = _linears(model)
    chain = _main_chain(model, linears)
    shared = _shared_weights(model)
    names = _selected(linears, targets) if targets else [n for n in linears if _layer_of(n, chain) is not None]
    for name in names:
        if targets and name in shared:
            raise ModelError(
                "an embedding, output head or tied weight cannot be a target", where=name, do="narrow the pattern"
            )
    removed = set(_selected(linears, exclude))
    names = [name for name in names if name not in removed and name not in shared]
    if not names:
        raise ModelError(
            "no linear module to adapt",
            where=type(model).__name__,
            expected="nn.Linear or Conv1D modules inside a chain of blocks such as layers.0, layers.1, ...",
            got=f"{len(linears)} linear modules, {len(removed)} of them excluded",
            do="name modules with `targets`, or exclude fewer",
        )
    return [_target(name, linears[name], _layer_of(name, chain), in_memory) for name in names]


def language_tower(model: nn.Module) -> str:
    """The dotted name of the module that writes, in a model that also sees or hears; "" where that is the whole model.

    Found by structure: the configuration has a part for text of its own, and the model names its decoder.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config") or getattr(config, "is_encoder_decoder", False):
        return ""
    if config.get_text_config(decoder=True) is config:
        return ""
    decoder = model.get_decoder()  # type: ignore[operator]  # transformers' PreTrainedModel
    return next((name for name, module in model.named_modules() if module is decoder), "")


def _linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linear modules of the language model, its output head among them; not those of other towers."""
    tower, head = language_tower(model), output_head(model)
    inside = f"{tower}." if tower else ""
    return {
        name: module
        for name, module in model.named_modules()
        if _looks_linear(module) and (name.startswith(inside) or module is head)
    }


def output_head(model: nn.Module) -> object:
    """The module that makes logits, by what the model says of itself; None where it has none or does not say."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]


def _selected(linears: dict[str, nn.Module], patterns: Iterable[str]) -> list[str]:
    hits: set[str] = set()
    patterns = list(patterns)
    matched = full_matches(patterns, linears, error=ModelError, where="targets, exclude")
    for pattern, whole in zip(patterns, matched, strict=True):
        found = {name for name in linears if pattern in name.split(".")}.union(whole)
        if not found:
            raise _no_hit(pattern, linears)
        hits |= found
    return [name for name in linears if name in hits]


def _no_hit(pattern: str, linears: dict[str, nn.Module]) -> ModelError:
    parts = sorted({part for name in linears for part in name.split(".") if not part.isdigit()})
    near = near_names(pattern, [*parts, *linears], most=3)
    known = f"near names: {', '.join(near)}" if near else f"known parts: {', '.join(parts)}"
    return ModelError("the pattern matches no linear module", where=pattern, expected=PATTERN_HINT, got=known)


def _looks_linear(module: nn.Module) -> bool:
    # Packed and adapted linears (bitsandbytes, GPTQ, AWQ, PEFT, ...) are found too, so that they can be refused.
    if isinstance(module, nn.Linear) or _is_conv1d(module):
        return True
    return "linear" in type(module).__name__.lower() and hasattr(module, "in_features")


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _main_chain(model: nn.Module, linears: dict[str, nn.Module]) -> list[str]:
    """Name prefixes of the block lists to split into layers: the outermost `ModuleList`s of the largest stack.

    Of several towers the language model's counts; an encoder and a decoder of the same kind of block count both.
    """
    tower = language_tower(model)
    inside = f"{tower}." if tower else ""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(inside)
    }
    outer = [n for n in lists if not any(n != other and n.startswith(f"{other}.") for other in lists)]
    sizes = {n: sum(1 for linear in linears if linear.startswith(f"{n}.")) for n in outer}
    largest = max(outer, key=lambda n: sizes[n], default=None)
    if largest is None or sizes[largest] == 0:
        return []
    kind = {type(block) for block in lists[largest]}
    return [n for n in outer if {type(block) for block in lists[n]} == kind]


def _layer_of(name: str, chain: list[str]) -> int | None:
    for prefix in chain:
        if name.startswith(f"{prefix}."):
            return int(name[len(prefix) + 1 :].split(".")[0])
    return None


def _shared_weights(model: nn.Module) -> set[str]:
    """Names of modules whose weight is also another module's, and of the input and output embeddings."""
    uses = Counter(id(module._parameters.get("weight")) for module in model.modules())
    head = output_head(model)
    return {
        name
        for name, module in model.named_modules()
        if module is head
        or (module._parameters.get("weight") is not None and uses[id(module._parameters["weight"])] > 1)
    }


def _target(name: str, module: nn.Module, layer: int | None, in_memory: bool) -> Target:
    conv1d = _is_conv1d(module)
    weight = module._parameters.get("weight")
    if sharded := _sharded(weight):
        raise ModelError(
            "the weights are sharded among processes, so none has a whole matrix",
            where=name,
            got=sharded,
            do="initialise in one process with `farss init`, and load the adapter where the model is sharded",
        )
    plain = conv1d or (isinstance(module, nn.Linear) and _multiplies(type(module)))
    if not plain or weight is None or type(weight) not in PLAIN or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            "the module is not a plain linear layer",
            where=name,
            expected="nn.Linear or Conv1D with a floating-point weight",
            got=f"{type(module).__module__}.{type(module).__qualname__}",
            do="load the model unquantised and without adapters, or exclude the module",
        )
    if in_memory and weight.is_meta:
        raise ModelError("the weight is not in memory", where=name, do="load the model without offloading to disk")
    rows, columns = weight.shape
    shape = (columns, rows) if conv1d else (rows, columns)
    return Target(name, module, layer, name.rpartition(".")[2], shape, module._parameters["bias"] is not None, conv1d)


def _sharded(weight: object) -> str | None:
    """What divided a weight among processes and left a placeholder or a piece of it here; None for a whole weight."""
    if hasattr(weight, "ds_shape") or hasattr(weight, "ds_id"):
        return "DeepSpeed ZeRO-3"
    if hasattr(weight, "device_mesh") or getattr(weight, "_is_flat_param", False):
        return "fully sharded data parallel"
    return None


@cache
def _multiplies(kind: type[nn.Linear]) -> bool:
    """Whether a class of linear layers computes `W h + b` and nothing else, as Falcon's does in its own words."""
    if kind.forward is nn.Linear.forward:
        return True
    draw = torch.Generator().manual_seed(0)
    weight, bias, h = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 2), (3,), (1, 4, 2)))
    for offset in (bias, None):
        alone = SimpleNamespace(weight=weight, bias=offset, in_features=2, out_features=3)
        try:
            found = kind.forward(alone, h)  # type: ignore[arg-type]  # it needs nothing but these
        except (AttributeError, TypeError, RuntimeError, ValueError):
            return False
        if not isinstance(found, Tensor) or not torch.allclose(found, nn.functional.linear(h, weight, offset)):
            return False
    return True
