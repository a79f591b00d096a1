"""Jobs side by side: every one done once, no more at a time than there are shares, a failure loses nothing."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from farss.errors import ConfigError, NumericalError
from farss.experiment import stages
from farss.experiment.stages import run_stage
from farss.experiment.workers import WHOLE, Share, Task, comfortable_workers, run_all, shares


def test_one_worker_has_the_whole_machine():
    assert shares(1, threads=4, gpus=["0", "1"]) == [WHOLE]
    assert WHOLE.whole and not Share(threads=2).whole


def test_threads_are_divided():
    assert shares(2, threads=5, gpus=[]) == [Share(2), Share(2)]


def test_every_worker_gets_a_gpu_of_its_own():
    assert shares(2, threads=8, gpus=["3", "5", "6"]) == [Share(4, "3"), Share(4, "5")]


def test_gpus_are_those_the_environment_shows(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [share.gpu for share in shares(2, threads=2)] == ["4", "7"]


@pytest.mark.parametrize(("workers", "gpus", "most"), [(5, [], "1 to 4"), (0, [], "1 to 4"), (3, ["0", "1"], "1 to 2")])
def test_too_many_workers_are_refused(workers, gpus, most):
    with pytest.raises(ConfigError, match=most):
        shares(workers, threads=4, gpus=gpus)


def test_tasks_run_side_by_side_each_with_a_share_that_no_other_has():
    together = threading.Barrier(2, timeout=20)  # passed only if two tasks are under way at the same time
    used, lock, seen = set(), threading.Lock(), []

    def task(share):
        with lock:
            assert share not in used
            used.add(share)
            seen.append(share)
        together.wait()
        with lock:
            used.remove(share)

    run_all([Task(task)] * 6, [Share(1, "0"), Share(1, "1")])
    assert len(seen) == 6
    assert set(seen) == {Share(1, "0"), Share(1, "1")}


def test_after_a_failure_the_task_under_way_is_finished_and_no_other_begun(capsys):
    failed, finished, begun = threading.Event(), [], []

    def fails(share):
        begun.append("fails")
        failed.set()
        raise NumericalError("the loss is not finite")

    def lasts(share):
        begun.append("lasts")
        failed.wait(20)
        threading.Event().wait(0.3)  # still under way while the failure is dealt with
        finished.append("lasts")

    def never(share):
        begun.append("never")
        threading.Event().wait(1)

    with pytest.raises(NumericalError, match="not finite"):
        run_all([Task(lasts), Task(fails), *[Task(never)] * 4], [Share(1, "0"), Share(1, "1")])
    assert finished == ["lasts"]
    assert begun.count("never") <= 1  # the one that the failing worker may have taken up at once
    assert "finished first" in capsys.readouterr().err


def test_a_stage_keeps_to_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "START_METHOD", "fork")

    def look(folder):
        return {"threads": torch.get_num_threads(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}

    left = run_stage(tmp_path / "stage", "a", look, Share(threads=1, gpu="5"))
    assert (left["threads"], left["gpu"]) == (1, "5")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "5"


@pytest.mark.parametrize("parts", [[WHOLE], [Share(1, "0"), Share(1, "1")]])
def test_a_task_waits_for_those_it_comes_after(parts):
    done: list[str] = []

    def slow(share):
        time.sleep(0.2)
        done.append("first")

    first = Task(slow)
    run_all(
        [first, Task(lambda share: done.append("beside")), Task(lambda share: done.append("then"), (first,))], parts
    )
    assert done.index("first") < done.index("then")
    if len(parts) == 2:
        assert done[0] == "beside"


def test_what_waits_for_a_failed_task_never_begins():
    def fails(share):
        raise ConfigError("the first one failed")

    done: list[str] = []
    first = Task(fails)
    with pytest.raises(ConfigError, match="the first one failed"):
        run_all([first, Task(lambda share: done.append("then"), (first,))], [Share(1), Share(1)])
    assert done == []


def test_only_as_many_jobs_run_together_as_memory_holds(monkeypatch):
    import psutil

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    for free, expected in ((30, 2), (9, 1), (1, 1)):
        memory = type("Memory", (), {"available": free * 10**9})()
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert comfortable_workers(2, 5 * 10**9) == expected


@pytest.mark.parametrize(
    ("lag", "expected"),
    [(0, "t0 m0 t1 m1 t2 m2 t3 m3"), (2, "t0 t1 t2 m0 t3 m1 m2 m3"), (3, "t0 t1 t2 t3 m0 m1 m2 m3")],
)
def test_a_measurement_stands_some_trainings_behind_its_own(lag, expected):
    from farss.experiment.runs.run import _lagging

    names = {}
    trainings = [Task(lambda share: None) for _ in range(4)]
    measurements = [Task(lambda share: None, (training,)) for training in trainings]
    for kind, tasks in (("t", trainings), ("m", measurements)):
        names |= {id(task): f"{kind}{number}" for number, task in enumerate(tasks)}
    assert " ".join(names[id(task)] for task in _lagging(trainings, measurements, lag)) == expected
