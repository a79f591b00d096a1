"""K, T and KT of every row of the paper's tables, recomputed from the printed scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farss.maths.metrics import harmonic, knowledge_kept, task_gained

TABLES = Path(__file__).parents[2].parent / "shared" / "paper" / "tables.json"
KNOWLEDGE = ("triviaqa", "nq_open", "webqs")
RECORDS = json.loads(TABLES.read_text(encoding="utf-8"))["records"] if TABLES.is_file() else []
RECOMPUTED = [record for record in RECORDS if "recomputed" in record]

pytestmark = pytest.mark.skipif(not RECORDS, reason="the paper's tables are not beside the repository")


def reference(record: dict, method: str) -> dict[str, float]:
    keys = ("table", "model", "task")
    (row,) = [r for r in RECORDS if r["method"] == method and all(r[k] == record[k] for k in keys)]
    return row["scores"]


def measures(record: dict) -> dict[str, float]:
    """K against the base row and T against the full fine-tuning row of the same table, model and task."""
    scores = record["scores"]
    tasks = [name for name in scores if name not in KNOWLEDGE]
    base, full = reference(record, "base"), reference(record, "full")
    kept = knowledge_kept({n: scores[n] for n in KNOWLEDGE}, {n: base[n] for n in KNOWLEDGE})
    gained = task_gained({n: scores[n] for n in tasks}, {n: full[n] for n in tasks})
    return {"K": kept, "T": gained, "KT": harmonic(kept, gained)}


def identity(record: dict) -> str:
    return "-".join(record[k] for k in ("table", "model", "task", "method"))


@pytest.mark.parametrize("record", RECOMPUTED, ids=identity)
def test_measures_equal_the_recomputed_ones(record):
    values = measures(record)
    for name in ("K", "T", "KT"):
        assert values[name] == pytest.approx(record["recomputed"][name], abs=5.1e-5), name


@pytest.mark.parametrize("record", RECOMPUTED, ids=identity)
def test_printed_measures_differ_only_where_listed(record):
    """The printed values have two decimals; half a unit of the last one is rounding."""
    values = measures(record)
    for name in ("K", "T", "KT"):
        if record[name] is not None and name not in record["printed_disagrees"]:
            assert values[name] == pytest.approx(record[name], abs=0.0101), name
