"""Several processes of one initialisation, as `torchrun` starts them: each takes a shard, all add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from farss.experiment.initialisation.statistics import Shard
from farss.processes import processes
from farss.statistics.moments import Curvature
from farss.statistics.summed import Summed

Item = TypeVar("Item")


@dataclass(frozen=True)
class Crew:
    """This process among those that work together.

    Attributes:
        rank: its number, from zero.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The calibration examples of this process."""
        return Shard(self.rank + 1, self.size)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process; neighbours go to different ones, so that every kind is spread evenly."""
        return list(items[self.rank :: self.size])

    def add_up_(self, summed: Summed) -> None:
        """Make every process's sums and counts the total of all.

        Sums are added, never averages of averages; every process must hold sums of the same modules.
        """
        if self.size == 1:
            return
        for _, part in sorted(summed.parts().items()):
            total = part.cpu()  # gloo adds on the processor
            distributed.all_reduce(total)
            part.copy_(total)
        counts = torch.tensor(summed.counts)
        distributed.all_reduce(counts)
        summed.set_counts(tuple(counts.tolist()))

    def total(self, curvature: Curvature, name: str) -> Curvature:
        """The sums that score one module, of all processes together."""
        if self.size == 1:
            return curvature
        found = curvature.of(name)
        self.add_up_(found)
        return found

    def told(self, value: Item | None) -> Item:
        """What the process that leads says; the others' value is not read."""
        heard = [value]
        if self.size > 1:
            distributed.broadcast_object_list(heard)
        (said,) = heard
        assert said is not None, "the process that leads always says something"
        return said

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def crew() -> Iterator[Crew]:
    """The processes that `torchrun` or `accelerate launch` started, joined for the block; this one alone otherwise."""
    if processes() == 1:
        yield Crew()
        return
    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("gloo")  # sums are added once, on the CPU
    try:
        yield Crew(distributed.get_rank(), distributed.get_world_size())
    finally:
        if mine:
            distributed.destroy_process_group()
