"""Tasks of lm-eval on a model with a short window: what it cuts is counted, and what it cannot read is refused."""

from __future__ import annotations

import pytest
from tests.conftest import VOCABULARY, build, sizes
from tests.evaluation.test_harness import multiple_choice, write

pytest.importorskip("lm_eval")

from transformers import LlamaConfig

from farss.errors import DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import run_tasks
from farss.evaluation.window import asking, counting_cuts


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write(folder / "arc_easy" / "train.jsonl.gz", multiple_choice(50, 3))
    rows = multiple_choice(0, 4)
    rows[0]["question"] = "so " * 30 + rows[0]["question"]
    write(folder / "arc_easy" / "test.jsonl.gz", rows)
    return folder


def short(window):
    return build(LlamaConfig(**sizes(vocab_size=VOCABULARY, max_position_embeddings=window)))


@pytest.mark.case("texts beyond the window are counted in the results of an evaluation")
def test_what_lm_eval_cuts_is_counted(tiny_tokenizer, data):
    with counting_cuts() as cuts, asking("harness"):
        run_tasks(TorchBackend(short(64), tiny_tokenizer), ["arc_easy"], data_dir=data, shots=0)
    assert cuts == {"harness": {"texts": 16, "cut": 4, "window": 64}}  # four choices of the long question


def test_nothing_is_counted_where_all_fits(tiny_tokenizer, data):
    with counting_cuts() as cuts:
        run_tasks(TorchBackend(short(512), tiny_tokenizer), ["arc_easy"], data_dir=data, shots=0)
    assert cuts == {}


def test_a_choice_beyond_the_window_is_a_wrong_request(tiny_tokenizer, tmp_path):
    rows = multiple_choice(0, 4)
    rows[1]["choices"]["text"][0] = "long" * 10
    for split in ("train", "test"):
        write(tmp_path / "arc_easy" / f"{split}.jsonl.gz", rows)
    with pytest.raises(DataError, match=r"an answer is longer than the model reads[\s\S]*24 tokens"):
        run_tasks(TorchBackend(short(24), tiny_tokenizer), ["arc_easy"], data_dir=tmp_path, shots=0)
