"""A GGUF file, converted once to an ordinary checkpoint in bfloat16 and checked against what it was converted from."""

from __future__ import annotations

import functools
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farss.errors import ModelError, StorageError
from farss.model.checkpoint import load_folder, quiet
from farss.model.digests import BLOCK_BYTES, noted_digest
from farss.model.fingerprints import fingerprint
from farss.storage import new_folder
from farss.storage.disk import CACHE_FULL, require_space

FORMAT = 1  # raise when the converted checkpoint changes, so that older conversions are not used
PROBE_TOKENS = 64


def convert(files: Sequence[Path], name: str, folder: Path, *, sha256: str | None = None) -> Path:
    """The folder with the checkpoint converted from a GGUF file; made now if it is not there yet.

    Args:
        files: the GGUF file, or its pieces in order.
        name: of the model; the checkpoint's folder is `folder/NAME-HASH`, HASH of the GGUF file.
        folder: where converted models are kept.
        sha256: the digest the GGUF file must have; None accepts any.

    Raises:
        ModelError: if the file is damaged, of a layout transformers cannot read, or the converted checkpoint does not
            give the outputs of the model it was made from.
        ResourceError: if the disk of the cache cannot hold it.
        StorageError: if the checkpoint cannot be written.
    """
    digest = check_digest(files, name, sha256, folder)
    target = folder / f"{name}-{digest[:12]}-{FORMAT}"
    if (target / "config.json").is_file():
        return target
    size = sum(file.stat().st_size for file in files)
    # Weights of two bytes from ones of at most four, and all pieces joined before that.
    require_space(folder, size // 2 + size * (len(files) > 1), f"the converted model `{name}`", CACHE_FULL)
    try:
        with new_folder(target) as temporary:
            _write_checkpoint(files, temporary)
    except StorageError:
        if not (target / "config.json").is_file():  # else another process was quicker
            raise
    return target


def check_digest(files: Sequence[Path], name: str, sha256: str | None, folder: Path) -> str:
    """The SHA-256 of a weight file in pieces, which must be `sha256` unless that is None; it is noted in `folder`.

    Raises:
        ModelError: if the file of the model `name` has another one.
    """
    digest = noted_digest(files, folder / f"{name}-source.json")
    if sha256 is not None and digest != sha256:
        raise ModelError(
            f"the weight file of model `{name}` is damaged or another version",
            where=files[0],
            expected=f"sha256 {sha256}",
            got=f"sha256 {digest}",
            do="install the package again",
        )
    return digest


def _write_checkpoint(files: Sequence[Path], out: Path) -> None:
    source = out / "source.gguf"
    if len(files) == 1:
        source.symlink_to(files[0].resolve())
    else:
        with source.open("wb") as whole:
            for file in files:
                with file.open("rb") as piece:
                    shutil.copyfileobj(piece, whole, BLOCK_BYTES)
    model, tokenizer = _read_gguf(source)
    source.unlink()
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    # Compared in float32, where a wrong weight cannot hide in rounding, and which every processor is fast in.
    _check_equal(model.float(), load_folder(out, dtype="float32")[0], files[0])


def _read_gguf(file: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet(), _parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ModelError("the GGUF file cannot be read", where=file.resolve(), got=str(error)) from error
    # The weights are dense now; what says otherwise would make `save_pretrained` refuse.
    for owner, attribute in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    return model.eval(), tokenizer


@contextmanager
def _parsed_once() -> Iterator[None]:
    """While a file is converted, keep what transformers asks gguf for again and again: half the time of a small model.

    The header is parsed for the tokenizer, the settings and the weights each, and the table of tensor names is built
    for every module.
    """
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(reader), functools.cache(names)  # type: ignore[misc]
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names  # type: ignore[misc]


@torch.no_grad()
def _check_equal(before: nn.Module, after: nn.Module, where: Path) -> None:
    """Refuse a checkpoint whose weights or outputs are not those of the model it was saved from."""
    if fingerprint(before) != fingerprint(after):
        raise ModelError("the converted checkpoint has other weights than the GGUF file", where=where)
    vocabulary: int = before.config.vocab_size  # type: ignore[assignment]  # pyright takes attributes of a Module for tensors
    tokens = torch.arange(PROBE_TOKENS)[None] * (vocabulary // PROBE_TOKENS)
    expected, got = before(tokens).logits.float(), after(tokens).logits.float()
    allowed = torch.finfo(torch.float32).eps * expected.abs().max().item()
    difference = (expected - got).abs().max().item()
    if not difference <= allowed:
        raise ModelError(
            "the converted checkpoint gives other outputs than the GGUF file",
            where=where,
            expected=f"a difference of at most {allowed:.3g}",
            got=f"{difference:.3g}",
        )
