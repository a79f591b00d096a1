"""The comparison with the plain `lm_eval` command: its overrides are lm-eval's tasks, and a difference is seen."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import run_tasks, task_manager

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lm_eval_parity.py"
NAMES = ["hellaswag", "hendrycks_math", "social_iqa"]
SUBJECTS = ["Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
            "Precalculus"]  # fmt: skip
SOCIAL = (
    "Please choose the correct answer to the question: Kai cooked {0} eggs. Why did Kai do this?\n\n"
    "Answer1: to eat Answer2: he was sad Answer3: no reason\n\nAnswer format: answer1/answer2/answer3"
)


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("lm_eval_parity", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # where its data classes look their own module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    problem = {"solution": "So $\\boxed{4}$.", "level": "Level 1"}
    rows = {
        "hellaswag/validation": [
            {"query": f"Cooking: He takes {n} eggs. he", "endings": ["a.", "bb.", "ccc.", "dd."], "label": n % 4}
            for n in range(6)
        ],
        "commonsense/social_i_qa/test": [
            {"instruction": SOCIAL.format(n), "answer": f"answer{1 + n % 3}"} for n in range(4)
        ],
        "math/test_500": [{"problem": "2+2?", "subject": "Algebra", "level": 1, "solution": problem["solution"]}],
        "math/test_rest": [{"problem": "3+1?", "type": subject, **problem} for subject in SUBJECTS],
    }
    for stem, found in rows.items():
        file = tmp_path / "data" / f"{stem}.jsonl.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(file, "wt", encoding="utf-8") as opened:
            opened.writelines(json.dumps(row) + "\n" for row in found)
    return tmp_path / "data"


def test_overrides_are_lm_evals_own_tasks_on_local_rows(parity, data, tiny_llama, tiny_tokenizer, tmp_path):
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    index = task_manager().task_index
    written = parity.write_overrides(NAMES, data, tmp_path / "tasks", index)
    assert len(written) == 2 + 7
    text = (tmp_path / "tasks" / "hendrycks_math_num_theory.yaml").read_text()
    assert text.startswith(f'include: "{index["hendrycks_math_num_theory"].yaml_path}"')
    found = evaluator.simple_evaluate(
        model=HFLM(pretrained=tiny_llama, tokenizer=tiny_tokenizer, batch_size=4),
        tasks=NAMES,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
        gen_kwargs={"max_gen_toks": 4},
    )
    scores = {name: dict(parity._metrics(row)) for name, row in found["results"].items()}
    stock = parity.Stock(scores, found["samples"], 0.0)
    ours = run_tasks(TorchBackend(tiny_llama, tiny_tokenizer), NAMES, data_dir=data, batch_size=4, max_new_tokens=4)
    rows = parity.compare(NAMES, ours, stock, index)
    assert [(row["task"], row["metric"], row["samples"]) for row in rows] == [
        ("hellaswag", "acc", 6),
        ("hellaswag", "acc_norm", 6),
        ("hendrycks_math", "exact_match", 8),
        ("social_iqa", "acc", 4),
    ]
    assert all(row["identical"] for row in rows), rows

    other = copy.deepcopy(stock)
    other.samples["hellaswag"][3]["acc"] = 1.0 - other.samples["hellaswag"][3]["acc"]
    rows = parity.compare(["hellaswag"], ours, other, index)
    assert [(row["samples_identical"], row["identical"]) for row in rows] == [(5, False), (6, True)]
