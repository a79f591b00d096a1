"""What a model folder may hold and name, checked before a library obeys it."""

from __future__ import annotations

import importlib.util
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from farss.errors import ModelError
from farss.reading import MIB, Document, stays_inside

CONFIGURATION = Document("model's configuration", ModelError, most_bytes=64 * MIB, finite=False)
"""Mamba-like models write Infinity into theirs."""
TEXTS = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
"""What transformers reads beside the configuration, without limits."""
LARGEST = 2**40
MOST_LAYERS = 4_096
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_experts")

WIDTHS, OTHERS = (
    ("hidden_size", "n_embd", "d_model"),
    ("vocab_size", "intermediate_size", "n_inner", "num_hidden_layers"),
)

IMPLEMENTATIONS: Mapping[str, frozenset[str | None]] = {
    "attn_implementation": frozenset({None, "eager", "sdpa", "flex_attention"}),
    "experts_implementation": frozenset({None, "eager", "batched_mm", "grouped_mm"}),
}
"""What a configuration may name; by any other name transformers may fetch compiled code from the hub and run it."""
PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Implementations that are taken from an installed package, and from the hub only where it is not installed."""


def check_files(folder: Path) -> None:
    """Check that a folder holds files and folders only, and that its texts are what libraries can read.

    Raises:
        ModelError: naming what is a pipe, a device or the like, or a text that is damaged or beyond all bounds.
    """
    for entry in sorted(folder.iterdir()):
        kind = entry.stat().st_mode if entry.exists() else stat.S_IFREG
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise ModelError("the model folder holds something that is no file", where=entry, do="remove it")
    for name in TEXTS:
        if (folder / name).is_file():
            settings = CONFIGURATION.read_json(folder / name)
            listed = settings.get("fast_tokenizer_files") if isinstance(settings, dict) else None
            for file in listed if isinstance(listed, list) else []:
                inside(folder, file)


def inside(folder: Path, name: object) -> Path:
    """The file that a name in `folder`'s own files stands for.

    Raises:
        ModelError: if the name leads out of the folder.
    """
    if not stays_inside(name):
        raise ModelError(
            "a name in the model folder leads out of it",
            where=folder,
            expected="names of files in the folder",
            got=repr(name),
            do="get the model from where it was published; do not use this folder",
        )
    return folder / str(name)


def check_config(config: Mapping[str, Any], folder: Path, *, trusted: bool = False) -> None:
    """Check what a configuration names and how large the model is that it describes.

    Args:
        config: the content of `config.json`.
        folder: for messages.
        trusted: whether code of the model may run.

    Raises:
        ModelError: if it names an implementation that would be fetched, or a number is beyond all bounds.
    """
    for key, value in _settings(config):
        name = key.removeprefix("_").removesuffix("_internal")
        if name in IMPLEMENTATIONS and not trusted:
            for named in value.values() if isinstance(value, dict) else [value]:
                _check_implementation(name, named, folder)
        if isinstance(value, int) and abs(value) > (MOST_LAYERS if key in LAYERS else LARGEST):
            raise ModelError("the configuration has an impossible number", where=f"{folder}: {key}", got=value)


def check_sizes(config: Mapping[str, Any], stored: int, folder: Path) -> None:
    """Check that no matrix of the configuration is larger than the whole checkpoint: room is made for it first.

    Args:
        config: the content of `config.json`.
        stored: how many numbers the weight files hold.
        folder: for messages.

    Raises:
        ModelError: if one is.
    """
    parts = [config, config.get("text_config") or {}]
    for part in (part for part in parts if isinstance(part, dict)):
        sizes = {key: part[key] for key in (*WIDTHS, *OTHERS) if isinstance(part.get(key), int)}
        width = next((sizes[key] for key in WIDTHS if key in sizes), 0)
        for key in OTHERS:
            if width * sizes.get(key, 0) > stored:
                raise ModelError(
                    "the configuration describes a larger model than is stored",
                    where=folder,
                    expected=f"at most {stored:,} numbers",
                    got=f"a matrix of {width:,} by {sizes[key]:,} ({key})",
                    do="get the configuration that belongs to these weights",
                )


def _check_implementation(kind: str, named: object, folder: Path) -> None:
    allowed = IMPLEMENTATIONS[kind]
    package = PACKAGES.get(named) if isinstance(named, str) else None
    if (named is None or isinstance(named, str)) and named in allowed:
        return
    if package is not None and importlib.util.find_spec(package) is not None:
        return
    raise ModelError(
        "the configuration names code that would be fetched and run",
        where=f"{folder}: {kind}",
        expected=" | ".join(sorted(filter(None, allowed))),
        got=repr(named),
        do="remove the setting; if you trust that code, set model.trust_remote_code to true",
    )


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value, those of the parts of a model too."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict):
            yield from _settings(value)
