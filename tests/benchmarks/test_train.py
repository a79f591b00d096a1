"""What the benchmark of training steps makes of its clocks."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(benchmark_module) -> ModuleType:
    """benchmarks/train.py as a module."""
    return benchmark_module("train")


def repeat(**steps: list[float]) -> dict:
    return {
        case.replace("_", " "): {
            "tokens_per_second": 10 / sum(times),
            "tokens_per_processor_second": 10 / sum(times),
            "peak_bytes": 100.0 * len(case),
            "step_seconds": times,
            "same_batches": case != "stock_lora",
        }
        for case, times in steps.items()
    }


def test_steps_are_paired_and_a_stall_does_not_count(benchmark):
    slow_later = [
        repeat(lora=[1.0, 2.0, 4.0], farss=[1.1, 2.2, 40.0], stock_lora=[1.0, 1.0, 1.0]),
        repeat(lora=[2.0, 4.0, 8.0], farss=[2.2, 4.4, 8.8], stock_lora=[1.0, 1.0, 1.0]),
        repeat(lora=[30.0, 2.0, 4.0], farss=[1.1, 2.2, 4.4], stock_lora=[1.0, 1.0, 1.0]),
    ]
    found = benchmark.summarise(slow_later)
    assert found["farss"]["ratio_step_seconds"] == pytest.approx(1.1)
    assert found["lora"]["ratio_step_seconds"] == 1 and found["stock lora"]["ratio_step_seconds"] is None
    assert found["farss"]["ratio_peak_bytes"] == pytest.approx(5 / 4)
    assert found["farss"]["most_allowed"] == 1.12 and found["lora"]["most_allowed"] is None


def test_without_lora_there_is_nothing_to_relate_to(benchmark):
    found = benchmark.summarise([repeat(farss=[1.0, 2.0])])
    assert found["farss"]["ratio_step_seconds"] is None and "ratio_peak_bytes" not in found["farss"]


def test_both_forms_have_the_rank_of_lora(benchmark, tiny_llama):
    class Loaded:
        model, fingerprint = tiny_llama, "sha256:0"

    plans = {case: benchmark.plan_for(case, Loaded, 4) for case in ("lora", "farss", "farss residual")}
    assert len({tuple(t.rank for t in plan.targets) for plan in plans.values()}) == 1
    assert [plans[case].base for case in ("farss", "farss residual")] == ["reference", "residual"]
    assert len({plan.trainable_parameters for plan in plans.values()}) == 1


class Turns:
    """The other end of a clock's connection: it always is this process's turn."""

    def __init__(self) -> None:
        self.sent: list[None] = []

    def recv(self) -> None:
        """A turn."""

    def send(self, message: None) -> None:
        self.sent.append(message)


def test_waiting_for_a_turn_is_no_part_of_a_step(benchmark, monkeypatch):
    moments = iter([0.0, 9.0, 100.0, 109.0, 200.0, 203.0, 300.0, 304.0, 400.0])  # turns begin at the round hundreds
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(moments))
    monkeypatch.setattr(benchmark.time, "process_time", lambda: 0.0)
    turns = Turns()
    clock = benchmark.Clock(turns)
    clock.wait()
    for _ in range(4):
        clock.tick()
    assert clock.seconds() == ([3.0, 4.0], [0.0, 0.0]) and turns.sent == [None] * 4


@pytest.mark.slow
def test_every_training_is_measured_beside_the_others(scripts, benchmark, tiny_llama, tiny_tokenizer, tmp_path):
    folder, out = tmp_path / "model", tmp_path / "train.json"
    tiny_llama.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    options = ["--task", "word_problems", "--steps", "5", "--batch-size", "2", "--rank", "2", "--repeats", "2"]
    options += ["--dtype", "float32", "--cases", *benchmark.CASES, "--out", str(out)]
    command = [sys.executable, str(scripts / "train.py"), "--model", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [list(one) for one in report["repeats"]] == [list(benchmark.CASES)[::order] for order in (1, -1)]
    for case, one in report["repeats"][0].items():
        assert one["steps"] == 3 and all(seconds > 0 for seconds in one["step_seconds"])
        assert (report["medians"][case]["ratio_step_seconds"] is None) == (case == "stock lora")


@pytest.mark.slow
def test_a_training_that_fails_is_named(scripts, tmp_path):
    command = [sys.executable, str(scripts / "train.py"), "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "the training `lora` failed" in done.stderr
