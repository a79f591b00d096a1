"""The choice of a route: the fastest that is accurate, once per size, and never by noise."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from farss import config
from farss.errors import ConfigError, ShapeError
from farss.maths import choice
from farss.maths.choice import MARGIN, Choice, choose_route, named_route, sample_weight, timed
from farss.maths.spectrum import decompose


@pytest.fixture
def raced(monkeypatch):
    """The races that really took place, with seconds per route instead of a clock; None stands for a fall-back."""
    races = []
    seconds = {"gram": 1.0, "polar": 1.0, "gesdd": 1.0}

    def timed(weight, route):
        races.append((tuple(weight.shape), route))
        spectrum = decompose(torch.eye(2), "gesdd")
        used = route if seconds[route] is not None else f"{route}->gesdd"
        return type(spectrum)(**{**vars(spectrum), "route": used}), seconds[route] or 1.0

    monkeypatch.setattr(choice, "timed", timed)
    choice._fastest.cache_clear()
    yield races, seconds
    choice._fastest.cache_clear()


@pytest.mark.parametrize(
    ("gram", "polar", "gesdd", "chosen"),
    [
        (1.0, 1.0, 1.0, "gram"),
        (1.0, 1.01 / MARGIN, 9.0, "gram"),
        (1.0, 0.99 / MARGIN, 9.0, "polar"),
        (9.0, 5.0, 1.0, "gesdd"),
        (9.0, None, 8.9, "gram"),
        (None, 2.0, 1.0, "gesdd"),
        (None, None, 1.0, "gesdd"),
    ],
)
def test_the_fastest_accurate_route_is_chosen(raced, gram, polar, gesdd, chosen):
    raced[1].update(gram=gram, polar=polar, gesdd=gesdd)
    assert choose_route((96, 64), "cpu") == chosen


def test_short_runs_are_repeated_and_long_ones_are_not(raced):
    races, seconds = raced
    seconds.update(gram=choice.ENOUGH_SECONDS / 4, polar=choice.ENOUGH_SECONDS, gesdd=None)
    assert choose_route((96, 64), "cpu") == "gram"
    asked = [route for _, route in races]
    assert [asked.count(route) for route in ("gram", "polar", "gesdd")] == [1 + 4, 1 + 1, 1 + 1]


def test_a_size_is_timed_once_and_its_choice_never_changes(raced):
    races, seconds = raced
    first = choose_route((1536, 576), "cpu")
    timed_once = len(races)
    seconds["gram"] = 100.0
    for shape in ((1536, 576), (576, 1536), (1400, 500)):
        assert choose_route(shape, torch.device("cpu"), torch.bfloat16) == first
    assert len(races) == timed_once
    assert choose_route((1536, 576), "cpu", torch.float64) != first and len(races) == 2 * timed_once
    assert choose_route((576, 576), "cpu") != first and len(races) == 3 * timed_once


def test_large_weights_are_timed_at_the_largest_size_with_their_own_aspect(raced, monkeypatch):
    monkeypatch.setattr(choice, "LARGEST_TIMED", 128)
    choose_route((4096, 11008), "cpu")
    assert max(raced[0]) == ((3 * 128, 128), "polar")


def test_names_stand_for_themselves_and_auto_for_a_route():
    choice._fastest.cache_clear()
    weight = torch.randn(24, 16)
    assert [named_route(name, weight) for name in ("gram", "polar", "gesdd")] == ["gram", "polar", "gesdd"]
    chosen = named_route("auto", weight)
    assert chosen == named_route("auto", weight) and decompose(weight, chosen).route == chosen
    assert get_args(Choice) == get_args(config.Route)


def test_a_race_reports_a_fall_back_without_a_warning(recwarn):
    low = torch.diag(torch.logspace(0, -12, 32, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0]
    spectrum, seconds = timed(rotation @ low @ rotation, "gram")
    assert spectrum.route == "gram->gesdd" and seconds > 0 and not recwarn.list


def test_the_timed_matrix_is_seeded_and_has_one_direction_far_above_the_rest():
    weight = sample_weight(96, 64, torch.float32, "cpu")
    assert torch.equal(weight, sample_weight(96, 64, torch.float32, "cpu"))
    sigma = torch.linalg.svdvals(weight)
    assert choice.OUTLIER / 1.5 < float(sigma[0] / sigma[1]) < choice.OUTLIER * 1.5


def test_unknown_routes_and_empty_weights_are_refused():
    with pytest.raises(ConfigError, match="unknown route"):
        decompose(torch.eye(3), "auto")
    with pytest.raises(ShapeError, match="entries"):
        choose_route((0, 4), "cpu")
