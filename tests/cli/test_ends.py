"""A chat template ends turns with a token that is no end of sequence: models answer up to it, exports stop at it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

TEMPLATE = "{{% for m in messages %}}{{{{ m.content }}}}{end}{{% endfor %}}"
END = 3
"""Id of `<unk>`, which ends a turn in these templates."""


def writes_end_(model, prompt):
    """Have the model write the end of a turn in the place of its third token after a prompt."""
    third = model.generate(prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False)[0, -1]
    model.lm_head.weight.data[END] = 1.02 * model.lm_head.weight.data[third]  # a likely token's value is above zero


@pytest.fixture(scope="module")
def asked(workshop, tmp_path_factory):
    """Arguments that name a model which writes `<unk>` early on, and rows whose answers count."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("ends")
    model = LlamaForCausalLM.from_pretrained(workshop.model)
    tokenizer = AutoTokenizer.from_pretrained(workshop.model)
    ids = tokenizer("What is 1?<unk>", return_tensors="pt", return_token_type_ids=False)
    writes_end_(model, ids["input_ids"])
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"What is {i}?", "completion": f"The answer is: {i}", "final": str(i)} for i in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, end in (("token", "<unk>"), ("sequence", "<eos>")):
        (folder / f"{name}.jinja").write_text(TEMPLATE.format(end=end), encoding="utf-8")
    places = {"data.task": str(folder / "rows.jsonl"), "model.name": str(folder / "model")}
    recipe = workshop.recipe("ends", **places, **{"eval.max_new_tokens": 8})

    def arguments(template: str) -> tuple[str, ...]:
        return ("--recipe", recipe, "--template", str(folder / f"{template}.jinja"))

    return arguments


def words(folder: Path) -> list[str]:
    """What the model answered."""
    with gzip.open(next(folder.rglob("samples.jsonl.gz")), "rt", encoding="utf-8") as file:
        return [sample["words"] for sample in map(json.loads, file) if sample.get("words") is not None]


@pytest.fixture
def with_vllm(asked, monkeypatch):
    """Serve the model by the stub of vLLM."""
    from transformers import AutoTokenizer, LlamaForCausalLM
    from yaml import safe_load

    place = Path(__file__).parents[1] / "evaluation" / "vllm_stub.py"
    spec = importlib.util.spec_from_file_location("vllm_stub", place)
    assert spec and spec.loader
    stub = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "vllm_stub", stub)  # its dataclasses look their module up
    spec.loader.exec_module(stub)
    folder = safe_load(Path(asked("token")[1]).read_text(encoding="utf-8"))["model"]["name"]
    stub.install(monkeypatch, LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), [])


@pytest.mark.case("the model never stops")
def test_an_answer_ends_where_the_template_ends_a_turn_whoever_writes_it(farss, asked, with_vllm, tmp_path):
    found = {}
    for backend in ("torch", "vllm"):
        for template in ("token", "sequence"):
            out = tmp_path / f"{backend}-{template}"
            task = ("--data", Path(asked(template)[3]).with_name("rows.jsonl"), "--held-out", 1, "--generate-rows", 4)
            code, _, err = farss("eval", *asked(template), *task, "--backend", backend, "--out", out)
            assert code == 0, err
            found[backend, template] = words(out)
    assert found["torch", "token"] == found["vllm", "token"] and found["torch", "token"]
    assert found["torch", "sequence"] == found["vllm", "sequence"]
    assert min(map(len, found["torch", "token"])) < 3 < min(map(len, found["torch", "sequence"]))


@pytest.mark.case("the model never stops")
def test_what_is_exported_stops_where_a_turn_ends(farss, asked, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

    for arguments in (
        ("init", *asked("token"), "--method", "lora", "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
    ):
        code, _, err = farss(*arguments)
        assert code == 0, err
    moved = shutil.copytree(tmp_path / "trained" / "adapter", tmp_path / "elsewhere")  # no recipe beside it
    for form in ("merged", "peft", "portable"):
        code, _, err = farss("export", "--adapter", moved, "--to", form, "--out", tmp_path / form)
        assert code == 0, err
        assert GenerationConfig.from_pretrained(tmp_path / form).eos_token_id == [1, END]
        template = (tmp_path / form / "chat_template.jinja").read_text(encoding="utf-8")
        assert template == TEMPLATE.format(end="<unk>")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == template
    served = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    prompt = torch.tensor([[40, 41, END]])
    writes_end_(served, prompt)
    whole = served.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=1)[0, 3:].tolist()
    answer = served.generate(prompt, max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    assert answer == whole[: whole.index(END) + 1] and len(answer) < len(whole)


def test_a_template_that_ends_with_the_sequence_adds_nothing(farss, asked, tmp_path):
    for arguments in (
        ("init", *asked("sequence"), "--method", "lora", "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
    ):
        assert farss(*arguments)[0] == 0
    assert not (tmp_path / "trained" / "adapter" / "generation_config.json").exists()
