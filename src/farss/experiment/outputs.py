"""The folder that a verb is to fill, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from farss.config import Recipe
from farss.errors import OutputError, StorageError, UnwrittenError
from farss.model.sources import KNOWN_MODELS, cache_root
from farss.storage.folders import check_new, check_work, drop_work, work_place
from farss.storage.owned import check_clear, check_own, clear
from farss.storage.places import check_place

Inputs = dict[str, "str | Path | None"]


def check_output(verb: str, out: str | Path, inputs: Inputs, files: Sequence[str] = (), *, fresh: bool = False) -> Path:
    """Make sure that `verb` can write into a folder, and that nobody else's files are there.

    Args:
        verb: that is to fill it.
        out: the folder, there or not.
        inputs: what is read, by what it is called.
        files: names in it that will be written.
        fresh: what an earlier call left is to be removed; it must all be farss's own.

    Raises:
        OutputError: saying what is in the way; nothing was touched.
        ResourceError: if the disk is as good as full.
    """
    place = check_place(out, inputs)
    check_own(place, verb, () if fresh else files)
    if fresh and place.is_dir():
        check_clear(place)
    return place


def check_new_output(out: str | Path, inputs: Inputs) -> Path:
    """As `check_output`, of a verb whose folder is new; what an interrupted call kept beside it is used.

    Raises:
        OutputError, ResourceError: as for `check_output`.
    """
    place = check_place(out, inputs)
    check_place(work_place(place))
    try:
        check_new(place)
    except OutputError:
        drop_work(place)  # left by a call that was killed after its last step
        raise
    check_work(place)
    return place


def begin_again(place: Path, fresh: bool) -> None:
    """Remove what an earlier call left in a folder held by this process, if that is asked for."""
    if fresh:
        clear(place)


def inputs_on_disk(recipe: Recipe) -> Inputs:
    """What a recipe has farss read, under names that may stand for files and folders of this machine."""
    model, data, asked = recipe.model.name, recipe.data, recipe.eval
    return {
        "the model": None if model in KNOWN_MODELS else model,
        "the task data": data.task,
        **{f"the mixed set {one.name}": one.name for one in data.mix},
        "the held-out data": data.test,
        "the data directory": data.data_dir,
        "the calibration questions": data.knowledge_calibration,
        **{f"the knowledge set {name}": name for name in asked.knowledge},
        **{f"the start of {name}": folder.partition("@")[0] for name, folder in recipe.init_from.items()},
        **{f"the model {name}": folder.partition("@")[0] for name, folder in recipe.subjects.items()},
        "the cache": cache_root(),
    }


@contextmanager
def rescued(result: object) -> Iterator[None]:
    """The writing of `result`, which is not lost where that fails.

    Raises:
        UnwrittenError: with the result, if it could not be written.
    """
    try:
        yield
    except UnwrittenError:
        raise
    except StorageError as error:
        raise UnwrittenError(error, result) from error
