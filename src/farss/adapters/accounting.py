"""Every tensor of an adapter's file is used, and nothing of the base is changed unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from farss.adapters.layers import DEFAULT
from farss.errors import AdapterError, NumericalError
from farss.model.fingerprints import base_parameters

if TYPE_CHECKING:
    from peft import PeftModel

PREFIX = "base_model.model."
_ATTRIBUTE = "farss_changed"

Sums = dict[str, tuple[tuple[int, ...], int]]
"""Shape and sum of the bits of every base weight, by name: a change of one bit changes it."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_accounted(model: PeftModel, folder: Path, stored: Mapping[str, Tensor]) -> None:
    """Check that the file holds every tensor that the configuration asks for, and no other.

    PEFT only warns of missing tensors and ignores others, so that an adapter under other names is the base alone.

    Args:
        model: as PEFT loaded it.
        folder: the adapter, for messages.
        stored: the tensors of the file.

    Raises:
        AdapterError: naming tensors that are missing or were not used.
    """
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model, adapter_name=DEFAULT, save_embedding_layers=False))
    unused = set(stored) - wanted - set(base_weights(model.get_base_model(), stored))
    differing = sorted((wanted - set(stored)) | unused)
    if differing:
        raise AdapterError(
            "the adapter's weights do not match its configuration",
            where=folder,
            expected=f"{len(wanted)} tensors",
            got=f"{len(stored)}; differing: {', '.join(differing[:3])}",
            do="load it on the class of model that it was trained on",
        )


def base_weights(base: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Those tensors of an adapter's file that are weights of the base itself (biases, embeddings): name by key."""
    plain = {name.replace(".base_layer", ""): name for name, _ in base.named_parameters(remove_duplicate=False)}
    found = {}
    for key in stored:
        name = key.removeprefix(PREFIX).replace(".base_layer", "")
        if key.startswith(PREFIX) and name in plain:
            found[key] = plain[name]
    return found


def check_vocabulary(base: nn.Module, folder: Path, stored: Mapping[str, Tensor]) -> None:
    """Check that the weights of the base in an adapter's file have the base's shapes.

    Raises:
        AdapterError: if they do not: the vocabulary was extended before the adapter was trained.
    """
    for key, name in base_weights(base, stored).items():
        expected, got = tuple(base.get_parameter(name).shape), tuple(stored[key].shape)
        if expected != got:
            raise AdapterError(
                "the adapter was trained on a base with another vocabulary",
                where=f"{folder}: {key}",
                expected=expected,
                got=got,
                do="resize the base's embeddings as it was done before training (`resize_token_embeddings`), save it "
                "with the adapter's tokenizer, and name that folder with `--model`",
            )


def weight_sums(model: nn.Module) -> Sums:
    """The sums of the base weights in `model`, a base model or a PEFT model around one."""
    return {name: (tuple(weight.shape), _sum(weight.detach())) for name, weight in base_parameters(model)}


def note_changes(model: PeftModel, before: Sums) -> None:
    """Remember on `model` which weights of the base its adapter replaced when it was loaded."""
    now = weight_sums(model)
    object.__setattr__(model, _ATTRIBUTE, sorted(name for name in before if now.get(name) != before[name]))


def changed_weights(model: nn.Module) -> list[str]:
    """The weights of the base that the adapter of `model` replaced when it was loaded, or trains itself."""
    changed = vars(model).get(_ATTRIBUTE)
    if changed is not None:
        return changed
    configs = getattr(model, "peft_config", {})
    biased = any(getattr(configs[name], "bias", "none") != "none" for name in getattr(model, "active_adapters", []))
    return sorted(name for name, _ in base_parameters(model) if biased and name.endswith("bias"))


@contextmanager
def kept(base: nn.Module, *, names: set[str] | None) -> Iterator[None]:
    """After the block the weights of `base` are, bit for bit, what they were.

    Args:
        base: a base model; adapters that the block put on it are taken off before it ends.
        names: the weights that may change, of which copies are kept; None keeps copies of all.

    Raises:
        NumericalError: if another weight changed.
    """
    before = weight_sums(base)
    weights = base.named_parameters()
    copies = {name: weight.detach().clone() for name, weight in weights if names is None or name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in copies.items():
                base.get_parameter(name).data.copy_(weight)
    now = weight_sums(base)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise NumericalError(
            "an adapter left the base model changed, so nothing can be measured on it any more",
            where=", ".join(changed[:3]),
            got=f"{len(changed)} of {len(before)} weights",
            do="measure this adapter in a call of its own",
        )


def _sum(weight: Tensor) -> int:
    return int(weight.contiguous().view(_WORDS[weight.element_size()]).sum(dtype=torch.int64))
