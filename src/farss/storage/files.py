"""Atomic files: a reader sees the old content or the new, never a half-written one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from farss.errors import StorageError
from farss.reading import open_ordinary
from farss.storage.disk import full_disk

HEADER_LENGTH_BYTES, METADATA = 8, "__metadata__"
"""A safetensors file begins with the length of its header, a JSON object; metadata is one of its entries."""
TEMPORARY = ".farss-"
"""How the names of files and folders begin that are not yet in their place."""


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place; what it returns is ignored.

    Raises:
        StorageError: if the folder cannot be written or the disk is full; `path` is then as it was before.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        unwritten = StorageError("the file could not be written", where=path, got=str(error), do="check permissions")
        raise full_disk(error, path) or unwritten from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically; `metadata` maps strings to strings.

    Equal content gives equal bytes.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(file: Path) -> None:
        save_file(contiguous, file, metadata=metadata)
        if metadata and len(metadata) > 1:
            _sort_metadata(file)

    write_atomically(path, write)


def _sort_metadata(file: Path) -> None:
    """Put the metadata of a safetensors file in the order of its keys; the library writes it in a random one."""
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
        header[METADATA] = dict(sorted(header[METADATA].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # the format allows spaces behind the header, and nothing may move
            stream.seek(HEADER_LENGTH_BYTES)
            stream.write(text.ljust(length))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a safetensors file, on the CPU.

    Raises:
        StorageError: if the file is missing or damaged.
    """
    try:
        open_ordinary(path).close()  # a pipe would be waited for
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())  # the handle itself cannot be iterated
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError("the tensor file cannot be read", where=path, got=str(error)) from error
