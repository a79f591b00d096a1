"""A model folder on disk: checked before it is loaded, loaded only if every weight is there and finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from farss.errors import ModelError
from farss.foreign import foreign
from farss.model.folders import CONFIGURATION, check_config, check_files, check_sizes, inside
from farss.model.kinds import language_class
from farss.model.quantised import check_unquantised
from farss.model.tables import GIVE_ROWS, vocabulary_of

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
CONVERT = (
    "convert once, in a process you trust: "
    "AutoModelForCausalLM.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW_FOLDER)"
)


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Check what can be checked of a model folder without loading it.

    Raises:
        ModelError: if the folder holds an adapter, lacks a configuration, a tokenizer or safetensors weights, has a
            damaged or missing weight file, holds quantised weights, or needs code of its own to run.
    """
    config = _read_config(folder)
    check_files(folder)
    check_config(config, folder, trusted=trust_remote_code)
    _check_code(folder, config, trust_remote_code)
    files = weight_files(folder)
    for file in files:
        _check_weight_file(file)
    check_unquantised(folder, config, files)
    check_sizes(config, stored_numbers(folder), folder)
    _say_what_is_not_read(folder, files)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            "the model folder has no tokenizer",
            where=folder,
            expected=" or ".join(TOKENIZER_FILES),
            do="save the tokenizer beside the weights: tokenizer.save_pretrained(FOLDER)",
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights of the model in `folder`, chosen as transformers chooses.

    A file or index that the configuration names (`transformers_weights`), else `model.safetensors`, else the shards of
    `model.safetensors.index.json`. What else lies in the folder is not read.

    Raises:
        ModelError: if there are none, only pickled ones, or the index is damaged or names a file that is not there.
    """
    config = folder / CONFIG
    named = _read_json(config).get("transformers_weights") if config.is_file() else None
    for name in (named,) if named else (SINGLE, INDEX):
        if inside(folder, name).is_file():
            return _shards(folder, name) if name.endswith(".index.json") else [folder / name]
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled and not named:
        raise ModelError(
            "the weights are pickled, which can run code when loaded",
            where=folder / pickled[0],
            expected=SINGLE,
            got=", ".join(pickled),
            do=CONVERT,
        )
    raise ModelError("the model folder has no weights", where=folder, expected=named or SINGLE)


def _shards(folder: Path, index: str) -> list[Path]:
    shards = _read_json(folder / index).get("weight_map")
    names = {name: inside(folder, name) for name in shards.values()} if isinstance(shards, dict) else {}
    missing = sorted(name for name, file in names.items() if not file.is_file())
    if missing or not names:
        raise ModelError("weight files are missing", where=folder, expected=", ".join(missing) or "a weight map")
    return [names[name] for name in sorted(names)]


def _say_what_is_not_read(folder: Path, files: list[Path]) -> None:
    """Warn of weights in `folder` that a reader may take for the model's and that are not."""
    shards = {file.name for file in folder.glob("model-*-of-*.safetensors")}
    beside = sorted((shards | ({INDEX} & {file.name for file in folder.iterdir()})) - {file.name for file in files})
    if len(files) == 1 and files[0].name == SINGLE and beside:
        warnings.warn(
            f"{folder} holds {SINGLE} and beside it {', '.join(beside[:3])}{' ...' if len(beside) > 3 else ''}: "
            f"the weights are read from {SINGLE}, as transformers does",
            stacklevel=3,
        )


def load_folder(folder: Path, *, dtype: str = "checkpoint", trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The causal language model (a `PreTrainedModel`) and the tokenizer in `folder`, on the CPU, in evaluation mode.

    Args:
        folder: a model folder; `check_folder` is applied first.
        dtype: "checkpoint" for the dtype of the checkpoint, or the name of a torch dtype.
        trust_remote_code: whether code in the folder may run.

    Raises:
        ModelError: as `check_folder`; if the model writes no text (`language_class`); if weights are missing, of the
            wrong shape, NaN or Inf; if the tokenizer cannot be read or has no end-of-sequence token.
    """
    architecture, _ = language_model(folder, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    with foreign(ModelError, "the model cannot be loaded", where=folder), quiet():
        answer: Any = architecture.from_pretrained(
            folder,
            dtype="auto" if dtype == "checkpoint" else getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, loading = answer
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ModelError(
            "the checkpoint lacks weights of the model",
            where=folder,
            expected=", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            do="the folder must hold a whole causal language model; merge or export an adapter first",
        )
    check_finite(model, where=folder)
    _try_out(model.eval(), folder, tokenizer.eos_token_id)
    return model, tokenizer


@torch.inference_mode()
def _try_out(model: nn.Module, folder: Path, token: int) -> None:
    """Run two tokens: many an impossible setting is first met by the first text."""
    with foreign(ModelError, "the model cannot be run", where=folder):
        logits = model(input_ids=torch.tensor([[token, token]])).logits
    if bool(logits.isnan().any()):
        raise ModelError("the model gives outputs that are no numbers", where=folder, do="check its configuration")


def stored_numbers(folder: Path) -> int:
    """How many numbers the weight files in `folder` hold; only their headers are read.

    Raises:
        ModelError: as `weight_files`.
    """
    total = 0
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return total


def check_finite(model: nn.Module, *, where: object = None) -> None:
    """Check that every weight is a number.

    Raises:
        ModelError: naming the first parameter that holds NaN or Inf, and how many do.
    """
    broken = []
    for name, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter.detach())  # NaN and Inf both come through, in one pass
        if not (torch.isfinite(low) and torch.isfinite(high)):
            broken.append(name)
    if broken:
        raise ModelError(
            "the model has weights that are NaN or Inf",
            where=where,
            got=f"{broken[0]}" + (f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""),
            do="the file is damaged, or its values do not fit the dtype it is loaded in: try --dtype float32",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside the block; whether they show afterwards is as it was before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_json(file: Path) -> dict[str, Any]:
    return CONFIGURATION.read_object(file)


def _read_config(folder: Path) -> dict[str, Any]:
    if (folder / CONFIG).is_file():
        return _read_json(folder / CONFIG)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "the folder holds an adapter, not a model",
            where=folder,
            do="name the base model as the model and this folder as the adapter, or merge it first",
        )
    raise ModelError("the model folder has no configuration", where=folder, expected="config.json")


def _check_code(folder: Path, config: dict[str, Any], trusted: bool) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if (isinstance(kind, str) and kind in CONFIG_MAPPING) or (trusted and "auto_map" in config):
        return
    if "auto_map" in config:
        raise ModelError(
            "the model needs code of its own to run, which is off unless asked for",
            where=folder,
            got=f"model_type `{kind}`",
            do="read that code; if you trust it, say --set model.trust_remote_code=true",
        )
    raise ModelError(
        "transformers does not know this kind of model",
        where=folder / CONFIG,
        got=f"model_type `{kind}`",
        do="update transformers, or correct model_type",
    )


def _check_weight_file(file: Path) -> None:
    try:
        with safe_open(file, framework="pt") as opened:  # compares the header with the length of the file
            if not list(opened.keys()):
                raise ModelError("the weight file is empty", where=file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "the weight file is damaged or cut short", where=file, got=str(error), do="download or copy it again"
        ) from error


def language_model(folder: Path, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The transformers class that loads the language model in `folder`, and its configuration; nothing is loaded.

    Raises:
        ModelError: as `check_folder`, and if the model writes no text (`language_class`).
    """
    check_folder(folder, trust_remote_code=trust_remote_code)
    config = load_config(folder, trust_remote_code)
    return language_class(config, folder, trust_remote_code=trust_remote_code), config


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The transformers configuration in `folder`.

    Raises:
        ModelError: if it cannot be read.
    """
    from transformers import AutoConfig

    with foreign(ModelError, "the configuration cannot be read", where=folder):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in `folder`, with an end-of-sequence and a padding token.

    Raises:
        ModelError: if it cannot be read, or has no end-of-sequence token that the model has an embedding for.
    """
    from transformers import AutoTokenizer

    with foreign(ModelError, "the tokenizer cannot be loaded", where=folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so a response could not be ended",
            where=folder,
            do='set it once: tokenizer.eos_token = "..."; tokenizer.save_pretrained(FOLDER)',
        )
    rows = vocabulary_of(load_config(folder, trust_remote_code))
    if rows is not None and tokenizer.eos_token_id >= rows:
        raise ModelError(
            "the tokenizer's end-of-sequence token has no embedding in the model",
            where=folder,
            expected=f"an id from 0 to {rows - 1}",
            got=f"`{tokenizer.eos_token}`, id {tokenizer.eos_token_id}",
            do=GIVE_ROWS,
        )
    pad = tokenizer.pad_token_id
    if pad is not None and rows is not None and pad >= rows:
        warnings.warn(
            f"the padding token `{tokenizer.pad_token}` (id {pad}) has no embedding in the model, so texts are padded "
            f"with `{tokenizer.eos_token}`; padding is masked",
            stacklevel=2,
        )
        pad = None
    if pad is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked everywhere; any token serves
    return tokenizer
