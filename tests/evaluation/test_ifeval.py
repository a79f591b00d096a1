"""IFEval: scored as lm-eval scores it, on every prompt; nothing is fetched, and what is missing is said."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("langdetect")
pytest.importorskip("immutabledict")

from farss.datasets.files import read_rows
from farss.errors import ConfigError, DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import check_tasks, run_tasks
from farss.evaluation.ifeval import check_ifeval, ifeval_support

METRICS = ("prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc")
SEED = 7

OBEDIENT = """<<A title>>

* *First point* with [name] and [address]
* *Second point* of three

***

Paragraph 1

PARAGRAPH 2: every word counts here and none is wasted
******
Here is another answer

P.S. That is all. Is there anything else I can help with?"""


def fixed_response(family: str, row) -> str:
    """Responses that follow some instructions and break others."""
    return {
        "echo": f"{row['prompt']}\n\n{OBEDIENT}",
        "shouted": OBEDIENT.upper().replace(",", "") * 6,
        "quoted": f'"{json.dumps({"answer": row["prompt"].lower()})}"',
        "silent": " \n",
    }[family]


FAMILIES = ("echo", "shouted", "quoted", "silent")


@pytest.fixture
def data(tmp_path, punkt_tab, monkeypatch):
    """A data directory with the tokenizer that NLTK does not have of its own."""
    import nltk

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("something was downloaded"))
    shutil.copytree(punkt_tab / "english", tmp_path / "data" / "nltk_data" / "tokenizers" / "punkt_tab" / "english")
    (tmp_path / "data" / "ifeval").mkdir()
    return tmp_path / "data"


def test_every_prompt_is_scored_as_by_lm_eval(data, shared_data, tiny_llama, tiny_tokenizer, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    rows = read_rows(shared_data / "ifeval" / "test.jsonl.gz")
    asked = [(row, fixed_response(family, row)) for family in FAMILIES for row in rows]
    with gzip.open(data / "ifeval" / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row, _ in asked)
    monkeypatch.setattr(HFLM, "generate_until", lambda self, requests, **_: [response for _, response in asked])
    with ifeval_support(data, SEED):
        from lm_eval.tasks.ifeval import instructions
        from lm_eval.tasks.ifeval.utils import process_results

        # Where a prompt counts a character that is no letter (two do), lm-eval counts a letter drawn at random instead.
        drawn = SimpleNamespace(choice=lambda options: options[0], randint=lambda low, high: low)
        monkeypatch.setattr(instructions, "random", drawn)
        direct = [process_results(row, [response]) for row, response in asked]
    # The task asks for up to 1,280 new tokens, which this model has no positions for; here nothing is generated.
    monkeypatch.setattr(tiny_llama.config, "max_position_embeddings", 2048)
    found = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["ifeval"], data_dir=data, seed=SEED)
    assert len(rows) == 541 and len(found.samples["ifeval"]) == len(direct) == len(FAMILIES) * 541
    for sample, expected in zip(found.samples["ifeval"], direct, strict=True):
        assert {metric: sample[metric] for metric in METRICS} == expected, sample["doc"]["key"]
    for metric in METRICS:
        each = [expected[metric] for expected in direct]
        flat = [hit for entry in each for hit in (entry if isinstance(entry, list) else [entry])]
        score = found.scores["ifeval"][metric]
        assert score["value"] == pytest.approx(sum(flat) / len(flat)) and 0 < score["value"] < 1
        assert score["n"] == len(direct)


def test_language_detection_draws_the_same_every_time(data):
    from langdetect import DetectorFactory, detect_langs

    before = DetectorFactory.seed
    with ifeval_support(data, SEED):
        found = {str(detect_langs("eins two trois")) for _ in range(5)}
    assert len(found) == 1
    assert DetectorFactory.seed == before


def test_the_missing_tokenizer_is_said_and_not_fetched(data):
    (data / "ifeval" / "test.jsonl.gz").write_bytes(b"")
    check_tasks(["ifeval"], data)
    shutil.rmtree(data / "nltk_data")
    with pytest.raises(DataError, match=r"(?s)sentence tokenizer.*nltk_data.*punkt_tab"):
        check_tasks(["ifeval"], data)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"(?s)not installed.*langdetect"):
        check_ifeval(tmp_path)
