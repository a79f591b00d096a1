"""What a recipe names is fetched once in a process: rows, their tokens, the files' hashes and the weights."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farss.config import Recipe
from farss.datasets import resolve
from farss.experiment import materials, stages
from farss.experiment.fetched import Inputs
from farss.experiment.task_rows import training_portion
from farss.model import fingerprints, sources


class Counts:
    """How often each input was fetched, by the process that did and what it fetched."""

    def __init__(self) -> None:
        self.process, self.found = "main", Counter[tuple[str, str, str]]()

    def watch(self, patch: pytest.MonkeyPatch, home: Any, name: str, kind: str, what: Callable[..., str]) -> None:
        call = getattr(home, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.found[self.process, kind, what(*given, **named)] += 1
            return call(*given, **named)

        patch.setattr(home, name, counted)

    def repeated(self) -> dict[tuple[str, ...], int]:
        """What was fetched more than once in one process; a file that was hashed more than once in all."""
        hashed = Counter[tuple[str, ...]]()
        for (_, kind, what), count in self.found.items():
            if kind == "hash":
                hashed[kind, what] += count
        return {key: count for key, count in [*self.found.items(), *hashed.items()] if count > 1}

    def in_own_process(self, work: Callable[[Path], Any], folder: Path, share: Any) -> Any:
        """As a stage's process begins: with nothing but what is pickled for it."""
        outer, self.process = self.process, f"{folder.parent.name}/{folder.name}"
        try:
            return pickle.loads(pickle.dumps(work))(folder)
        finally:
            self.process = outer


def texts(rows: Any, *_: Any, **__: Any) -> str:
    return " | ".join(str(row) for row in rows)


@pytest.fixture
def counts(workshop, monkeypatch) -> Counts:
    found = Counts()
    found.watch(monkeypatch, resolve, "_all_rows", "rows", lambda name, split, *_: f"{name} {split}")
    found.watch(monkeypatch, materials, "encode", "tokens", texts)
    found.watch(monkeypatch, materials, "encode_prompts", "tokens", texts)
    found.watch(monkeypatch, fingerprints, "joined_digest", "hash", lambda files: str(files[0]))
    found.watch(monkeypatch, sources, "load_folder", "weights", lambda folder, **_: str(folder))
    found.watch(monkeypatch, fingerprints, "fingerprint_of", "fingerprint", lambda *_: "")
    monkeypatch.setattr(stages, "_in_child", found.in_own_process)
    return found


VERBS: dict[str, list[str]] = {
    "init": ["init", "--method", "farss"],
    "train": ["train", "--init", "INIT"],
    "eval": ["eval", "--tasks", "capitals,gsm8k"],
    "audit": ["audit", "--adapter", "TRAINED"],
    "export": ["export", "--adapter", "TRAINED", "--to", "peft"],
    "inspect": ["inspect"],
    "run": ["run"],
}
"""The arguments of each verb before its recipe and folder."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_input_is_fetched_once_in_a_process(verb, counts, workshop, farss, initialised, trained, tmp_path):
    places = {"INIT": str(initialised), "TRAINED": str(trained)}
    arguments = [places.get(argument, argument) for argument in VERBS[verb]]
    recipe = workshop.recipe(f"once-{verb}", **{"data.calibration_rows": "auto"} if verb == "init" else {})
    where = [recipe] if verb == "run" else [] if verb in ("export", "train") else ["--recipe", recipe]
    counts.found.clear()
    code, _, err = farss(*arguments, *where, "--out", tmp_path / "out")
    assert code == 0, err
    assert counts.found, "nothing was counted"
    assert counts.repeated() == {}


def test_a_plain_recipe_is_fetched_by_anew(counts, workshop):
    """What is remembered belongs to one call of a verb: the next one sees what the files say then."""
    recipe = Recipe.from_mapping(workshop.settings())
    for asking in (recipe, recipe, Inputs.of(recipe)):
        training_portion(asking)
    assert counts.found["main", "rows", "gsm8k train"] == 3


def test_what_was_fetched_is_shared_by_what_differs_in_other_settings(counts, workshop):
    recipe = Inputs.of(Recipe.from_mapping(workshop.settings()))
    first = training_portion(recipe)
    first.account.left_out = 7
    again = training_portion(recipe.override({"train.seed": 3}))
    fewer = training_portion(recipe.override({"data.train_rows": 2}))
    assert counts.found["main", "rows", "gsm8k train"] == 1
    assert again.rows == first.rows and again.account.left_out == 0 and len(fewer.rows) == 2
