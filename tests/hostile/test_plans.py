"""Edited and hostile plans are refused by the name of what is wrong; what a plan says is never taken on trust."""

from __future__ import annotations

import json

import pytest

from farss.config import FarssConfig
from farss.errors import PlanError
from farss.model.plan import Plan, TargetPlan

ROWS = (
    TargetPlan("a.q", 0, "shallow", (8, 6), 2, 1.0, (0, 3), 0.5, (0.0, 1.0, 2.0, 3.0, 4.0)),
    TargetPlan("a.v", 1, "deep", (6, 8), 2, 0.5, (1, 2)),
)
SOUND = Plan("farss", "spectral", "reference", "f" * 64, FarssConfig().to_mapping(), ROWS, data={"rows": 4})

TOP = {
    "method": [None, 5, ["farss"]],
    "initialisation": ["evil", None, 3, ["spectral"]],
    "base": ["evil", None],
    "model_fingerprint": [None, 7],
    "settings": [None, [], "text"],
    "targets": [None, {}, "text", [None], [5], [[]]],
    "data": [[], "text", 4],
    "factor_scaling": ["evil", None],
    "frozen": ["both", None],
    "factors_digest": [5, "abc"],
    "requested_rank_total": ["1", 1.5, 10**30, None, True],
    "requested_parameters": ["1", float("1e300")],
    "layer_scores": [[], {"0": "high"}, {"0": None}],
    "schema_version": [2, "1", None],
    "start": [{}],
    "nonsense": [1],
}
ROW = {
    "name": [None, 5],
    "layer": ["0", 0.5, 10**30],
    "region": ["middle", None],
    "shape": [[8], [8, 6, 2], "86", [8, "6"], [8, -6], [0, 6], None],
    "rank": [0, -1, 7, "2", 2.0, True, None, 10**30],
    "scale": [0, -1.0, "1", None, 1e300],
    "indices": [[0], [0, 0], [3, 0], [0, 6], [-1, 0], [0, "3"], [0, 1.0], "03", None],
    "importance": ["high", [1.0]],
    "log_score_quantiles": [5, ["a"]],
    "nonsense": [1],
}
CASES = [(key, value) for key, values in TOP.items() for value in values]
ROW_CASES = [(key, value) for key, values in ROW.items() for value in values]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "plan.json"
    SOUND.save(path)
    return path


def refused(path) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    assert len(str(caught.value)) < 2_000
    return str(caught.value)


def test_the_sound_one_comes_back(written):
    assert Plan.load(written) == SOUND


@pytest.mark.case("edited plans end in tracebacks, or nonsense in them is obeyed")
@pytest.mark.parametrize(("key", "value"), CASES)
def test_a_wrong_value_is_refused(written, key, value):
    written.write_text(json.dumps(json.loads(written.read_text()) | {key: value}))
    refused(written)


@pytest.mark.parametrize(("key", "value"), ROW_CASES)
def test_a_wrong_value_of_a_target_is_refused(written, key, value):
    content = json.loads(written.read_text())
    content["targets"][0][key] = value
    written.write_text(json.dumps(content))
    refused(written)


@pytest.mark.parametrize("key", ["scale", "importance", "rank"])
@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 5_000, "[" * 5_000 + "]" * 5_000])
def test_numbers_that_are_none_are_refused(written, key, text):
    content = json.loads(written.read_text())
    content["targets"][0][key] = "HERE"
    written.write_text(json.dumps(content).replace('"HERE"', text))
    refused(written)


@pytest.mark.parametrize("missing", ["method", "targets", "settings", "model_fingerprint"])
def test_a_missing_key_is_refused(written, missing):
    content = json.loads(written.read_text())
    del content[missing]
    written.write_text(json.dumps(content))
    refused(written)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{}", b"[]", b"null", b"{", b'"plan"', b'{"schema_version": 1}'])
def test_what_is_no_plan_is_refused(written, content):
    written.write_bytes(content)
    refused(written)
