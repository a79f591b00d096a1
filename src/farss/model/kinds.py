"""What kind of model a folder holds, by its configuration: whether it writes text, and by which class it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farss.errors import ModelError


def language_class(config: Any, folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers auto class that loads the whole language model described by `config`.

    A checkpoint of text and images (or sound) is loaded by the class it was saved by, not by the text-only class that
    transformers has beside it: the names of its modules and files are those that other tools will look for.

    Args:
        config: a transformers configuration.
        folder: it was read from, for messages.
        trust_remote_code: whether code in the folder may run, and so decide.

    Raises:
        ModelError: if the model is an encoder, writes from an encoder, or has another head than a language model's.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto import modeling_auto as known

    kind, named = config.model_type, (getattr(config, "architectures", None) or [None])[0]
    own = getattr(config, "auto_map", None) or {}
    if trust_remote_code and AutoModelForCausalLM.__name__ in own:
        return AutoModelForCausalLM
    text = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    whole = known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind)
    if getattr(config, "is_encoder_decoder", False):
        raise _refused("the model writes from an encoder and is no causal language model", config, folder)
    if kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise _refused("the model is an encoder and writes no text", config, folder)
    if kind not in CONFIG_MAPPING or not (text or whole) or _of_another_task(named):
        raise _refused("the model is no causal language model", config, folder)
    return AutoModelForMultimodalLM if whole and named != text else AutoModelForCausalLM


def _of_another_task(named: str | None) -> bool:
    """Whether transformers knows a class by its head, and the head is no language model's."""
    from transformers.models.auto import modeling_auto as known

    if named is None:
        return False
    tables = {name: table for name, table in vars(known).items() if name.startswith("MODEL_FOR_")}
    heads = {name: _classes(table) for name, table in tables.items() if name.endswith("_MAPPING_NAMES")}
    writes = heads["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"] | heads["MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"]
    return named not in writes and any(named in classes for classes in heads.values())


def _classes(table: dict[str, Any]) -> set[str]:
    return {name for entry in table.values() for name in (entry if isinstance(entry, (tuple, list)) else (entry,))}


def _refused(what: str, config: Any, folder: Path) -> ModelError:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    named = ", ".join(getattr(config, "architectures", None) or ())
    classifies = config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return ModelError(
        what,
        where=folder,
        expected="a causal language model, with or without images",
        got=f"{named or 'no architecture'} (model_type `{config.model_type}`)",
        do="use it with `farss glue`" if classifies else "name a model that writes text",
    )
