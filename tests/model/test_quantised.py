"""Weights that are stored as codes and scales are refused alike by both engines; what is plain passes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.config import ModelConfig
from farss.errors import ModelError
from farss.model.lazy import skeleton
from farss.model.quantised import PART
from farss.model.sources import load

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def folder(tmp_path, tiny_llama, tiny_tokenizer):
    tiny_llama.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusals(folder) -> set[str]:
    """What the engine that loads the model and the one that reads it piece by piece say."""
    messages = set()
    for engine in (lambda: load(ModelConfig(name=str(folder))), lambda: skeleton(folder)):
        with pytest.raises(ModelError, match="weights are quantised") as caught:
            engine()
        messages.add(str(caught.value))
    return messages


def store(folder, **tensors):
    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, {"format": "pt"})


@pytest.mark.case("a quantised folder is refused by both engines, and the way out is named")
@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "fp8", "weight_block_size": [16, 16]}, "FineGrainedFP8Config(dequantize=True)"),
        ({"quant_method": "mxfp4"}, "Mxfp4Config(dequantize=True)"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_named_quantisation_is_refused_alike(folder, entry, said, nested):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            config | ({"text_config": {"quantization_config": entry}} if nested else {"quantization_config": entry})
        )
    )
    (message,) = refusals(folder)
    assert said in message
    assert "unquantised model" in message


@pytest.mark.case("scales in the file without a word in the configuration are not ignored")
@pytest.mark.parametrize(
    "tensors",
    [
        {f"{UP}.weight_scale_inv": torch.ones(4, 2)},
        {f"{UP}.weight_scale": torch.ones(64, 1)},
        {f"{UP}.weight.absmax": torch.ones(32)},
        {f"{UP}.SCB": torch.ones(64)},
        {f"{UP}.qweight": torch.ones(4, 64, dtype=torch.int32), f"{UP}.scales": torch.ones(1, 64)},
        {"model.layers.0.mlp.experts.down_proj_blocks": torch.ones(2, 4, 4, dtype=torch.uint8)},
        {f"{UP}.weight": torch.ones(64, 32).to(torch.float8_e4m3fn)},
        {f"{UP}.weight": torch.ones(64, 32, dtype=torch.int8)},
    ],
    ids=lambda tensors: next(iter(tensors)).rpartition(".")[2],
)
def test_codes_and_scales_without_a_named_quantisation_are_refused_alike(folder, tensors):
    store(folder, **tensors)
    (message,) = refusals(folder)
    assert next(iter(tensors)).split(".")[-1] in message


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.input_layernorm.scale",
        "model.layers.0.mlp.router.scale",
        "model.layers.0.layer_scalar",
        "model.layers.0.self_attn.q_scale",
        "conv.weight_g",
    ],
)
def test_names_of_plain_weights_are_no_parts_of_packed_ones(name):
    assert PART.fullmatch(name) is None


def test_an_empty_entry_names_no_quantisation(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": None}))
    store(folder, **{"model.mask": torch.ones(4, 4, dtype=torch.uint8)})  # a buffer of integers is not a weight
    assert load(ModelConfig(name=str(folder), dtype="checkpoint")).dtype == torch.bfloat16
