"""A synthetic report: invented numbers of a realistic shape, made from a seed; nothing here was measured."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from farss.methods import METHODS

# (probability kept, task share gained) at the smaller learning rate
PLACES = {
    "full": (0.71, 1.0),
    "lora": (0.905, 0.66),
    "pissa": (0.62, 0.83),
    "milora": (0.925, 0.74),
    "farss": (0.938, 0.86),
    "farss-init": (0.915, 0.80),
    "all-high": (0.55, 0.88),
    "fixed-rank": (0.88, 0.78),
}
# the other methods stand somewhere among these
PLACES |= {name: (0.80 + 0.012 * i, 0.97 - 0.017 * i) for i, name in enumerate(METHODS) if name not in PLACES}
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS, SHALLOW, DIRECTIONS = 30, 6, 192


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": round(value, 6), "low": round(value - half, 6), "high": round(value + half * 0.93, 6)}


def harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


def make_plan(method: str, rng: random.Random) -> dict[str, Any]:
    targets = []
    for layer in range(LAYERS):
        for kind in KINDS:
            shallow = layer < SHALLOW
            part = "self_attn" if kind[0] in "qkvo" and kind != "up_proj" else "mlp"
            rank, importance = 64, None
            if method == "farss":
                importance = 10 ** rng.uniform(-7, -4) if shallow else None
                rank = rng.choice([2, 5, 9, 14, 22, 31, 32]) if shallow else 64
            name = f"model.layers.{layer}.{part}.{kind}"
            region = "shallow" if shallow else "deep"
            targets.append(
                {"name": name, "layer": layer, "kind": kind, "region": region, "rank": rank, "importance": importance}
            )
    total = sum(t["rank"] for t in targets)
    return {"targets": targets, "requested": total + 12, "realised": total, "shallow_layers": SHALLOW}


def make_facts(rng: random.Random, lost: int, gained: int) -> dict[str, Any]:
    places = [("Norway", "Oslo", "Bergen"), ("Peru", "Lima", "Cusco"), ("Kenya", "Nairobi", "Mombasa")]

    def one(is_lost: bool) -> dict[str, Any]:
        land, right, wrong = rng.choice(places)
        return {
            "set": "facts",
            "question": f"What is the capital of {land}?",
            "gold": right,
            "before": right if is_lost else wrong,
            "after": wrong if is_lost else right,
            "log_prob_change": round(rng.uniform(-3, -0.4) * (1 if is_lost else -0.6), 4),
        }

    return {
        "lost": [one(True) for _ in range(min(lost, 40))],
        "gained": [one(False) for _ in range(min(gained, 40))],
        "asked_count": 600,
        "known_count": lost + 200,
        "kept_count": 200,
        "lost_count": lost,
        "gained_count": gained,
    }


def make_run(method: str, rate: float, strong: bool, rng: random.Random) -> dict[str, Any]:
    kept, gained = PLACES[method]
    if strong:
        kept, gained = kept ** (1.6 if method == "farss" else 2.4), 1 - (1 - gained) * 0.45
    accuracy_kept, accuracy_gained = kept * 1.04, min(gained * 0.93, 1.0)
    curve = [
        [s, round(0.55 + 0.9 * math.exp(-s / 60 * (1.5 if strong else 1) * gained) + rng.gauss(0, 0.05), 5)]
        for s in range(1, 251, 2)
    ]
    frontier = [
        {
            "scale": s,
            "K_p": interval(kept ** (s**1.7), 0.015),
            "T_l": interval(gained * (1 - (1 - s) ** 2) if s <= 1 else gained * 1.01, 0.01),
            "knowledge_log_prob": -1.8 - s**1.7 * 0.3,
            "task_loss": 1.4 - 0.5 * s * gained,
        }
        for s in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    ]
    full = method == "full"
    return {
        "id": f"{method}-{rate:g}",
        "method": method,
        "label": f"{METHODS[method].look.label} · {rate:g}",
        "look": dataclasses.asdict(METHODS[method].look),
        "learning_rate": rate,
        "seed": 0,
        "scores": {
            "knowledge/facts/accuracy": {"value": round(0.41 * accuracy_kept, 4), "stderr": 0.0196, "n": 600},
            "knowledge/facts/log_prob": {"value": round(-1.81 + math.log(kept), 4), "stderr": 0.041, "n": 600},
            "knowledge/facts/choice": {"value": round(0.72 * accuracy_kept**0.5, 4), "stderr": 0.018, "n": 600},
            "knowledge/cloze/accuracy": {"value": round(0.237 * accuracy_kept, 4), "stderr": 0.013, "n": 1000},
            "knowledge/cloze/log_prob": {"value": round(-2.6 + math.log(kept), 4), "stderr": 0.05, "n": 1000},
            "task/word_problems/loss": {"value": round(1.41 - 0.55 * gained, 4), "stderr": 0.012, "n": 300},
            "task/word_problems/accuracy": {"value": round(0.38 * accuracy_gained, 4), "stderr": 0.045, "n": 100},
        },
        "compared": {
            "K": interval(accuracy_kept, 0.05),
            "K_clipped": interval(min(accuracy_kept, 0.99), 0.04),
            "T": interval(1.0, 0.0) if full else interval(accuracy_gained, 0.11),
            "KT": interval(harmonic(accuracy_kept, accuracy_gained), 0.07),
            "K_p": interval(kept, 0.018),
            "choice_kept": interval(accuracy_kept**0.5, 0.02),
            "T_l": interval(1.0, 0.0) if full else interval(gained, 0.022),
            "KT_l": interval(harmonic(kept, gained), 0.016),
            "ratios": {"facts": interval(accuracy_kept, 0.05), "cloze": interval(accuracy_kept * 0.98, 0.06)},
            "knowledge_log_prob": {
                "facts": interval(math.log(kept), 0.02),
                "cloze": interval(math.log(kept) * 1.1, 0.03),
            },
        },
        "trainable_params": 134515008 if full else 19537920,
        "trained_share": 1.0 if full else 0.127,
        "init_seconds": {"full": None, "lora": 0.8}.get(method, 94.0),
        "init_peak_bytes": None if full else 1.9e9,
        "train_seconds": 412.7,
        "train_tokens_per_second": 1184.2,
        "train_peak_bytes": 3.3e9,
        "eval_seconds": 181.0,
        "curve": curve,
        "frontier": frontier,
        "frontier_area": round(harmonic(kept, gained) * 0.98, 4),
        "plan": None if full else make_plan(method, random.Random(method)),
        "facts": make_facts(rng, round((1 - kept) * 300), round(rng.uniform(4, 16))),
    }


def make_comparisons(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            for measure in ("K_p", "T_l", "KT_l"):
                difference = a["compared"][measure]["value"] - b["compared"][measure]["value"]
                found.append({"a": a["id"], "b": b["id"], "measure": measure, **interval(difference, 0.02)})
    return found


def make_differences(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs of one method and rate as its seeds, and every pair of methods, as `farss compare` writes them."""
    several = len({r["learning_rate"] for r in runs}) > 1
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        name = f"{run['method']} lr {run['learning_rate']:g}" if several else run["method"]
        groups.setdefault(name, []).append(run)
    values = {
        name: {m: sum(r["compared"][m]["value"] for r in found) / len(found) for m in ("KT_l", "K_p", "T_l")}
        | {"frontier_area": sum(r["frontier_area"] for r in found) / len(found)}
        for name, found in groups.items()
    }
    names = list(groups)
    measures = {}
    for measure in ("KT_l", "frontier_area", "K_p", "T_l"):
        pairs = []
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                found = interval(values[a][measure] - values[b][measure], 0.03)
                p = 0.0004 if found["low"] > 0 or found["high"] < 0 else 0.4321
                pairs.append({"a": a, "b": b, "error": 0.012, "p": p / 2, "p_holm": p, **found})
        measures[measure] = {"critical": 2.9, "pairs": pairs}
    methods = {
        name: {
            "method": found[0]["method"],
            "learning_rate": found[0]["learning_rate"],
            "runs": [r["id"] for r in found],
            "seeds": len(found),
            **{measure: interval(value, 0.025) for measure, value in values[name].items()},
        }
        for name, found in groups.items()
    }
    return {"level": 0.95, "resamples": 2500, "methods": methods, "measures": measures, "undefined": {}}


def make_spectrum(layer: int, region: str, rng: random.Random) -> dict[str, Any]:
    sigma = [round(9 * math.exp(-i / 70) + 0.3 * (1 - i / DIRECTIONS), 5) for i in range(DIRECTIONS)]
    scores = [round(2 * math.log(s) - 14 + rng.gauss(0, 1.4), 4) for s in sigma]
    low = sorted(range(DIRECTIONS), key=scores.__getitem__)
    return {
        "name": f"model.layers.{layer}.self_attn.q_proj",
        "region": region,
        "sigma": sigma,
        "log_scores": [None, *scores[1:]],
        "chosen": {
            "farss": sorted(low[:14] if region == "shallow" else low[-64:]),
            "pissa": list(range(64)),
            "milora": list(range(DIRECTIONS - 64, DIRECTIONS)),
        },
    }


def make_report(
    methods: tuple[str, ...] = ("full", "lora", "pissa", "milora", "farss", "farss-init"),
    rates: tuple[float, ...] = (2e-4, 1e-3),
    seed: int = 0,
) -> dict[str, Any]:
    rng = random.Random(seed)
    runs = [make_run(m, rate, i > 0, rng) for m in methods for i, rate in enumerate(rates)]
    base = {
        "knowledge/facts/accuracy": {"value": 0.41, "stderr": 0.02, "n": 600},
        "knowledge/facts/log_prob": {"value": -1.81, "stderr": 0.04, "n": 600},
        "knowledge/facts/choice": {"value": 0.72, "stderr": 0.018, "n": 600},
        "knowledge/cloze/accuracy": {"value": 0.237, "stderr": 0.013, "n": 1000},
        "knowledge/cloze/log_prob": {"value": -2.6, "stderr": 0.05, "n": 1000},
        "task/word_problems/loss": {"value": 1.41, "stderr": 0.013, "n": 300},
        "task/word_problems/accuracy": {"value": 0.04, "stderr": 0.02, "n": 100},
    }
    recipe = {
        "name": "synthetic example",
        "model": {"name": "smollm2-135m", "dtype": "auto"},
        "methods": list(methods),
        "learning_rates": list(rates),
        "train": {"epochs": 1.0, "batch_size": 16, "warmup_ratio": 0.03},
    }
    return {
        "schema_version": 1,
        "name": "Synthetic example, invented numbers",
        "created": "2000-01-01T00:00:00Z",
        "recipe": recipe,
        "versions": {"farss": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "device": {"name": "imaginary CPU", "cores": 2, "memory_bytes": 16 * 2**30},
        "model": {
            "name": "SmolLM2-135M",
            "fingerprint": "sha256:0f1e2d3c4b5a",
            "parameters": 134515008,
            "layers": LAYERS,
        },
        "data": {
            "task": "word_problems",
            "train_rows": 2000,
            "train_tokens": 412345,
            "calibration_rows": 256,
            "calibration_tokens": 51234,
            "task_rows": 300,
            "generate_rows": 100,
            "knowledge": {"facts": 600, "cloze": 1000},
        },
        "base": {"scores": base},
        "runs": runs,
        "comparisons": make_comparisons(runs),
        "spectra": [make_spectrum(1, "shallow", rng), make_spectrum(22, "deep", rng)],
    }


@pytest.fixture
def build_report() -> Callable[..., dict[str, Any]]:
    """The builder itself: `build_report(methods=..., rates=...)`."""
    return make_report


@pytest.fixture
def build_differences() -> Callable[..., dict[str, Any]]:
    """Of a list of runs."""
    return make_differences


@pytest.fixture
def report() -> dict[str, Any]:
    """Six methods at two learning rates."""
    return make_report()
