"""Evidence is collected only for methods that ask for it."""

from __future__ import annotations

import pytest

from farss.config import FarssConfig
from farss.experiment.initialisation import planning
from farss.methods import statistics
from farss.model.calibration import Example, batches

EXAMPLES = [Example((5, 6, 7), (8, 9)), Example((10,), (11, 12, 13))]


def test_layer_scores_are_taken_for_the_method_that_needs_them(tiny_gqa, monkeypatch):
    asked = []
    collect = statistics.collect_layer_fisher

    def counted(*arguments, **options):
        asked.append(options["seed"])
        return collect(*arguments, **options)

    monkeypatch.setattr(statistics, "collect_layer_fisher", counted)
    calibration = batches(EXAMPLES, batch_tokens=64, pad_id=0)
    config = FarssConfig(rank=4, seed=3)
    none = planning.prepare(tiny_gqa, calibration, config, ["lora"])
    assert not asked and not none.evidence.statistics and "layer_fisher" not in none.seconds
    some = planning.prepare(tiny_gqa, calibration, config, ["lora", "fora"], data={"rows": 2})
    assert asked == [3] and set(some.evidence.statistics) == {"layer_fisher"} and some.seconds["layer_fisher"] > 0
    assert some.plans["fora"].data == {"rows": 2} and some.plans["lora"].data is None
    scores = some.evidence.of("layer_fisher").scores(some.targets)
    best = max(scores, key=lambda layer: scores[layer])
    assert {t.layer for t in some.plans["fora"].targets} == {best}
    assert some.plans["fora"].layer_scores["0"] == pytest.approx(scores[0])
