"""What the benchmark of training steps makes of its clocks."""

from __future__ import annotations

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
