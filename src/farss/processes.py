"""How many processes were started together, whatever started them, and the refusal where only one may work.

Processes that do not know of each other would each train on all rows, measure everything, and write over one another.
"""

from __future__ import annotations

import os

from farss.errors import ProcessesError

WORLD = "WORLD_SIZE"
LAUNCHERS = {
    WORLD: "torchrun or accelerate launch",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "MPI_LOCALNRANKS": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "FLUX_JOB_SIZE": "flux run",
}
"""The variable by which each launcher tells its processes how many they are."""
STEP_TASKS, TASKS, RANK, STEP = "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"
FIRST_OWN_STEP = 0xFFFFFFF0
"""Slurm numbers the steps that are the batch script, an interactive shell and the like from here on."""


def processes() -> int:
    """How many processes `torchrun` or `accelerate launch` started together; 1 without them."""
    return _number(WORLD) or 1


def require_one_process(what: str) -> None:
    """Refuse to begin, in each of several processes, what is the work of one.

    Args:
        what: is about to begin.

    Raises:
        ProcessesError: naming what started them and how to start one.
    """
    for name in (*LAUNCHERS, STEP_TASKS):
        count = _slurm_tasks() if name == STEP_TASKS else _number(name)
        if count > 1:
            variable = f"{TASKS}={count}" if name == STEP_TASKS and not _number(STEP_TASKS) else f"{name}={count}"
            raise ProcessesError(
                f"{what} works in one process, and several were started",
                where=LAUNCHERS.get(name, "srun"),
                expected="one process",
                got=variable,
                do="start it once, without the launcher (`farss run --workers N` uses several GPUs); if it was started "
                f"once and inherited the variable: `env -u {variable.partition('=')[0]} farss ...`",
            )


def _slurm_tasks() -> int:
    """The tasks of the step that this process belongs to.

    An allocation of many tasks (`salloc`, `sbatch`) starts one process, which sees `SLURM_NTASKS` too; only `srun`
    starts one for each.
    """
    if RANK not in os.environ:
        return 1
    if counted := _number(STEP_TASKS):
        return counted
    in_step = STEP in os.environ and _number(STEP) < FIRST_OWN_STEP
    return _number(TASKS) if in_step or _number(RANK) > 0 else 1


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
