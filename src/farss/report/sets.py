"""Names of data sets for people: a file is called by its name, not by where it lies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from farss.datasets.files import is_data_file


def score_key(key: str) -> tuple[str, str, str]:
    """The parts of a score's key: its kind ("knowledge" or "task"), the set, which may be a path, and the score."""
    kind, _, rest = key.partition("/")
    subject, _, what = rest.rpartition("/")
    return kind, subject, what


def set_labels(names: Iterable[str]) -> dict[str, str]:
    """A label for every set: of a file its name, with as many folders above it as tell files of one name apart."""
    known = list(dict.fromkeys(names))
    parts = {name: re.split(r"[/\\]", name) for name in known}
    labels = {name: parts[name][-1] if _is_path(name) else name for name in known}
    depth = 1
    while any(count > 1 for count in Counter(labels.values()).values()) and depth <= max(map(len, parts.values())):
        depth += 1
        counts = Counter(labels.values())
        twice = [name for name, label in labels.items() if counts[label] > 1 and _is_path(name)]
        labels |= {name: "/".join(parts[name][-depth:]) for name in twice}
    return labels


def sets_of(report: dict[str, Any]) -> dict[str, str]:
    """The labels of all sets that a report has scores, ratios or facts of."""
    scored = [report.get("base") or {}, *(report.get("runs") or [])]
    names = [score_key(key)[1] for record in scored for key in record.get("scores") or {}]
    for run in report.get("runs") or []:
        compared, facts = run.get("compared") or {}, run.get("facts") or {}
        names += [name for kind in ("ratios", "knowledge_log_prob") for name in compared.get(kind) or {}]
        names += [str(f["set"]) for what in ("lost", "gained") for f in facts.get(what) or [] if f.get("set")]
    return set_labels(names)


def _is_path(name: str) -> bool:
    return bool(re.search(r"[/\\]", name)) and (name.startswith(("/", ".", "~")) or is_data_file(name))
