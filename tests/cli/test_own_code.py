"""A model with code of its own goes the whole way once it is trusted, and nowhere without a word of trust."""

from __future__ import annotations

import json
import shutil

import pytest

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class TwinConfig(LlamaConfig):
    model_type = "twin"


class TwinForCausalLM(LlamaForCausalLM):
    config_class = TwinConfig
"""
TRUST = ("--set", "model.trust_remote_code=true")


@pytest.fixture
def model(workshop, tmp_path):
    folder = tmp_path / "twin"
    shutil.copytree(workshop.model, folder)
    (folder / "modeling_twin.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "twin", "architectures": ["TwinForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "modeling_twin.TwinConfig",
        "AutoModelForCausalLM": "modeling_twin.TwinForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.case("an adapter of a model with its own code can be exported")
def test_trust_is_given_once_and_goes_with_the_recipe(farss, workshop, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    recipe = workshop.recipe("twin", **{"model.name": str(model)})
    init = ("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "init")
    code, _, err = farss(*init)
    assert code == 2 and "trust_remote_code" in err
    assert farss(*init, *TRUST)[0] == 0
    assert farss("train", "--init", tmp_path / "init", "--out", tmp_path / "trained")[0] == 0
    adapter = tmp_path / "trained" / "adapter"
    code, _, err = farss("export", "--adapter", adapter, "--out", tmp_path / "peft")
    assert code == 0, err

    alone = shutil.copytree(adapter, tmp_path / "elsewhere" / "adapter")  # no recipe beside it says so
    export = ("export", "--adapter", alone, "--to", "portable", "--out", tmp_path / "portable")
    code, _, err = farss(*export)
    assert code == 2 and "trust_remote_code" in err and "Traceback" not in err
    assert farss(*export, *TRUST)[0] == 0


def test_a_recipe_of_another_model_says_nothing_about_this_one(farss, workshop, trained, tmp_path):
    adapter = shutil.copytree(trained, tmp_path / "trained" / "adapter")
    other = workshop.recipe("other", **{"model.name": str(workshop.other), "model.trust_remote_code": True})
    shutil.copy(other, tmp_path / "trained" / "recipe.yaml")
    code, _, err = farss("export", "--adapter", adapter, "--out", tmp_path / "peft")
    assert code == 0, err
