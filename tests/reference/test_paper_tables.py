"""K, T and KT of every row of the paper's tables, recomputed from the printed scores."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from farss.maths.metrics import harmonic, knowledge_kept, task_gained

KNOWLEDGE = ("triviaqa", "nq_open", "webqs")
MEASURES = ("K", "T", "KT")
LINES = Path(__file__).with_name("printed_scores.tsv").read_text(encoding="utf-8").splitlines()
ROWS = list(csv.DictReader((line for line in LINES if not line.startswith("#")), delimiter="\t"))
MEASURED = [row for row in ROWS if row["K_from_scores"]]


def scores(row: dict[str, str]) -> dict[str, float]:
    pairs = (part.split("=") for part in row["scores"].split())
    return {name: float(value) for name, value in pairs}


def reference(row: dict[str, str], method: str) -> dict[str, float]:
    (found,) = [r for r in ROWS if r["method"] == method and all(r[k] == row[k] for k in ("table", "model", "task"))]
    return scores(found)


def measures(row: dict[str, str]) -> dict[str, float]:
    """K against the base row and T against the full fine-tuning row of the same table, model and task."""
    own = scores(row)
    tasks = [name for name in own if name not in KNOWLEDGE]
    base, full = reference(row, "base"), reference(row, "full")
    kept = knowledge_kept({n: own[n] for n in KNOWLEDGE}, {n: base[n] for n in KNOWLEDGE})
    gained = task_gained({n: own[n] for n in tasks}, {n: full[n] for n in tasks})
    return {"K": kept, "T": gained, "KT": harmonic(kept, gained)}


def identity(row: dict[str, str]) -> str:
    return "-".join(row[k] for k in ("table", "model", "task", "method"))


def test_all_tables_are_there():
    assert {row["table"] for row in ROWS} == {"2", "10", "11", "12"} and len(MEASURED) > len(ROWS) / 2


@pytest.mark.parametrize("row", MEASURED, ids=identity)
def test_measures_equal_the_recomputed_ones(row):
    values = measures(row)
    for name in MEASURES:
        assert values[name] == pytest.approx(float(row[f"{name}_from_scores"]), abs=5.1e-5), name


@pytest.mark.parametrize("row", MEASURED, ids=identity)
def test_printed_measures_differ_only_where_listed(row):
    """The printed values have two decimals; half a unit of the last one is rounding."""
    values = measures(row)
    for name in MEASURES:
        if row[name] and name not in row["differs"].split():
            assert values[name] == pytest.approx(float(row[name]), abs=0.0101), name
