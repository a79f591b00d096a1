"""From a name to a loaded model: a short name, a folder, a GGUF file, or a hub id, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from farss.config import Dtype, ModelConfig, Precision
from farss.errors import ModelError, did_you_mean
from farss.model.arithmetic import Arithmetic, decide
from farss.model.cache import cache_root
from farss.model.checkpoint import check_folder, load_folder, stored_numbers
from farss.model.conversion import check_digest, convert
from farss.model.fingerprints import fingerprint, weight_hash
from farss.model.lazy import stored_dtype
from farss.model.packages import KNOWN_MODELS, KnownModel, available_models, require_package_files
from farss.reading import is_file, is_folder

__all__ = [
    "KNOWN_MODELS",
    "KnownModel",
    "LoadedModel",
    "available_models",
    "cache_root",
    "fingerprint",
    "load",
    "resolve",
    "weight_hash",
]

HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model ready to use.

    Args:
        model: a transformers `PreTrainedModel` in evaluation mode, on the device asked for; its parameters require
            gradients as loaded.
        tokenizer: with an end-of-sequence and a padding token.
        name: as it was asked for.
        folder: where its checkpoint lies.
        fingerprint: of its weights; the same in every dtype (`farss.model.fingerprints`).
        arithmetic: how it was decided to be computed; None where somebody else loaded it.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path | None
    fingerprint: str
    arithmetic: Arithmetic | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return next(self.model.parameters()).dtype


def load(config: ModelConfig, *, dtype: Dtype | None = None, device: torch.device | str = "cpu") -> LoadedModel:
    """The model and tokenizer that `config` names.

    Args:
        config: name, revision, dtype and whether the model's own code may run.
        dtype: replaces `config.dtype`.
        device: where to put the model.

    Raises:
        ModelError: if the model is not found, damaged, unsafe to load or incomplete; the message says what was tried.
        StorageError: if a converted model cannot be kept.
    """
    if config.name in KNOWN_MODELS and KNOWN_MODELS[config.name].kind == "encoder":
        raise ModelError("the model is an encoder and writes no text", where=config.name, do="use it with `farss glue`")
    folder = resolve(config.name, config.revision)
    decided = arithmetic_of(config, torch.device(device), dtype=dtype)
    model, tokenizer = load_folder(folder, dtype=decided.weights, trust_remote_code=config.trust_remote_code)
    name_model(model, config.name, folder)
    return LoadedModel(model.to(device), tokenizer, config.name, folder, fingerprint(model), decided)


def arithmetic_of(
    config: ModelConfig,
    device: torch.device,
    *,
    dtype: Dtype | None = None,
    precision: Precision = "auto",
    piecewise: bool = False,
) -> Arithmetic:
    """How the model that `config` names is computed; its weights are not loaded.

    Args:
        config: name, revision and dtype.
        device: where it is computed.
        dtype: replaces `config.dtype`.
        precision: in what it is trained.
        piecewise: whether its weights need not be in memory together.

    Raises:
        ModelError: if the model is not found, or its folder is damaged.
    """
    folder = resolve(config.name, config.revision)
    check_folder(folder, trust_remote_code=config.trust_remote_code)
    stored = stored_dtype(folder, trust_remote_code=config.trust_remote_code)
    numbers = 0 if piecewise else stored_numbers(folder)
    return decide(stored, device, wanted=dtype or config.dtype, precision=precision, numbers=numbers)


def name_model(model: Any, name: str, folder: Path) -> None:
    """Write into `model` what it is called: adapters record their base by it.

    A short name or hub id means the same model everywhere, a cache's folder on this machine does not.
    """
    place = Path(name).expanduser()
    model.name_or_path = model.config._name_or_path = str(folder) if is_folder(place) or is_file(place) else name


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder that holds the checkpoint of the model called `name`; converted or downloaded first if need be.

    Args:
        name: a short name of `KNOWN_MODELS`, a model folder, a `.gguf` file, or a hub id.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelError: if there is no such model, saying what was tried.
        StorageError: if a converted model cannot be kept.
    """
    if name in KNOWN_MODELS:
        return _packaged(name)
    path = Path(name).expanduser()
    if is_folder(path):
        return path
    if is_file(path):
        if path.suffix == ".gguf":
            return convert([path], path.stem, _converted())
        raise ModelError("a file is not a model", where=path, expected="a model folder or a .gguf file")
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise ModelError("the model folder does not exist", where=path, do="check the path")
    return _download(name, revision)


def _packaged(name: str) -> Path:
    """The checkpoint of a known model: converted from its package, or in it where nothing has to be converted."""
    known, files = KNOWN_MODELS[name], require_package_files(name)
    if known.layout == "gguf":
        return convert(files, name, _converted(), sha256=known.sha256)
    check_digest(files, name, known.sha256, _converted())
    return files[0].parent


def _converted() -> Path:
    return cache_root() / "models"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:  # weights in sub-folders are other formats or variants of the same model
        folder = snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=["*/*"])
    except (OSError, ValueError) as error:
        short = did_you_mean(name, KNOWN_MODELS) or "`farss models` lists the short names"
        raise ModelError(
            f"there is no model `{name}`",
            where=f"hub revision {revision}" if revision else None,
            expected=f"a short name ({', '.join(KNOWN_MODELS)}), a folder, a .gguf file or a hub id",
            got=f"no such short name, folder or file; the hub says: {error}",
            do=f"{short}; a hub model needs a network, or an earlier download",
        ) from error
    return Path(folder)
