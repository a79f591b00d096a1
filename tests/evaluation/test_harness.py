"""Tasks of lm-eval on local rows: the same numbers as lm-eval itself, no network, adapters as they are."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

pytest.importorskip("lm_eval")

from farss.errors import ConfigError, DataError
from farss.evaluation.harness import SOURCES, check_tasks, run_tasks

LETTERS = ["A", "B", "C", "D"]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def multiple_choice(first, count):
    return [
        {
            "question": f"What comes after {number}?",
            "choices": {"text": [str(number + step) for step in (1, 2, 3, 4)], "label": LETTERS},
            "answerKey": LETTERS[number % 4],
        }
        for number in range(first, first + count)
    ]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    write(folder / "arc_easy" / "train.jsonl.gz", multiple_choice(50, 3))
    write(folder / "arc_easy" / "test.jsonl.gz", multiple_choice(0, 8))
    endings = [
        {"query": f"Cooking: He takes {n} eggs. he", "endings": ["a.", "bb.", "ccc.", "dd."], "label": n % 4}
        for n in range(6)
    ]
    write(folder / "hellaswag" / "validation.jsonl.gz", endings)
    lines = [" = One = \r", "some words here", "", " == Part == ", "more words", " = Two = ", "other words"]
    write(folder / "wikitext2" / "test_raw.jsonl.gz", [{"text": line} for line in lines])
    return folder


def stock(model, tokenizer, data, tmp_path):
    """lm-eval by itself, on an override in YAML as its documentation describes."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = TaskManager().task_index["arc_easy"].yaml_path
    files = {split: str(data / "arc_easy" / f"{split}.jsonl.gz") for split in ("train", "test")}
    override = {"task": "arc_easy_local", "dataset_path": "json", "dataset_name": None, "validation_split": None}
    text = f"include: {own}\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in override.items())
    text += f"dataset_kwargs: {json.dumps({'data_files': files, 'cache_dir': str(tmp_path / 'cache')})}\n"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "arc_easy_local.yaml").write_text(text)
    found = evaluator.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=["arc_easy_local"],
        num_fewshot=2,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
    )
    return found["results"]["arc_easy_local"], found["samples"]["arc_easy_local"]


def test_the_scores_are_those_of_lm_eval_itself(tiny_llama, tiny_tokenizer, data, tmp_path):
    ours = run_tasks(tiny_llama, tiny_tokenizer, ["arc_easy"], data_dir=data, shots=2, batch_size=4)
    results, samples = stock(tiny_llama, tiny_tokenizer, data, tmp_path)
    for metric in ("acc", "acc_norm"):
        assert ours.scores["arc_easy"][metric]["value"] == results[f"{metric},none"]
        assert ours.scores["arc_easy"][metric]["stderr"] == pytest.approx(results[f"{metric}_stderr,none"])
        assert ours.scores["arc_easy"][metric]["n"] == 8
    assert [s["resps"] for s in ours.samples["arc_easy"]] == [s["resps"] for s in samples]
    assert ours.versions["arc_easy"] is not None


def test_an_adapter_scores_as_its_merged_model_to_the_sample(tiny_llama, tiny_tokenizer, data):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(tiny_llama.double(), config).eval()
    switched = run_tasks(adapted, tiny_tokenizer, ["arc_easy"], data_dir=data)
    merged = run_tasks(adapted.merge_and_unload(), tiny_tokenizer, ["arc_easy"], data_dir=data)
    assert switched.scores == merged.scores
    for one, other in zip(switched.samples["arc_easy"], merged.samples["arc_easy"], strict=True):
        assert [r[0][0] for r in one["resps"]] == pytest.approx([r[0][0] for r in other["resps"]], abs=1e-4)


def test_rows_in_other_fields_are_put_into_the_hubs(tiny_llama, tiny_tokenizer, data):
    found = run_tasks(tiny_llama, tiny_tokenizer, ["hellaswag", "wikitext"], data_dir=data, limit=4)
    assert found.scores["hellaswag"]["acc_norm"]["n"] == 4
    assert found.samples["hellaswag"][1]["doc"]["query"] == "Cooking: He takes 1 eggs. he"
    pages = [sample["doc"]["page"] for sample in found.samples["wikitext"]]
    assert [page.splitlines()[0] for page in pages] == [" = One = ", " = Two = "] and " == Part == " in pages[0]


def test_what_is_missing_is_named_before_anything_runs(data):
    with pytest.raises(DataError, match=r"piqa/validation\.jsonl\.gz"):
        check_tasks(["arc_easy", "piqa"], data)
    with pytest.raises(ConfigError, match="not known here"):
        check_tasks(["arc_eazy"], data)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_task_runs_on_the_real_files(name, tiny_llama, tiny_tokenizer, shared_data):
    found = run_tasks(tiny_llama, tiny_tokenizer, [name], data_dir=shared_data, limit=2)
    assert found.scores[name] and all(score["n"] == 2 for score in found.scores[name].values())
