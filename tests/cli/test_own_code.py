"""A model with code of its own goes the whole way once it is trusted, and nowhere without a word of trust."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

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
def test_every_verb_asks_for_trust_on_its_own_command_line(farss, workshop, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    recipe = workshop.recipe("twin", **{"model.name": str(model)})
    verbs = [
        ("init", "--recipe", recipe, "--method", "lora", "--out", tmp_path / "init"),
        ("train", "--init", tmp_path / "init", "--out", tmp_path / "trained"),
        ("export", "--adapter", tmp_path / "trained" / "adapter", "--out", tmp_path / "peft"),
        ("inspect", "--recipe", recipe, "--out", tmp_path / "look"),
        ("rows", "--recipe", recipe),
        ("eval", "--recipe", recipe, "--tasks", "capitals", "--adapter", tmp_path / "peft", "--out", tmp_path / "e"),
        ("audit", "--recipe", recipe, "--adapter", tmp_path / "peft", "--out", tmp_path / "audit"),
        ("run", recipe, "--set", "methods=[lora]", "--out", tmp_path / "run"),
    ]
    for verb in verbs:
        code, _, err = farss(*verb)  # the folders of the verbs before say yes, but are they the user's?
        assert code == 2 and "--set model.trust_remote_code=true" in err and "Traceback" not in err, (verb[0], err)
        assert verb[0] == "rows" or not Path(verb[-1]).exists()
        if verb[0] in ("init", "train", "export"):
            code, _, err = farss(*verb, *TRUST)
            assert code == 0, (verb[0], err)


@pytest.mark.case("a recipe that comes with an initialised adapter has no code run and says what it has read")
def test_the_recipe_of_a_foreign_init_folder_runs_nothing(farss, workshop, model, initialised, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (model / "modeling_twin.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{CODE}")
    given = shutil.copytree(initialised, tmp_path / "given")
    settings = yaml.safe_load((given / "recipe.yaml").read_text())
    settings["model"] |= {"name": str(model), "trust_remote_code": True}
    (given / "recipe.yaml").write_text(yaml.safe_dump(settings))
    code, _, err = farss("train", "--init", given, "--data-dir", workshop.data, "--out", tmp_path / "out")
    assert code == 2 and "--set model.trust_remote_code=true" in err
    said = next(line for line in err.splitlines() if line.startswith("as "))
    assert f"model.name {model}" in said and "data.task gsm8k" in said
    assert not (tmp_path / "ran").exists()


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
