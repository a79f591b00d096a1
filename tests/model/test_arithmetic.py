"""The decision about arithmetic: by instructions, confirmed by a timing, never rounding what the checkpoint holds."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from farss.model import arithmetic
from farss.model.arithmetic import EmulationWarning, decide, half, has_instructions, speed_of, warn_if_emulated

CPU = torch.device("cpu")
KINDS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FARSS_CACHE", str(tmp_path))
    arithmetic._timed_once.cache_clear()
    yield tmp_path
    arithmetic._timed_once.cache_clear()


@pytest.fixture
def device(monkeypatch):
    """Pretends instructions and times."""

    def pretend(has: bool, half_speed: float = 2.0) -> None:
        monkeypatch.setattr(arithmetic, "has_instructions", lambda dtype, device: (has, f"instructions: {has}"))
        timed = lambda dtype, device: {"float32": 1.0, str(dtype).removeprefix("torch."): half_speed}  # noqa: E731
        monkeypatch.setattr(arithmetic, "_time", timed)

    return pretend


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_without_instructions_half_precision_is_widened(device, stored):
    device(has=False, half_speed=9.0)
    decided = decide(stored, CPU)
    assert (decided.weights, decided.training) == ("float32", "float32")
    assert "instructions: False" in decided.line and decided.speeds == {}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_with_instructions_that_are_fast_the_checkpoint_stays(device, stored):
    device(has=True, half_speed=2.0)
    assert decide(stored, CPU).weights == arithmetic.name_of(stored)
    assert decide(stored, CPU).training == "bfloat16"


def test_a_timing_overrules_the_instructions(device):
    device(has=True, half_speed=0.9)
    decided = decide(torch.bfloat16, CPU)
    assert decided.weights == decided.training == "float32"
    assert "slower" in decided.reason and decided.speeds == {"float32": 1.0, "bfloat16": 0.9}


@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
@pytest.mark.parametrize("has", [True, False])
def test_a_wider_checkpoint_is_never_rounded(device, stored, has):
    device(has=has)
    decided = decide(stored, CPU)
    assert decided.weights == arithmetic.name_of(stored)
    assert decided.training == ("bfloat16" if has and stored is torch.float32 else decided.weights)


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16", "float64", "checkpoint"])
@pytest.mark.parametrize("has", [True, False])
def test_what_is_asked_for_is_obeyed(device, wanted, has):
    device(has=has)
    expected = "bfloat16" if wanted == "checkpoint" else wanted
    assert decide(torch.bfloat16, CPU, wanted=wanted).weights == expected


def test_training_in_float32_keeps_the_weights_there_too(device):
    device(has=True)
    decided = decide(torch.bfloat16, CPU, precision="float32")
    assert decided.weights == decided.training == "float32"


def test_what_does_not_fit_in_float32_is_computed_slowly_and_said(device, monkeypatch):
    device(has=False)
    monkeypatch.setattr(arithmetic, "free_bytes", lambda device: 1000)
    assert decide(torch.bfloat16, CPU, numbers=187).weights == "float32"  # 748 of 1000 bytes
    decided = decide(torch.bfloat16, CPU, numbers=188)
    assert decided.weights == "bfloat16" and "slow" in decided.line and "free" in decided.line
    assert decide(torch.bfloat16, CPU, numbers=0).weights == "float32"  # read piece by piece


def test_a_device_is_timed_once(device, own_cache, monkeypatch):
    device(has=True)
    first = half(torch.bfloat16, CPU)
    arithmetic._timed_once.cache_clear()  # as another process would find it
    monkeypatch.setattr(arithmetic, "_time", lambda dtype, device: pytest.fail("timed again"))
    assert half(torch.bfloat16, CPU) == first
    assert len(json.loads((own_cache / arithmetic.KEPT).read_text())) == 1


def test_a_damaged_note_is_timed_again(device, own_cache):
    device(has=True)
    (own_cache / arithmetic.KEPT).write_text("{")
    assert half(torch.bfloat16, CPU).fast


def test_the_timing_is_of_both_dtypes():
    speeds = arithmetic._time(torch.bfloat16, CPU)
    assert set(speeds) == {"float32", "bfloat16"} and all(0.01 < speed < 1e6 for speed in speeds.values())
    assert speed_of(torch.float32, CPU) > 0


def test_pytorchs_word_on_instructions_decides(monkeypatch):
    asked = {torch.bfloat16: {"NONE": lambda: False, "SOME": lambda: True}, torch.float16: {"NONE": lambda: False}}
    monkeypatch.setattr(arithmetic, "X86", asked)
    monkeypatch.setattr(arithmetic, "ELSEWHERE", asked)
    assert has_instructions(torch.bfloat16, CPU) == (True, "the processor has bfloat16 instructions (SOME)")
    assert not has_instructions(torch.float16, CPU)[0]


def test_a_model_loaded_by_somebody_else_is_warned_of(device):
    device(has=False)
    with pytest.warns(EmulationWarning, match="float32, which changes no weight"):
        warn_if_emulated(nn.Linear(2, 2, dtype=torch.bfloat16))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_no_other_model_is_warned_of(device, kind):
    device(has=False)
    warn_if_emulated(nn.Linear(2, 2, dtype=kind))
    warn_if_emulated(nn.Identity())
