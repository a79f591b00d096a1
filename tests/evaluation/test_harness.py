"""Tasks of lm-eval on local rows: the same numbers as lm-eval itself, no network, adapters as they are."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

from farss.errors import ConfigError, DataError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import check_tasks, run_tasks

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
    ours = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["arc_easy"], data_dir=data, shots=2, batch_size=4)
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
    switched = run_tasks(TorchBackend(adapted, tiny_tokenizer), ["arc_easy"], data_dir=data)
    merged = run_tasks(TorchBackend(adapted.merge_and_unload(), tiny_tokenizer), ["arc_easy"], data_dir=data)
    assert switched.scores == merged.scores
    for one, other in zip(switched.samples["arc_easy"], merged.samples["arc_easy"], strict=True):
        assert [r[0][0] for r in one["resps"]] == pytest.approx([r[0][0] for r in other["resps"]], abs=1e-4)


def test_rows_in_other_fields_are_put_into_the_hubs(tiny_llama, tiny_tokenizer, data):
    found = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["hellaswag", "wikitext"], data_dir=data, limit=4)
    assert found.scores["hellaswag"]["acc_norm"]["n"] == 4
    assert found.samples["hellaswag"][1]["doc"]["query"] == "Cooking: He takes 1 eggs. he"
    pages = [sample["doc"]["page"] for sample in found.samples["wikitext"]]
    assert [page.splitlines()[0] for page in pages] == [" = One = ", " = Two = "] and " == Part == " in pages[0]


def test_what_is_missing_is_named_before_anything_runs(data):
    with pytest.raises(DataError, match=r"piqa/validation\.jsonl\.gz"):
        check_tasks(["arc_easy", "piqa"], data)
    with pytest.raises(ConfigError, match="not known here"):
        check_tasks(["arc_eazy"], data)


def subjects():
    """The parts of MMLU that lm-eval has a task for."""
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / "mmlu" / "default"
    return sorted(file.stem.removeprefix("mmlu_") for file in folder.glob("mmlu_*.yaml"))


def write_mmlu(folder, names):
    for split, count in (("dev", 2), ("test", 3)):
        rows = [
            {
                "question": f"{split} {name} {n}?",
                "subject": name,
                "choices": list("wxyz"),
                "answer": (n + len(name)) % 4,
            }
            for name in names
            for n in range(count)
        ]
        write(folder / "mmlu" / f"{split}.jsonl.gz", rows)


def test_a_group_has_its_own_accuracy_over_all_its_members(tiny_llama, tiny_tokenizer, data):
    write_mmlu(data, subjects())
    found = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["mmlu", "arc_easy"], data_dir=data, limit=2, shots=1)
    assert len(subjects()) == 57 == sum(name.startswith("mmlu_") for name in found.samples)
    assert {name for name in found.scores if name.startswith("mmlu_")} > {"mmlu_stem", "mmlu_anatomy"}
    hits = [sample["acc"] for name in found.samples if name.startswith("mmlu_") for sample in found.samples[name]]
    score = found.scores["mmlu"]["acc"]
    assert score["n"] == len(hits) == 2 * 57 and 0 < sum(hits) < len(hits)
    assert score["value"] == pytest.approx(sum(hits) / len(hits)) and score["stderr"] > 0
    assert found.scores["mmlu_anatomy"]["acc"]["n"] == 2 and found.scores["arc_easy"]["acc"]["n"] == 2
    for sample in found.samples["mmlu_anatomy"]:
        assert sample["doc"]["subject"] == "anatomy"
        prompt = sample["arguments"][0][0]
        assert "about anatomy." in prompt and "dev anatomy 0?" in prompt and "dev anatomy 1?" not in prompt


def test_a_group_without_rows_of_one_member_is_refused(tiny_llama, tiny_tokenizer, data):
    write_mmlu(data, [name for name in subjects() if name != "anatomy"])
    with pytest.raises(DataError, match=r"(?s)no rows of one part.*anatomy"):
        run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["mmlu"], data_dir=data, limit=1)


def test_math_is_joined_from_both_files_and_told_apart_by_subject(tiny_llama, tiny_tokenizer, data):
    names = ["Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra"]
    solved = {"solution": "So $\\boxed{4}$."}
    some = [
        {"problem": f"{n}: 2+2?", "subject": n, "level": 2, "unique_id": "", "answer": "4", **solved} for n in names
    ]
    rest = [{"problem": f"{n}: 3+1?", "type": n, "level": "Level 1", **solved} for n in [*names, "Precalculus"]]
    write(data / "math" / "test_500.jsonl.gz", some)
    write(data / "math" / "test_rest.jsonl.gz", rest)
    names = ["hendrycks_math", "hendrycks_math500"]
    found = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), names, data_dir=data, max_new_tokens=4)
    assert found.scores["hendrycks_math"]["exact_match"]["n"] == 13
    assert found.scores["hendrycks_math500"]["exact_match"] == {"value": 0.0, "stderr": 0.0, "n": 6}
    problems = [sample["doc"]["problem"] for sample in found.samples["hendrycks_math_counting_and_prob"]]
    assert problems == ["Counting & Probability: 2+2?", "Counting & Probability: 3+1?"]
    [words] = found.samples["hendrycks_math_precalc"][0]["resps"][0]
    assert len(words) <= 4


def test_social_iqa_has_the_hubs_fields_again(tiny_llama, tiny_tokenizer, data):
    text = (
        'Please choose the correct answer to the question: Kai said "no."  Then Mr. Lee left. Why did Lee leave?\n\n'
        "Answer1: to eat Answer2: he, too, was sad Answer3: no reason\n\nAnswer format: answer1/answer2/answer3"
    )
    write(data / "commonsense" / "social_i_qa" / "test.jsonl.gz", [{"instruction": text, "answer": "answer2"}])
    found = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["social_iqa"], data_dir=data)
    [sample] = found.samples["social_iqa"]
    assert sample["arguments"][1] == (
        'Q: Kai said "no."  Then Mr. Lee left. Why did Lee leave?\nA:',
        " he, too, was sad",
    )
    assert sample["doc"]["question"] == "Why did Lee leave?" and sample["target"] == 1
    write(data / "commonsense" / "social_i_qa" / "test.jsonl.gz", [{"instruction": "Why?", "answer": "answer2"}])
    with pytest.raises(DataError, match="LLM-Adapters form"):
        run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), ["social_iqa"], data_dir=data)


def test_without_its_package_nothing_is_loaded(data, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="need its package"):
        check_tasks(["arc_easy"], data)
