"""Folders in which an adapter and what it started from were two are read as the one adapter they are now."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.adapters.apply import apply
from farss.adapters.files import load_adapter, save_adapter
from farss.adapters.layers import lora_layers
from farss.config import FarssConfig
from farss.experiment.initialisation.planning import plan as make_plan


def halve(file, out):
    """The configuration of one of two adapters of the rank that is trained."""
    config = json.loads(file.read_text())
    config["r"], config["lora_alpha"] = config["r"] // 2, config["lora_alpha"] / 2
    for key in ("rank_pattern", "alpha_pattern"):
        config[key] = {name: value / 2 if key[0] == "a" else value // 2 for name, value in config[key].items()}
    out.write_text(json.dumps(config))


def as_it_was(wrapped, folder, form):
    """Rewrite a folder of `save_adapter` as two adapters, or as one and a file of what was taken from the base."""
    trained, starts = {}, {}
    for name, layer in lora_layers(wrapped).items():
        for letter, part in (("A", layer.lora_A["default"]), ("B", layer.lora_B["default"])):
            side = f"base_model.model.{name}.lora_{letter}"
            trained[f"{side}.weight"] = part.learned().detach().contiguous()
            starts[f"{side}.weight"] = part.start.detach() if letter == "A" else -part.start.detach()
            if hasattr(part, "gate"):
                trained |= {f"{side}.factor": part.factor.detach(), f"{side}.gate": part.gate.detach()}
    save_file(trained, folder / "adapter_model.safetensors")
    halve(folder / "adapter_config.json", folder / "adapter_config.json")
    if form == "residual":
        named = {name.removeprefix("base_model.model.").removesuffix(".weight"): t for name, t in starts.items()}
        sides = {"A": ("down", 1), "B": ("up", -1)}
        removed = {}
        for name, tensor in named.items():
            ending, sign = sides[name[-1]]
            removed[f"{name.rpartition('.')[0]}.{ending}"] = (sign * tensor).contiguous()
        save_file(removed, folder / "removed.safetensors")
        return
    (folder / "reference").mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in starts.items()},
        folder / "reference" / "adapter_model.safetensors",
    )
    (folder / "reference" / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("form", ["pair", "residual", "kasa"])
@pytest.mark.parametrize("planned", [True, False])
def test_older_folders_give_the_trained_model_and_train_on(llama, kit, tmp_path, form, planned):
    original, ids = copy.deepcopy(llama), kit.tokens()
    plan = (
        make_plan(llama, [], FarssConfig(rank=4, alpha=4.0), method="kasa")
        if form == "kasa"
        else kit.plan(llama, base="residual" if form == "residual" else "reference")
    )
    wrapped = apply(llama, plan)
    kit.train(wrapped)
    save_adapter(wrapped, tmp_path / "adapter")
    as_it_was(wrapped, tmp_path / "adapter", form)
    if not planned:
        (tmp_path / "adapter" / "plan.json").unlink()
    loaded = load_adapter(copy.deepcopy(original), tmp_path / "adapter")
    torch.testing.assert_close(kit.logits(loaded, ids), kit.logits(wrapped, ids), atol=1e-5, rtol=0)
    for each in (wrapped, loaded):
        kit.train(each, steps=1)
    torch.testing.assert_close(kit.logits(loaded, ids), kit.logits(wrapped, ids), atol=1e-4, rtol=0)
    save_adapter(loaded, tmp_path / "again")
    assert ".start" in "".join(load_file(tmp_path / "again" / "adapter_model.safetensors"))
