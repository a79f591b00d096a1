"""`farss run` and `farss compare`: a whole experiment, resumed and changed."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from farss.cli.main import main
from farss.report import validate

JOBS = ("full-lr0.01-seed0", "lora-lr0.01-seed0", "farss-lr0.01-seed0")


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """This process has computed with two threads before, after which a forked one could not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1000, 1000).exp().sum()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run_folder(workshop, two_threads) -> Path:
    folder = workshop.folder / "run"
    assert main(["run", workshop.recipe(), "--out", str(folder)]) == 0
    return folder


def done_at(folder: Path) -> dict[str, int]:
    return {str(file.parent.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("done.json")}


def redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    assert before.keys() == after.keys()
    return {stage for stage in before if before[stage] != after[stage]}


def test_report_is_complete(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    validate(report)
    assert "<html" in (run_folder / "report.html").read_text()
    assert tuple(run["id"] for run in report["runs"]) == JOBS
    assert report["data"]["task_rows"] == 4 and report["data"]["knowledge"] == {"capitals": 7}
    rows = report["data"]["rows"]
    assert [rows[use]["used"] for use in ("training", "calibration", "held_out")] == [8, 6, 4]
    assert rows["training"]["left_out"] == rows["held_out"]["left_out"] == 1  # longer than the model reads
    assert all(account["read"] and account["sha256"] and account["set"] for account in rows.values())
    assert len(report["spectra"]) == 2
    for run in report["runs"]:
        assert [point["scale"] for point in run["frontier"]] == [0, 0.5, 1]
        assert run["compared"]["K_p"] is not None and run["compared"]["T_l"] is not None
        tested = run["facts"]["mcnemar"]["capitals"]
        assert tested["lost"] == run["facts"]["lost_count"] and 0 <= tested["p"] <= 1
    assert {(row["a"], row["b"]) for row in report["comparisons"]} == {
        (JOBS[0], JOBS[1]),
        (JOBS[0], JOBS[2]),
        (JOBS[1], JOBS[2]),
    }


def test_methods_are_compared_and_speeds_related_to_lora(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    methods, measures = report["differences"]["methods"], report["differences"]["measures"]
    assert {name: method["runs"] for name, method in methods.items()} == {job.partition("-")[0]: [job] for job in JOBS}
    for name in ("K_p", "T_l", "frontier_area"):
        assert len(measures[name]["pairs"]) == 3
        for run in report["runs"]:
            own = run[name] if name == "frontier_area" else run["compared"][name]
            assert methods[run["method"]][name]["value"] == pytest.approx(own["value"])
    speeds = {run["method"]: run["train_tokens_per_second"] for run in report["runs"]}
    for run in report["runs"]:
        assert run["train_speed_to_lora"] == pytest.approx(speeds[run["method"]] / speeds["lora"])


def test_frontier_starts_at_the_base(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    for run in report["runs"]:
        start = run["frontier"][0]
        assert start["K_p"]["value"] == pytest.approx(1) and start["T_l"]["value"] == pytest.approx(0)


def test_a_second_call_does_nothing_again(farss, workshop, run_folder):
    before = done_at(run_folder)
    code, out, _ = farss("run", workshop.recipe(), "--out", run_folder)
    assert code == 0 and "report.html" in out
    assert redone(before, done_at(run_folder)) == set()


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("model/model.safetensors", "model"),
        ("data/gsm8k/train.jsonl.gz", "training rows of gsm8k"),
        ("data/gsm8k/test.jsonl.gz", "held-out rows of gsm8k"),
        ("data/capitals/test.jsonl.gz", "questions of capitals"),
    ],
)
def test_a_run_is_not_finished_with_other_inputs(farss, workshop, run_folder, place, what):
    file, before = workshop.folder / place, done_at(run_folder)
    content = file.read_bytes()
    try:
        if file.suffix == ".gz":
            file.write_bytes(gzip.compress(b"".join(reversed(gzip.decompress(content).splitlines(keepends=True)))))
        else:
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        code, _, err = farss("run", workshop.recipe(), "--out", run_folder)
        assert code == 2 and "an input changed since this run was begun" in err and what in err
    finally:
        file.write_bytes(content)
    assert redone(before, done_at(run_folder)) == set()


@pytest.fixture(scope="module")
def second(workshop, run_folder) -> Path:
    """A run of LoRA alone, of another rank than the first run's."""
    folder = workshop.folder / "second"
    assert main(["run", workshop.recipe("second", methods=["lora"]), "--rank", "2", "--out", str(folder)]) == 0
    return folder


def again(farss, workshop, folder: Path, change: str) -> set[str]:
    """The stages that a changed setting makes the second run do again."""
    before = done_at(folder)
    recipe = workshop.recipe("second", methods=["lora"])
    code, out, err = farss("run", recipe, "--rank", 2, "--out", folder, "--set", change, "--json")
    assert code == 0, err
    key, _, value = change.partition("=")
    assert str(json.loads(out)["recipe"]["eval"][key.removeprefix("eval.")]) == value
    return redone(before, done_at(folder))


def test_a_changed_setting_redoes_what_depends_on_it(farss, workshop, run_folder, second, tmp_path):
    copy = Path(shutil.copytree(second, tmp_path / "second"))
    assert again(farss, workshop, copy, "eval.bootstrap=60") == set()
    assert again(farss, workshop, copy, "eval.frontier_rows=2") == {f"{JOBS[1]}/eval"}
    assert again(farss, workshop, copy, "eval.knowledge_rows=3") == {"base", f"{JOBS[1]}/eval"}
    code, _, err = farss("compare", run_folder, copy, "--out", tmp_path / "both")
    assert code == 2 and "the runs asked different questions" in err


def test_other_rows_of_the_same_set_are_another_request(farss, workshop, second, tmp_path):
    copy = Path(shutil.copytree(second, tmp_path / "second"))
    before, recipe = done_at(copy), workshop.recipe("second", methods=["lora"])
    code, _, err = farss("run", recipe, "--rank", 2, "--out", copy, "--set", "data.split=train[:6]")
    assert code == 0, err
    assert f"{JOBS[1]}/train" in redone(before, done_at(copy))


def test_compare_pairs_two_runs_and_tells_equal_names_apart(farss, run_folder, second, tmp_path):
    code, out, _ = farss("compare", run_folder, second, "--out", tmp_path / "both", "--json")
    assert code == 0
    report = json.loads(out)
    validate(report)
    assert [run["id"] for run in report["runs"]] == [*JOBS, f"{JOBS[1]}@second"]
    assert report["runs"][3]["compared"]["T_l"] is not None  # against the full run of the first folder
    assert report["runs"][3]["trainable_params"] * 2 == report["runs"][1]["trainable_params"]
    assert (tmp_path / "both" / "report.html").exists()


def test_compare_refuses_an_unfinished_run(farss, second, tmp_path):
    copy = Path(shutil.copytree(second, tmp_path / "second"))
    (copy / JOBS[1] / "eval" / "done.json").unlink()
    code, _, err = farss("compare", copy, "--out", tmp_path / "both")
    assert code == 2 and "the run is not finished" in err


def test_a_wrong_recipe_is_refused_before_anything_is_measured(farss, workshop, tmp_path):
    for change, message in (
        ("methods=[lora, farrs]", "did you mean `farss`?"),
        ("init.shallow_layers=9", "more shallow layers than layers"),
        ("eval.knowledge=[capitalz]", "the data set was not found"),
        ("eval.knowledge=[]", "at least one knowledge set"),
        ("eval.frontier_scales=[-1]", "cannot be negative"),
        ("seeds=[0, 0]", "each once"),
    ):
        code, _, err = farss("run", workshop.recipe(), "--set", change, "--out", tmp_path / "run")
        assert code == 2 and message in err and "Traceback" not in err
        assert not done_at(tmp_path / "run")


BOMB = gzip.compress(b"0" * (300 << 20), compresslevel=6)
DEEP = b"[" * 5000 + b"]" * 5000


def edited(change):
    """A file of samples or an account with `change` made to its first record."""

    def edit(content: bytes) -> bytes:
        packed = content.startswith(b"\x1f\x8b")
        first, *rest = (gzip.decompress(content) if packed else content).decode().split("\n" if packed else "\0")
        record = json.loads(first)
        change(record)
        text = "\n".join([json.dumps(record), *rest])
        return gzip.compress(text.encode()) if packed else text.encode()

    return edit


def doubled(content: bytes) -> bytes:
    first, *rest = gzip.decompress(content).decode().split("\n")
    return gzip.compress("\n".join([first, first, *rest]).encode())


DAMAGES = {
    "recipe.yaml: deep": ("recipe.yaml", lambda _: b"name: " + DEEP),
    "recipe.yaml: bytes": ("recipe.yaml", lambda _: b"\xff\xfe"),
    "recipe.yaml: gone": ("recipe.yaml", None),
    "base/done.json: a list": ("base/done.json", lambda _: b"[]"),
    "base/done.json: bytes": ("base/done.json", lambda _: b"\xff"),
    "base/done.json: cut": ("base/done.json", lambda c: c[:-9]),
    "base/done.json: gone": ("base/done.json", None),
    "plans/done.json: no model": ("plans/done.json", edited(lambda r: r.pop("model"))),
    "plans/done.json: a text for a number": ("plans/done.json", edited(lambda r: r.update(peak_bytes="much"))),
    "plans/done.json: a method's time gone": ("plans/done.json", edited(lambda r: r["seconds"].pop("farss"))),
    "plans/done.json: no parameters": ("plans/done.json", edited(lambda r: r["model"].update(parameters=0))),
    "train/done.json: no curve": (f"{JOBS[1]}/train/done.json", edited(lambda r: r.pop("curve"))),
    "train/done.json: a curve of texts": (f"{JOBS[1]}/train/done.json", edited(lambda r: r.update(curve=[["a", 1]]))),
    "train/done.json: deep": (f"{JOBS[1]}/train/done.json", lambda _: DEEP),
    "eval/done.json: null": (f"{JOBS[1]}/eval/done.json", edited(lambda r: r.update(eval_seconds=None))),
    "spectra.json: cut": ("plans/spectra.json", lambda _: b"{"),
    "spectra.json: an object": ("plans/spectra.json", lambda _: b'{"a": 1}'),
    "spectra.json: gone": ("plans/spectra.json", None),
    "samples: no gzip": ("base/samples.jsonl.gz", lambda _: b"{}"),
    "samples: cut": ("base/samples.jsonl.gz", lambda c: c[:-9]),
    "samples: a bomb": ("base/samples.jsonl.gz", lambda _: BOMB),
    "samples: a number": ("base/samples.jsonl.gz", lambda _: gzip.compress(b"7")),
    "samples: of no kind": ("base/samples.jsonl.gz", edited(lambda r: r.update(kind="other"))),
    "samples: a field gone": ("base/samples.jsonl.gz", edited(lambda r: r.pop("gold"))),
    "samples: a field more": ("base/samples.jsonl.gz", edited(lambda r: r.update(extra=1))),
    "samples: too probable": ("base/samples.jsonl.gz", edited(lambda r: r.update(log_prob=1e9))),
    "samples: a text for a number": ("base/samples.jsonl.gz", edited(lambda r: r.update(log_prob="-1"))),
    "samples: infinite": ("base/samples.jsonl.gz", edited(lambda r: r.update(log_prob=float("inf")))),
    "samples: no tokens": ("base/samples.jsonl.gz", edited(lambda r: r.update(tokens=0))),
    "samples: a number for yes or no": ("base/samples.jsonl.gz", edited(lambda r: r.update(hit=2))),
    "samples: a list for a name": ("base/samples.jsonl.gz", edited(lambda r: r.update(set=["capitals"]))),
    "samples: one twice": ("base/samples.jsonl.gz", doubled),
    "samples: other questions": ("base/samples.jsonl.gz", edited(lambda r: r.update(id="another"))),
    "samples of a job: too probable": (f"{JOBS[0]}/eval/samples.jsonl.gz", edited(lambda r: r.update(log_prob=1e9))),
}


@pytest.mark.case("a damaged run folder")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_folder_is_refused_by_name(farss, run_folder, tmp_path, damage):
    file, edit = DAMAGES[damage]
    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("checkpoints", "adapter", "peft", "*.safetensors"))
    path = copy / file
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(path.read_bytes()))
    code, _, err = farss("compare", copy, "--out", tmp_path / "report")
    assert code in (1, 2) and len(err) < 2000 and "Traceback" not in err
    assert Path(file).name in err or "not a run folder" in err or "not finished" in err or "questions" in err
    assert not (tmp_path / "report" / "report.html").exists()
