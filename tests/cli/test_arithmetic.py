"""On a device without bfloat16 no verb computes a product in half precision, whatever the checkpoint is stored in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import write_rows
from tests.cli.encoders import arguments, reviews, save_encoder
from torch.utils._python_dispatch import TorchDispatchMode

from farss.experiment import stages
from farss.model import arithmetic

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "addmv", "mv", "scaled_dot_product", "convolution")


class HalfProducts(TorchDispatchMode):
    """Notes every product that has a half-precision operand."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(product in name for product in PRODUCTS):
            self.products += 1
            if any(isinstance(arg, torch.Tensor) and arg.dtype in arithmetic.HALF for arg in args):
                self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A device that claims to have no half-precision instructions; stages run in this process, to be watched."""
    monkeypatch.setattr(arithmetic, "has_instructions", lambda dtype, device: (False, "the processor has none"))
    monkeypatch.setattr(stages, "_in_child", lambda work, folder, share: work(folder))


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def stored(request, workshop, tmp_path_factory) -> Path:
    """The workshop's model, stored in half precision."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param) / "model"
    AutoModelForCausalLM.from_pretrained(workshop.model, dtype=getattr(torch, request.param)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(workshop.model).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == request.param
    return folder


def settings(workshop, stored: Path, dtype: str = "auto") -> dict[str, Any]:
    changes = {"model.name": str(stored), "model.dtype": dtype, "methods": ["full", "lora", "farss", "dora"]}
    return changes | {"eval.frontier_scales": [0, 0.5, 1]}


def verbs(workshop, stored: Path, out: Path, dtype: str = "auto") -> list[tuple[object, ...]]:
    """Every verb that computes, in an order in which each finds what it needs."""
    recipe = workshop.recipe(f"half-{stored.parent.name}-{dtype}", **settings(workshop, stored, dtype))
    asked = ("--recipe", recipe, "--knowledge-rows", "4")
    adapter = out / "exported"
    return [
        ("init", "--recipe", recipe, "--method", "farss", "--engine", "resident", "--out", out / "init"),
        ("init", "--recipe", recipe, "--method", "farss", "--engine", "streamed", "--out", out / "streamed"),
        ("inspect", "--recipe", recipe, "--out", out / "look"),
        ("train", "--init", out / "init", "--out", out / "trained"),
        ("export", "--adapter", out / "trained" / "adapter", "--to", "peft", "--out", adapter),
        ("export", "--adapter", out / "trained" / "adapter", "--to", "merged", "--out", out / "merged"),
        ("eval", *asked, "--adapter", adapter, "--tasks", "capitals,gsm8k", "--out", out / "scores"),
        ("audit", *asked, "--adapter", adapter, "--out", out / "audit"),
        ("audit", *asked, "--finetuned", out / "merged", "--out", out / "audit-merged"),
        ("run", recipe, "--out", out / "run"),
    ]


def watched(farss: Callable[..., Any], verb: tuple[object, ...]) -> HalfProducts:
    with HalfProducts() as seen:
        code, _, said = farss(*verb)
    assert code == 0, f"{verb[0]}: {said}"
    assert seen.products or verb[0] == "export", f"{verb[0]} computed nothing, so nothing was watched"
    return seen


@pytest.mark.case("a processor without bfloat16 instructions")
def test_no_verb_computes_in_half_precision(workshop, stored, farss, without_bfloat16, tmp_path):
    for verb in verbs(workshop, stored, tmp_path):
        seen = watched(farss, verb)
        assert not seen.found, f"{' '.join(map(str, verb[:2]))}: {len(seen.found)} products, first {seen.found[0]}"
    merged = json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"]
    assert merged == json.loads((stored / "config.json").read_text())["dtype"]  # computed wide, written as it was
    found = json.loads((tmp_path / "run" / "report.json").read_text())["arithmetic"]
    assert found["weights"] == found["training"] == "float32"
    assert found["checkpoint"] == json.loads((stored / "config.json").read_text())["dtype"]


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def encoders(request, tiny_tokenizer, tmp_path_factory) -> Iterator[Path]:
    """A folder with `model`, an encoder stored in half precision, and `data`."""
    folder = tmp_path_factory.mktemp(f"glue-{request.param}")
    save_encoder(folder / "model", tiny_tokenizer, getattr(torch, request.param))
    for split, rows in (("train", 12), ("validation", 6)):
        write_rows(folder / "data" / "glue" / "sst2" / f"{split}.jsonl.gz", reviews(rows, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSS_CACHE", str(folder / "cache"))
        yield folder


ONCE = {"dtype": "auto", "epochs": 1, "head_warmup_steps": 2, "calibration_rows": 8}


def test_an_encoder_and_its_head_are_not_computed_in_half_precision(encoders, farss, without_bfloat16):
    seen = watched(farss, tuple(arguments(encoders, "run", "full,lora,farss,dora", **ONCE)))
    assert not seen.found, f"{len(seen.found)} products, first {seen.found[0]}"
    found = json.loads((encoders / "run" / "results.json").read_text())["arithmetic"]
    assert found["weights"] == found["training"] == "float32" and found["checkpoint"] in str(encoders)


def test_an_encoder_agrees_with_its_head_on_a_device_that_is_fast_in_half(encoders, farss, monkeypatch):
    monkeypatch.setattr(arithmetic, "half", lambda dtype, device: arithmetic.Half(True, "this one is fast"))
    monkeypatch.setattr(stages, "_in_child", lambda work, folder, share: work(folder))
    assert watched(farss, tuple(arguments(encoders, "fast", "full,lora", **ONCE))).found, "training uses its units"
    found = json.loads((encoders / "fast" / "results.json").read_text())["arithmetic"]
    assert found["weights"] == "float32" and found["training"] == "bfloat16" and "its head" in found["reason"]
    for asked in ("checkpoint", "bfloat16"):
        code, _, said = farss(*arguments(encoders, "refused", "lora", **ONCE | {"dtype": asked}))
        assert code == 2 and "does not agree with its head" in said and asked in said
    assert not (encoders / "refused").exists()


def test_a_planted_half_product_is_noticed(workshop, stored, farss, without_bfloat16, tmp_path):
    first = verbs(workshop, stored, tmp_path, dtype="checkpoint")[0]
    assert watched(farss, first).found


def test_the_decision_is_said_in_one_line_and_recorded(workshop, stored, farss, without_bfloat16, tmp_path):
    recipe = workshop.recipe("said", **settings(workshop, stored))
    code, out, said = farss("eval", "--recipe", recipe, "--tasks", "capitals", "--out", tmp_path / "e", "--json")
    lines = [line for line in said.splitlines() if line.startswith("arithmetic:")]
    assert code == 0 and len(lines) == 1 and "float32" in lines[0] and "the processor has none" in lines[0]
    assert json.loads(out)["arithmetic"]["weights"] == "float32"


def test_a_run_folder_keeps_the_arithmetic_it_was_begun_with(
    workshop, stored, farss, without_bfloat16, tmp_path, monkeypatch
):
    recipe = workshop.recipe("kept", **settings(workshop, stored) | {"methods": ["lora"]})
    assert farss("run", recipe, "--out", tmp_path)[0] == 0
    before = (tmp_path / "base" / "done.json").read_bytes()
    fast = arithmetic.Half(True, "this one is fast")
    monkeypatch.setattr(arithmetic, "half", lambda dtype, device: fast)
    code, _, said = farss("run", recipe, "--out", tmp_path)
    assert code == 0 and "arithmetic: float32 on" in said
    assert (tmp_path / "base" / "done.json").read_bytes() == before
