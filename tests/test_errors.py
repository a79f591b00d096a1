"""Hints at the nearest name: given where one is near, and only there."""

from __future__ import annotations

import time

import pytest

from farss.config import Recipe
from farss.errors import ConfigError, did_you_mean, near_names
from farss.methods import METHODS, get_method

KEYS = list(Recipe().train.to_mapping())


@pytest.mark.case("a wrong name gets a hint only where one is near")
@pytest.mark.parametrize("key", ["report_to", "max_steps", "fsdp", "torch_compile", "bf16", "push_to_hub"])
def test_a_key_that_is_another_tool_s_gets_no_hint_but_the_list(key):
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping({"train": {f"{key}_xyz": 1}})
    assert "did you mean" not in str(caught.value)
    assert all(f"{name}" in str(caught.value) for name in KEYS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("epoch", "epochs"),
        ("batchsize", "batch_size"),
        ("leraning_rate", "learning_rate"),
        ("weight_decy", "weight_decay"),
    ],
)
def test_slips_are_named(typed, meant):
    assert did_you_mean(typed, KEYS) == f"did you mean `{meant}`?"


@pytest.mark.parametrize(
    ("typed", "meant"), [("FARSS_init", "farss-init"), ("milroa", "milora"), ("corda", "corda-kpm"), ("fars", "farss")]
)
def test_spelling_signs_and_capitals_do_not_count_and_a_beginning_is_enough(typed, meant):
    assert near_names(typed, METHODS) == [meant]


@pytest.mark.parametrize("method", ["vera", "oft", "lora-xs", "prefix-tuning", "", "-"])
def test_a_method_that_is_not_here_is_not_taken_for_another(method):
    with pytest.raises(ConfigError) as caught:
        get_method(method)
    assert "did you mean" not in str(caught.value)


def test_a_very_long_name_costs_nothing():
    started = time.perf_counter()
    assert near_names("x" * 1_000_000, KEYS) == []
    assert time.perf_counter() - started < 1
