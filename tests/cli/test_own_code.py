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
def test_trust_goes_from_init_to_train_and_is_asked_for_by_export(farss, workshop, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    recipe = workshop.recipe("twin", **{"model.name": str(model)})
    init = ("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "init")
    code, _, err = farss(*init)
    assert code == 2 and "trust_remote_code" in err
    assert farss(*init, *TRUST)[0] == 0
    assert farss("train", "--init", tmp_path / "init", "--out", tmp_path / "trained")[0] == 0
    export = ("export", "--adapter", tmp_path / "trained" / "adapter", "--out", tmp_path / "peft")
    code, _, err = farss(*export)  # the recipe beside the adapter says yes, but is it the user's?
    assert code == 2 and "--set model.trust_remote_code=true" in err and "Traceback" not in err
    assert not (tmp_path / "peft").exists()
    assert farss(*export, *TRUST)[0] == 0


@pytest.mark.case("a recipe that comes with an adapter has no code run")
def test_code_named_by_a_foreign_adapter_does_not_run(farss, workshop, model, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (model / "modeling_twin.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{CODE}")
    given = shutil.copytree(trained, tmp_path / "given" / "adapter")
    settings = json.loads((given / "adapter_config.json").read_text())
    (given / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(model)}))
    recipe = workshop.recipe("given", **{"model.name": str(model), "model.trust_remote_code": True})
    shutil.copy(recipe, tmp_path / "given" / "recipe.yaml")
    for more in (("--model", model), ()):
        code, _, err = farss("export", "--adapter", given, *more, "--out", tmp_path / "out")
        assert code == 2 and "trust_remote_code" in err, err
    assert not (tmp_path / "ran").exists()


def test_a_recipe_of_another_model_says_nothing_about_this_one(farss, workshop, trained, tmp_path):
    adapter = shutil.copytree(trained, tmp_path / "trained" / "adapter")
    other = workshop.recipe("other", **{"model.name": str(workshop.other), "model.trust_remote_code": True})
    shutil.copy(other, tmp_path / "trained" / "recipe.yaml")
    code, _, err = farss("export", "--adapter", adapter, "--out", tmp_path / "peft")
    assert code == 0, err
