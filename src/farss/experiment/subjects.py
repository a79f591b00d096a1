"""Models that were trained elsewhere: an adapter of anybody's on the base, or a whole fine-tuned model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from farss.adapters.accounting import check_accounted
from farss.adapters.files import UNUSABLE, WEIGHTS_FILE, load_adapter, read_any_config
from farss.adapters.foreign_config import check_patterns
from farss.config import Recipe
from farss.errors import AdapterError, ConfigError, DataError
from farss.experiment import materials
from farss.foreign import foreign
from farss.model.devices import place
from farss.model.sources import LoadedModel, load
from farss.storage import read_tensors

ADAPTER, MODEL = "adapter_config.json", "config.json"
"""What the folder of an adapter holds, and that of a model."""


@dataclass(frozen=True)
class Subject:
    """What is measured: an adapter on the base model, or a whole fine-tuned model.

    Attributes:
        adapter: any PEFT adapter folder, or None.
        finetuned: a model folder or name, or None; exactly one of the two is given.
    """

    adapter: Path | None = None
    finetuned: str | None = None

    def __post_init__(self) -> None:
        if (self.adapter is None) == (self.finetuned is None):
            raise ConfigError("name an adapter or a fine-tuned model, one of the two", where="--adapter, --finetuned")
        if self.adapter is not None and not (self.adapter / ADAPTER).is_file():
            raise AdapterError("the folder holds no adapter", where=self.adapter, expected=ADAPTER)

    @classmethod
    def in_folder(cls, folder: Path) -> Subject | None:
        """The adapter or the model that a folder holds; None if it holds neither."""
        if (folder / ADAPTER).is_file():
            return cls(adapter=folder)
        return cls(finetuned=str(folder)) if (folder / MODEL).is_file() else None

    @property
    def folder(self) -> Path:
        """Where it lies; of a model by name, the name."""
        return self.adapter if self.adapter is not None else Path(str(self.finetuned))

    @property
    def name(self) -> str:
        """What it is called in the report: the folder's name, not its path."""
        return self.adapter.resolve().name if self.adapter is not None else Path(str(self.finetuned)).name

    def identity(self) -> list[Any]:
        """What changes when its files do: their names, sizes and times."""
        files = sorted(path for path in self.folder.glob("*") if path.is_file()) if self.folder.is_dir() else []
        return [str(self.folder), [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]]


def check_subject(recipe: Recipe, subject: Subject) -> None:
    """Check, before anything is loaded, that a fine-tuned model is one that writes text.

    Raises:
        ModelError: if it is not found, damaged, or of another kind.
    """
    if subject.finetuned is not None:
        materials.check_model(recipe.override({"model.name": subject.finetuned, "model.revision": None}))


def tuned_model(recipe: Recipe, subject: Subject, loaded: LoadedModel) -> nn.Module:
    """The trained model: the base with the adapter around it, or the fine-tuned one in the base's dtype.

    Raises:
        DataError: if the fine-tuned model is of another kind than the base.
        AdapterError: if the adapter is damaged or does not fit.
    """
    if subject.adapter is not None:
        return any_adapter(loaded.model, subject.adapter, loaded.fingerprint)
    config = dataclasses.replace(recipe.model, name=str(subject.finetuned), revision=None)
    tuned = load(config, device=place(recipe.device))  # in the base's dtype, which the recipe spells out
    if tuned.model.config.model_type != loaded.model.config.model_type:
        expected, got = loaded.model.config.model_type, tuned.model.config.model_type
        raise DataError("the fine-tuned model is of another kind", where=subject.name, expected=expected, got=got)
    return tuned.model


def any_adapter(base: nn.Module, folder: Path, fingerprint: str | None = None) -> nn.Module:
    """`base` with any adapter that PEFT can load on it; LoRA folders are checked as `load_adapter` does.

    Raises:
        AdapterError: if the folder is damaged, or the adapter does not fit the model.
    """
    from peft import PeftModel

    config = read_any_config(folder)
    if config["peft_type"] == "LORA":
        return load_adapter(base, folder, trainable=False, fingerprint=fingerprint)
    check_patterns(config, base, folder)
    with foreign(AdapterError, UNUSABLE, where=folder):
        model = PeftModel.from_pretrained(base, str(folder))  # type: ignore[arg-type]  # any nn.Module will do
    check_accounted(model, folder, read_tensors(folder / WEIGHTS_FILE)[0])
    return model
