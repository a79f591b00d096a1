"""The JSON schema of report.json, and a check that names the place of the first mistake."""

from __future__ import annotations

from typing import Any

from farss.errors import FarssError
from farss.methods.look import COLOUR, LONGEST_LABEL, MARKS
from farss.reading import first_mistake

SCHEMA_VERSION = 1
LONGEST = 300  # characters of a value that a message repeats

NUMBER: dict[str, Any] = {"type": ["number", "null"]}
COUNT: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0}
TEXT: dict[str, Any] = {"type": ["string", "null"]}


def _record(properties: dict[str, Any], required: tuple[str, ...] = (), *, null: bool = False) -> dict[str, Any]:
    """An object with known properties; further ones are allowed, so that records can grow."""
    kind: Any = ["object", "null"] if null else "object"
    return {"type": kind, "properties": properties, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": ["array", "null"], "items": items}


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": ["object", "null"], "additionalProperties": values}


ESTIMATE = {
    "anyOf": [
        {"type": ["number", "null"]},
        _record({"value": {"type": "number"}, "low": NUMBER, "high": NUMBER}, ("value",)),
    ]
}
SCORE = {"anyOf": [{"type": "null"}, _record({"value": NUMBER, "stderr": NUMBER, "n": COUNT}, ("value",))]}
MEASURES = ("K", "K_clipped", "T", "KT", "K_p", "choice_kept", "T_l", "KT_l")
COMPARED = _record(
    {
        **{m: ESTIMATE for m in MEASURES},
        "ratios": _named(ESTIMATE),
        "knowledge_log_prob": _named(ESTIMATE),
        "undefined": _named({"type": "string"}),
    },
    null=True,
)
FRONTIER_POINT = _record(
    {"scale": {"type": "number"}, **{k: ESTIMATE for k in ("K_p", "T_l", "knowledge_log_prob", "task_loss")}},
    ("scale",),
)
TARGET = _record(
    {
        "name": {"type": "string"},
        "layer": {"type": ["integer", "null"]},
        "kind": TEXT,
        "region": TEXT,
        "rank": {"type": "integer", "minimum": 0},
        "importance": NUMBER,
    },
    ("name", "rank"),
)
PLAN = _record({"targets": _list(TARGET), "requested": NUMBER, "realised": NUMBER, "shallow_layers": COUNT}, null=True)
FACT = _record({k: TEXT for k in ("set", "question", "gold", "before", "after")} | {"log_prob_change": NUMBER})
MCNEMAR = _record({"lost": COUNT, "gained": COUNT, "p": NUMBER})
FACTS = _record(
    {
        **{key: COUNT for key in ("asked_count", "known_count", "kept_count")},
        "kept": ESTIMATE,
        "lost": _list(FACT),
        "gained": _list(FACT),
        "lost_count": COUNT,
        "gained_count": COUNT,
        "mcnemar": _named(MCNEMAR),
    },
    null=True,
)
LOOK = _record(
    {
        "label": {"type": "string", "minLength": 1, "maxLength": LONGEST_LABEL},
        "colour": {"type": "string", "pattern": f"^{COLOUR.pattern}$"},
        "mark": {"enum": list(MARKS)},
    },
    ("label", "colour", "mark"),
    null=True,
)
BUDGET = _record({"requested": COUNT, "realised": COUNT}, ("requested", "realised"), null=True)
CURVE = _list({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2})
WHILE_TRAINING = _record(
    {"losses": CURVE, "best_step": COUNT, "kept_step": COUNT, "ended": {"type": "string"}},
    ("losses", "best_step", "kept_step", "ended"),
    null=True,
)
"""Losses on validation rows while training, and what they decided."""
COSTS = (
    "trained_share",
    "init_seconds",
    "init_peak_bytes",
    "train_seconds",
    "train_tokens_per_second",
    "train_peak_bytes",
    "train_speed_to_lora",
    "eval_seconds",
)
RUN = _record(
    {
        "id": {"type": "string"},
        "method": {"type": "string"},
        "label": TEXT,
        "trained_elsewhere": {"enum": ["adapter", "model", None]},
        "variant": TEXT,
        "overrides": {"type": ["object", "null"]},
        "look": LOOK,
        "learning_rate": NUMBER,
        "seed": {"type": ["integer", "null"]},
        "selected": {"type": ["boolean", "null"]},
        "validation_loss": NUMBER,
        "scores": _named(SCORE),
        "compared": COMPARED,
        "trainable_params": COUNT,
        **{key: NUMBER for key in COSTS},
        "curve": CURVE,
        "while_training": WHILE_TRAINING,
        "frontier": _list(FRONTIER_POINT),
        "frontier_area": ESTIMATE,
        "plan": PLAN,
        "budget": BUDGET,
        "facts": FACTS,
    },
    ("id", "method"),
)
COMPARISON = _record(
    {
        "a": {"type": "string"},
        "b": {"type": "string"},
        "measure": {"type": "string"},
        "value": NUMBER,
        "low": NUMBER,
        "high": NUMBER,
    },
    ("a", "b", "measure", "value"),
)
DIFFERENCE_NUMBERS = ("value", "error", "low", "high", "p", "p_holm")
DIFFERENCES = _record(
    {
        "level": {"type": "number"},
        "resamples": COUNT,
        "methods": _named(
            _record(
                {
                    "method": {"type": "string"},
                    "variant": TEXT,
                    "learning_rate": NUMBER,
                    "runs": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "seeds": {"type": "integer", "minimum": 1},
                    **{m: ESTIMATE for m in ("KT_l", "frontier_area", "K_p", "T_l")},
                },
                ("method", "runs", "seeds"),
            )
        ),
        "measures": _named(
            _record(
                {
                    "critical": NUMBER,
                    "pairs": _list(
                        _record(
                            {
                                "a": {"type": "string"},
                                "b": {"type": "string"},
                                **{k: {"type": "number"} for k in DIFFERENCE_NUMBERS},
                            },
                            ("a", "b", *DIFFERENCE_NUMBERS),
                        )
                    ),
                },
                ("pairs",),
            )
        ),
        "undefined": _named({"type": "string"}),
    },
    ("level", "methods", "measures"),
    null=True,
)
SPECTRUM = _record(
    {
        "name": {"type": "string"},
        "region": TEXT,
        "sigma": _list(NUMBER),
        "log_scores": _list(NUMBER),
        "chosen": _named({"type": "array", "items": {"type": "integer", "minimum": 0}}),
    },
    ("name",),
)
SPECTRA = _list(SPECTRUM)
REPORT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "farss report",
    **_record(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "name": {"type": "string"},
            "created": TEXT,
            "recipe": {"type": ["object", "null"]},
            "versions": {"type": ["object", "null"]},
            "device": _record({"name": TEXT, "cores": COUNT, "memory_bytes": NUMBER}, null=True),
            "model": _record({"name": TEXT, "fingerprint": TEXT, "parameters": COUNT, "layers": COUNT}, null=True),
            "data": _record({"task": TEXT, "knowledge": _named(COUNT), "validation_rows": COUNT}, null=True),
            "base": _record({"scores": _named(SCORE)}, null=True),
            "runs": {"type": "array", "items": RUN},
            "comparisons": _list(COMPARISON),
            "differences": DIFFERENCES,
            "spectra": SPECTRA,
        },
        ("schema_version", "name", "runs"),
    ),
}


def validate(report: Any) -> None:
    """Check that `report` is what the pages and tables can show.

    Raises:
        FarssError: naming the place in the report, what was expected and what came.
    """
    version = report.get("schema_version") if isinstance(report, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise FarssError(
            "the report is of another version of farss",
            where="schema_version",
            expected=SCHEMA_VERSION,
            got=str(version)[:LONGEST],
            do="run its recipe again, which keeps finished stages, or `farss compare` its run folder",
        )
    mistake = first_mistake(report, REPORT_SCHEMA)
    if mistake is None:
        _check_ids(report)
        return
    place, expected, got = mistake
    raise FarssError(
        "the report is malformed",
        where=place or "report",
        expected=expected,
        got=got,
        do="write reports with farss of this version, or compare with farss.report.schema.REPORT_SCHEMA",
    )


def _check_ids(report: dict[str, Any]) -> None:
    seen: set[str] = set()
    for i, run in enumerate(report["runs"]):
        if run["id"] in seen:
            raise FarssError("two runs have the same id", where=f"runs[{i}].id", got=run["id"])
        seen.add(run["id"])
    for i, row in enumerate(report.get("comparisons") or []):
        for side in ("a", "b"):
            if row[side] not in seen:
                raise FarssError("a comparison names no run", where=f"comparisons[{i}].{side}", got=row[side])
    _check_methods(report.get("differences") or {}, seen)


def _check_methods(differences: dict[str, Any], runs: set[str]) -> None:
    methods = differences.get("methods") or {}
    for name, method in methods.items():
        for run in set(method["runs"]) - runs:
            raise FarssError("a method names no run", where=f"differences.methods.{name}.runs", got=run)
    for measure, found in (differences.get("measures") or {}).items():
        for i, pair in enumerate(found["pairs"] or []):
            for side in ("a", "b"):
                if pair[side] not in methods:
                    place = f"differences.measures.{measure}.pairs[{i}].{side}"
                    raise FarssError("a difference names no method", where=place, got=pair[side])
