"""One report over run folders, and over models that were trained elsewhere, which are measured for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farss.errors import DataError
from farss.experiment.arithmetic import as_computed_in
from farss.experiment.fetched import Inputs
from farss.experiment.outputs import check_output, rescued
from farss.experiment.runs.assemble import assemble
from farss.experiment.runs.beside import beside, told_apart
from farss.experiment.runs.finished import RECIPE, load_run
from farss.experiment.subjects import Subject
from farss.processes import require_one_process
from farss.report import read_report, write_report
from farss.storage import held
from farss.storage.owned import take, writing

VERB = "compare"
FILES = ("report.json", "report.html")


def compare(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write one report over the finished jobs of run folders and over other models, paired question by question.

    An adapter (any that PEFT loads) or a whole fine-tuned model is measured as the jobs of the first run were: by its
    recipe, on its base, in its arithmetic. Measurements are kept in `out`, and a later call goes on from them. One
    `report.json` instead of folders is shown again as it is, by the present pages.

    Args:
        folders: of runs, at least one of them, of adapters and of models.
        out: folder of the report: new, or of an earlier comparison.

    Raises:
        DataError: if a folder is none of these or a run that is not finished, no run is among them, or they differ in
            model or questions.
        AdapterError, ModelError: if one does not fit the runs' base.
        OutputError: if `out` is one of the folders, or holds something else than an earlier comparison.
    """
    require_one_process("farss compare")
    place = check_output(VERB, out, {f"the compared {folder}": folder for folder in folders}, FILES)
    if len(folders) == 1 and folders[0].suffix == ".json":
        report = read_report(folders[0])
        with held(place):
            take(place, VERB)
            _write(report, place)
        return report
    subjects = [_trained_elsewhere(folder) for folder in folders]
    others = [folder for folder, subject in zip(folders, subjects, strict=True) if subject]
    runs = [load_run(folder) for folder, subject in zip(folders, subjects, strict=True) if not subject]
    if not runs:
        raise DataError(
            "nothing says what these models are to be asked",
            got=", ".join(map(str, others)),
            expected="a run folder among them, whose base and questions they are measured by",
            do="make one: `farss run RECIPE --set methods=[full]` measures the base, and trains what T is relative to",
        )
    taken = [job.job.id for run in runs for job in run.jobs] + [name for run in runs for name in run.recipe.subjects]
    names = told_apart(others, taken)
    first = runs[0]
    found = [
        beside(first.recipe, name, subject, place) for name, subject in zip(names, filter(None, subjects), strict=True)
    ]
    for one in found:
        one.check(first.recipe)
    recipe = Inputs.of(as_computed_in(first.folder, first.recipe)) if found else first.recipe
    with held(place):
        take(place, VERB)
        report = assemble(runs, [one.measure(recipe) for one in found])
        _write(report, place)
    return report


def _trained_elsewhere(folder: Path) -> Subject | None:
    """The adapter or model in a folder; None for a run."""
    return None if (folder / RECIPE).is_file() else Subject.in_folder(folder)


def _write(report: dict[str, Any], place: Path) -> None:
    with rescued(report), writing(place, *FILES):
        write_report(report, place)
