"""What an interrupted training needs to go on: the learned weights, and proof that it is the same training."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farss.config import TrainConfig
from farss.errors import OutputError, StorageError
from farss.reading import COUNT, Document, object_of, unless_damaged
from farss.settings import differences
from farss.storage import read_tensors, write_json, write_tensors
from farss.storage.owned import check_own, is_listed, remove, take, writing

WEIGHTS = "learned.safetensors"
STATE = "trainer_state.json"
IDENTITY = "training.json"
PREFIX = "checkpoint-"
BEGIN_AGAIN = "begin again there with --fresh, or choose another --out"
STATE_FILE = Document("state of a checkpoint", StorageError, most_bytes=256 << 20, finite=False, damaged=BEGIN_AGAIN)
STATE_SCHEMA = object_of(global_step=COUNT, log_history={"type": "array", "items": {"type": "object"}})
IDENTITY_FILE = Document("account of a training", StorageError, missing=BEGIN_AGAIN, damaged=BEGIN_AGAIN)
LOGS = "logs"
"""The folder of what is written for TensorBoard."""
TRAINING = "train, its checkpoints"
"""By whom the folder of checkpoints is marked as made."""
ANOTHER = "choose another folder"


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require gradients, by name; shared ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_learned(model: nn.Module, folder: str | Path) -> None:
    """Write the learned weights of `model` into `folder`, in their own dtype.

    Raises:
        StorageError: if the folder cannot be written or the disk is full.
    """
    write_tensors(Path(folder) / WEIGHTS, {name: p.detach() for name, p in learned_weights(model).items()})


def load_learned_(model: nn.Module, folder: str | Path) -> None:
    """Copy the learned weights in `folder` into `model`; frozen ones stay as they are.

    Raises:
        StorageError: if the file is missing or damaged, or holds other weights than `model` learns.
    """
    path = Path(folder) / WEIGHTS
    stored, _ = read_tensors(path)
    learned = learned_weights(model)
    differing = sorted(set(stored) ^ set(learned)) or [n for n in stored if stored[n].shape != learned[n].shape]
    if differing:
        raise StorageError("the checkpoint holds other weights than this model learns", where=path, got=differing[:3])
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(stored[name])


def latest_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint in `out`; one cut short by a kill lacks its state, written last, and is passed."""
    for folder in sorted(_checkpoints(out), key=_step, reverse=True):
        if not ((folder / STATE).is_file() and (folder / WEIGHTS).is_file()):
            continue
        if unless_damaged(functools.partial(state_of, folder), "the one before it is taken") is not None:
            return folder
    return None


def state_of(checkpoint: Path) -> dict[str, Any]:
    """How far a training was at a checkpoint: its `global_step` and `log_history`, and what else transformers notes.

    Raises:
        StorageError: if that is missing or damaged.
    """
    return STATE_FILE.read_as(checkpoint / STATE, STATE_SCHEMA)


def claim(out: Path, identity: dict[str, Any], *, resume: bool) -> Path | None:
    """Make `out` the folder of the training described by `identity`, and return the checkpoint to go on from.

    Checkpoints are removed if `resume` is False; otherwise they must come from the same training.

    Raises:
        OutputError: if `out` holds something that is no checkpoint of farss.
        StorageError: if `out` cannot be written, or holds checkpoints of a training with other settings or data.
    """
    _check_folder(out)
    found = latest_checkpoint(out) if resume else None
    if found is not None:
        _require_same(out, _read(out / IDENTITY), identity)
        return found
    take(out, TRAINING)
    for name in (*(folder.name for folder in _checkpoints(out)), LOGS):
        remove(out, name)
    with writing(out, IDENTITY):
        write_json(out / IDENTITY, identity)
    return None


def check_settings(out: Path, config: TrainConfig) -> None:
    """Make sure, before a model is loaded, that checkpoints in `out`, if any, are of a training with these settings.

    Raises:
        OutputError: if `out` holds something that is no checkpoint of farss.
        StorageError: naming the settings that differ, with both values.
    """
    _check_folder(out)
    if latest_checkpoint(out) is not None:
        former = _read(out / IDENTITY)
        _require_same(out, former, {**former, "settings": config.decisive()})


def _check_folder(out: Path) -> None:
    check_own(out, TRAINING, (IDENTITY,))
    if unlisted := [folder.name for folder in _numbered(out) if not is_listed(out, folder.name)]:
        raise OutputError("a checkpoint in the folder is not of farss", where=out, got=unlisted[0], do=ANOTHER)


def _require_same(out: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    if before != identity:
        raise StorageError(
            "the folder holds checkpoints of another training",
            where=out,
            got="; ".join(differences(before, identity)),
            do="give the former settings, begin again there with --fresh, or choose another --out",
        )


@contextmanager
def checkpoint_written(out: Path, step: int) -> Iterator[None]:
    """The block writes the checkpoint of a step into a folder that was claimed.

    Raises:
        OutputError: if something else has its name.
    """
    with writing(out, checkpoint_of(out, step).name):
        yield


def checkpoint_of(out: Path, step: int) -> Path:
    """The folder in `out` of the checkpoint of a step."""
    return out / f"{PREFIX}{step}"


def drop_older(out: Path, kept: int = 1, best_step: int | None = None) -> None:
    """Remove the checkpoints in `out` but the newest complete one, the `kept` newest, and that of the best step."""
    newest = latest_checkpoint(out)
    if newest is None:
        return
    steps = sorted((_step(folder) for folder in _checkpoints(out)), reverse=True)
    older = [step for step in steps if step < _step(newest)]
    for step in older[kept - 1 :]:
        if step != best_step:
            remove(out, checkpoint_of(out, step).name)


def weights_digest(model: nn.Module, names: Iterable[str]) -> str:
    """SHA-256 over name, shape, dtype and absolute sum of the named parameters: cheap, and tells starts apart."""
    digest = hashlib.sha256()
    parameters = dict(model.named_parameters())
    for name in names:
        parameter = parameters[name].detach()
        total = float(parameter.abs().sum(dtype=torch.float64))
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}{total:.6e}".encode())
    return digest.hexdigest()


def _checkpoints(out: Path) -> list[Path]:
    """The folders of checkpoints that farss wrote."""
    return [folder for folder in _numbered(out) if is_listed(out, folder.name)]


def _numbered(out: Path) -> list[Path]:
    return [folder for folder in out.glob(f"{PREFIX}*") if folder.is_dir() and folder.name[len(PREFIX) :].isdigit()]


def _step(folder: Path) -> int:
    return int(folder.name[len(PREFIX) :])


def _read(path: Path) -> dict[str, Any]:
    return IDENTITY_FILE.read_object(path)
