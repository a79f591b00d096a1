"""What one process does is refused in several, and only there."""

from __future__ import annotations

import pytest

from farss.cli.main import main
from farss.errors import ProcessesError
from farss.processes import LAUNCHERS, require_one_process

SLURM = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
SEVERAL = [
    {"WORLD_SIZE": "2", "RANK": "0"},
    {"WORLD_SIZE": "2", "RANK": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    {"OMPI_COMM_WORLD_SIZE": "4"},
    {"PMI_SIZE": "2", "PMI_RANK": "1"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
]
ONE = [
    {},
    {"WORLD_SIZE": "1", "RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
    {"SLURM_NTASKS": "8", "SLURM_NPROCS": "8"},  # salloc: a shell in an allocation of many tasks
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # sbatch: the script itself
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},  # an interactive step
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1
    {"WORLD_SIZE": "many"},
]


def variables(monkeypatch, given):
    for name in (*LAUNCHERS, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("given", SEVERAL, ids=str)
def test_several_processes_are_refused_with_what_to_do(monkeypatch, given):
    variables(monkeypatch, given)
    with pytest.raises(ProcessesError, match="env -u") as caught:
        require_one_process("this")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("given", ONE, ids=str)
def test_one_process_is_let_through(monkeypatch, given):
    variables(monkeypatch, given)
    require_one_process("this")


@pytest.mark.case("several processes would train alone and write over one another")
@pytest.mark.parametrize(
    "verb",
    [
        ("run", "demo"),
        ("demo",),
        ("glue", "--tasks", "rte"),
        ("train", "--init", "no"),
        ("export", "--adapter", "no"),
        ("eval", "--tasks", "facts"),
        ("audit", "--adapter", "init"),
        ("inspect", "--model", "no"),
        ("compare", "no"),
        ("merge-stats", "no"),
        ("init", "--model", "no"),
    ],
    ids=lambda verb: verb[0],
)
def test_every_verb_refuses_before_it_looks_for_anything(monkeypatch, tmp_path, capsys, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "recipe.yaml").write_text("{}")
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "adapter_config.json").write_text("{}")
    variables(monkeypatch, {"OMPI_COMM_WORLD_SIZE": "2"})
    assert main([*verb, "--out", "out"]) == 2
    assert "works in one process" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_library_refuses_too(monkeypatch, tmp_path):
    from farss.config import TrainConfig
    from farss.training.sft import train

    variables(monkeypatch, {"WORLD_SIZE": "2", "RANK": "0"})
    with pytest.raises(ProcessesError):
        train(None, None, [], TrainConfig(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
