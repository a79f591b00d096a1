"""What ends an answer beside the end of sequence: found in a template, told to the model, kept with adapters."""

from __future__ import annotations

import copy
import json

import pytest
from transformers import GenerationConfig

from farss.errors import AdapterError
from farss.model.ends import Ends, Taught, ends_of, stop_at_, taught_beside


@pytest.mark.case("the model never stops")
@pytest.mark.parametrize(
    ("written", "ends"),
    [
        ("<unk>", Ends(tokens=(3,))),
        ("<unk>\n", Ends(tokens=(3,))),
        ("\n<unk>", Ends(tokens=(3,))),
        ("<bos>user", Ends(tokens=(2,))),
        ("<eos>\n", Ends()),
        (" <eos>", Ends()),
        ("\n\n", Ends()),
        (None, Ends()),
        ("<|im_end|>\n", Ends(texts=("<|im_end|>",))),
        ("\n### End\n", Ends(texts=("\n### End",))),
    ],
)
def test_a_turn_is_ended_by_its_first_special_token_or_by_its_words(tiny_tokenizer, written, ends):
    assert ends_of(tiny_tokenizer, written) == ends


def test_a_token_that_was_added_ends_a_turn_too(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<|im_end|>"])
    assert ends_of(tokenizer, "<|im_end|>\n") == Ends(tokens=(tokenizer.convert_tokens_to_ids("<|im_end|>"),))


@pytest.mark.parametrize(("named", "found"), [(1, [1, 3]), (None, [3]), ([1, 3], [1, 3]), ([5, 1], [5, 1, 3])])
def test_ends_are_added_to_those_that_the_model_has(tiny_llama, named, found):
    tiny_llama.generation_config.eos_token_id = named
    twin = copy.copy(tiny_llama)
    twin.__dict__ = dict(tiny_llama.__dict__)  # as copies that share the settings
    stop_at_(tiny_llama, [3, 3])
    assert tiny_llama.generation_config.eos_token_id == found
    assert twin.generation_config.eos_token_id == named


def test_a_model_without_generation_settings_is_left_alone(tiny_llama, tmp_path):
    tiny_llama.generation_config = None
    stop_at_(tiny_llama, [3])
    Taught((3,)).write_beside(tiny_llama, tmp_path)
    assert tiny_llama.generation_config is None and not [*tmp_path.iterdir()] and taught_beside(tmp_path) == Taught()


@pytest.mark.parametrize(("named", "found"), [(1, (1,)), ([1, 3], (1, 3)), (None, ())])
def test_what_is_written_beside_an_adapter_is_read_again(tmp_path, named, found):
    GenerationConfig(eos_token_id=named).save_pretrained(tmp_path)
    assert taught_beside(tmp_path).ends == found


@pytest.mark.parametrize(
    "content", ['{"eos_token_id": "2"}', '{"eos_token_id": [-1]}', '{"eos_token_id": [true]}', "[]"]
)
def test_settings_that_name_no_tokens_are_refused(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(AdapterError, match=r"end of sequence|JSON object"):
        taught_beside(tmp_path)


def test_settings_hold_what_the_model_had(tiny_llama, tmp_path):
    tiny_llama.generation_config.max_new_tokens = 7
    Taught((2,)).write_beside(tiny_llama, tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [1, 2] and settings["max_new_tokens"] == 7


@pytest.mark.parametrize(
    "taught", [Taught(), Taught((1, 3)), Taught(template="{{ 'caf\u00e9' }}\n"), Taught((1, 3), "x")]
)
def test_what_was_taught_is_read_as_it_was_written(tiny_llama, tmp_path, taught):
    taught.write_beside(tiny_llama, tmp_path)
    assert taught_beside(tmp_path) == taught


def test_a_tokenizer_with_the_template_is_another_one(tiny_tokenizer):
    before = tiny_tokenizer.chat_template
    assert Taught().asking(tiny_tokenizer) is tiny_tokenizer and Taught(template="x").asking(None) is None
    assert Taught(template="x").asking(tiny_tokenizer).chat_template == "x" and tiny_tokenizer.chat_template == before
