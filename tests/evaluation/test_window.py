"""Texts against what the model reads: BOS for every row alike, no id without embedding, no position beyond the end."""

from __future__ import annotations

import copy
import warnings

import pytest
from tests.conftest import VOCABULARY, build, sizes
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, LlamaConfig

from farss.errors import DataError
from farss.evaluation.generation import generate_after
from farss.evaluation.likelihood import answer_log_probs, response_losses
from farss.evaluation.prefix import encode
from farss.model.calibration import Example
from farss.model.tables import window_of

WINDOW = 24


@pytest.fixture(params=["gpt2", "llama"])
def short(request):
    """A model of 24 positions: from a table, or rotary."""
    if request.param == "gpt2":
        return build(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=WINDOW))
    return build(LlamaConfig(**sizes(max_position_embeddings=WINDOW)))


@pytest.fixture
def opening(tiny_tokenizer):
    """The tiny tokenizer, beginning every text with BOS on its own."""
    opening = copy.deepcopy(tiny_tokenizer)
    bos = (opening.bos_token, opening.bos_token_id)
    opening._tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return opening


@pytest.mark.case("one row that begins with BOS takes it from no other")
@pytest.mark.parametrize("texts", [["<bos>x", "y", "z"], ["y", "<bos>x", "z"], ["y", "z"], ["<bos>x"], []])
def test_every_text_has_bos_once_whatever_the_others_begin_with(opening, texts):
    encoded = encode(opening, texts)
    assert [ids.count(opening.bos_token_id) for ids in encoded] == [1] * len(texts)
    assert all(ids[0] == opening.bos_token_id for ids in encoded)
    assert encoded == [encode(opening, [text])[0] for text in texts]


def test_a_tokenizer_that_adds_no_bos_adds_none(tiny_tokenizer):
    assert [len(ids) for ids in encode(tiny_tokenizer, ["ab", "<bos>ab", "ab"])] == [2, 3, 2]


@pytest.mark.case("texts beyond the window are cut and counted")
def test_a_text_that_is_too_long_is_scored_by_its_end_and_counted(short, tiny_tokenizer):
    prompts, answers = ["a" * 60 + "question", "why"], ["yes", "yes"]
    with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than the {WINDOW} tokens"):
        found = answer_log_probs(short, tiny_tokenizer, "", prompts, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        room = WINDOW - len(" yes") + 1  # the last token is not read
        alone = answer_log_probs(short, tiny_tokenizer, "", [prompts[0][-room:], prompts[1]], answers)
    assert [score.log_prob for score in found] == pytest.approx([score.log_prob for score in alone], rel=1e-5)


def test_a_few_shot_beginning_goes_first(short, tiny_tokenizer):
    with pytest.warns(UserWarning, match="2 of 2 texts"):
        found = answer_log_probs(short, tiny_tokenizer, "example " * 9, ["one", "twenty"], ["a", "b"])
    assert all(score.log_prob < 0 for score in found)


def test_an_answer_beyond_the_window_is_refused(short, tiny_tokenizer):
    with pytest.raises(DataError, match="an answer is longer than the model reads"):
        answer_log_probs(short, tiny_tokenizer, "", ["why"], ["y" * 40])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_end_where_the_window_does(short, tiny_tokenizer, batch_size):
    short.generation_config.eos_token_id = None
    contexts = [[10] * 20, [11] * 3, [12] * 60]
    with pytest.warns(UserWarning, match="2 of 3 texts"):
        found = generate_after(short, tiny_tokenizer, contexts, max_new_tokens=100, batch_size=batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = [generate_after(short, tiny_tokenizer, [c], max_new_tokens=100, batch_size=1)[0] for c in contexts]
    assert found == alone
    assert len(found[1]) <= WINDOW - 3 + 1


@pytest.mark.case("a token without an embedding is named before the model runs")
def test_an_id_without_an_embedding_is_named(short, tiny_tokenizer):
    example = Example((5, VOCABULARY + 3), (6,))
    with pytest.raises(DataError, match=rf"no embedding[\s\S]*id {VOCABULARY + 3}"):
        response_losses(short, [example], pad_id=0)
    with pytest.raises(DataError, match="no embedding"):
        generate_after(short, tiny_tokenizer, [[5, VOCABULARY]], max_new_tokens=2)


@pytest.mark.parametrize(
    ("rotary", "window"),
    [
        (None, 100),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50, "rope_theta": 1e4}, 200),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 50, "rope_theta": 1e4}, 100),
    ],
)
def test_stretched_rotary_positions_reach_as_far_as_the_configuration_says(rotary, window):
    assert window_of(LlamaConfig(max_position_embeddings=100, rope_parameters=rotary)) == window


def test_a_model_without_positions_has_no_window():
    from transformers import BloomConfig, MambaConfig

    assert window_of(BloomConfig()) is None
    assert window_of(MambaConfig()) is None
