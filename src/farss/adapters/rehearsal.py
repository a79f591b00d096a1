"""Whether PEFT will adapt what is planned: tried on the model's structure, before statistics are taken of its weights.

PEFT refuses some modules of some models, and for mixtures of experts it reads the names of dense modules as those of
experts (`gate_proj` of a shared expert becomes the fused `gate_up_proj`). Both show when adapters are put in, which
costs nothing where the weights take no memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from farss.adapters.configs import RankAndScale, check_injected, lora_config
from farss.adapters.layers import DEFAULT
from farss.errors import AdapterError, ModelError
from farss.model.targets import Target


def check_followed(model: nn.Module, targets: Sequence[Target]) -> None:
    """Check that PEFT puts an adapter on every target and on nothing else.

    Args:
        model: a base model, which is only read; its weights may be elsewhere.
        targets: of `find_targets`.

    Raises:
        ModelError: naming the modules that PEFT does not follow, and the exclusion that leaves them out.
    """
    names = [target.name for target in targets]
    reason = _objection(model, names)
    if reason is None:
        return
    kinds = {target.kind: [other.name for other in targets if other.kind == target.kind] for target in targets}
    refused = [kind for kind, named in kinds.items() if _objection(model, named) is not None]
    left = [target.name for target in targets if target.kind not in refused]
    helps = refused and left and _objection(model, left) is None
    raise ModelError(
        "PEFT does not adapt these modules of this model as linear layers",
        where=", ".join(refused or names[:3]),
        got=reason,
        do=_advice(refused) if helps else "name others: init.targets",
    )


def _advice(kinds: Sequence[str]) -> str:
    return f"leave them out: --set 'init.exclude=[{', '.join(kinds)}]', beside what is excluded already"


def _objection(model: nn.Module, names: Sequence[str]) -> str | None:
    """What stands against adapters on the named modules; None where nothing does."""
    from peft import get_peft_model

    hollow = _hollow(model)
    modules = {name: RankAndScale(1, 1.0) for name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT, about the model that is thrown away
            wrapped = get_peft_model(hollow, lora_config(hollow, modules), low_cpu_mem_usage=True)  # type: ignore[arg-type]
        check_injected(wrapped, modules, DEFAULT)
    except AdapterError as error:
        return f"other modules than asked for: {error.got}"
    except (ValueError, NotImplementedError, AttributeError) as error:
        return str(error)
    return None


def _hollow(model: nn.Module) -> nn.Module:
    """A copy of the model's structure, whose weights take no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)
