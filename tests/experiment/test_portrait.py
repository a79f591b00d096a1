"""What an inspection says of numbers that are plain by hand."""

from __future__ import annotations

import math

import pytest
from torch import nn

from farss.config import FarssConfig
from farss.experiment.initialisation.settling import Agreed
from farss.experiment.inspection.portrait import describe_boundary, describe_layers, describe_stability, warnings_of
from farss.model.targets import Target


def row(layer: int, name: str = "a", importance: float = 1.0, overlap: float = 0.5, energy: float | None = 0.5) -> dict:
    above = (overlap - 0.25) / 0.75
    stability = {"jaccard": 0.4, "overlap": overlap, "chance": 0.25, "above_chance": above}
    return {
        "name": f"layers.{layer}.{name}",
        "layer": layer,
        "region": "deep",
        "importance": importance,
        "energy_weight": 0.25,
        "energy_input": energy,
        "directions": 16,
        "held_share": 0.5,
        "stability": stability,
    }


def boundary_of(importances: list[float], **settings: int) -> dict:
    rows = [row(layer, importance=value) for layer, value in enumerate(importances)]
    targets = [Target(r["name"], nn.Identity(), r["layer"], "a", (16, 16), False, False) for r in rows]
    return describe_boundary(
        targets, describe_layers(rows, {r["name"]: r["name"] for r in rows}), FarssConfig(**settings)
    )


def test_important_first_layers_move_the_boundary():
    found = boundary_of([8.0, 8.0, 8.0, 1.0, 1.0, 1.0], shallow_layers=2)
    assert (found["planned"], found["default"], found["suggested"], found["split"]) == (2, 1, 3, 3)
    assert found["gain"] == pytest.approx(1.0) and found["factor"] == pytest.approx(8.0)
    assert found["default_gain"] < found["gain"]


def test_the_default_rule_stands_where_deep_layers_matter_more():
    found = boundary_of([1.0, 1.0, 1.0, 8.0, 8.0, 8.0])
    assert (found["suggested"], found["split"]) == (1, 3) and found["factor"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("importances", [[1.0], [0.0, 1.0, 2.0]])
def test_without_importances_to_cut_the_default_rule_stands(importances):
    found = boundary_of(importances)
    assert (found["suggested"], found["split"], found["gain"]) == (1, None, None)


def test_a_layer_adds_importances_and_counts_a_shared_input_once():
    rows = [row(0, "q", 1.0, energy=0.9), row(0, "k", 4.0, energy=0.9), row(0, "o", 2.0, energy=0.3)]
    inputs = {"layers.0.q": "layers.0.q", "layers.0.k": "layers.0.q", "layers.0.o": "layers.0.o"}
    (layer,) = describe_layers(rows, inputs)
    assert layer["importance"] == 7.0 and layer["log_importance"] == pytest.approx(math.log(8) / 3)
    assert layer["energy_inputs"] == pytest.approx(0.6) and layer["energy_weights"] == 0.25


def test_an_unsteady_choice_and_too_few_tokens_are_said_with_their_numbers():
    rows = [row(0, overlap=0.4), row(1, overlap=0.5), row(2, overlap=1.0)]
    unsteady = describe_stability(rows, [120, 100], Agreed(ranks=0.25, low=0.62, high=0.95))
    assert unsteady["overlap"] == 0.5 and unsteady["least"]["name"] == "layers.0.a"
    (said,) = warnings_of(unsteady)
    assert "0.62" in said and "25 %" in said and "100 tokens" in said and "16 directions" in said
    assert warnings_of(describe_stability(rows, [120, 15], Agreed(ranks=0.05, low=0.93, high=0.95))) == []
    _, few = warnings_of(describe_stability(rows, [120, 15], Agreed(ranks=0.2, low=None, high=None)))
    assert "Too few tokens" in few and "15" in few
