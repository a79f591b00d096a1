"""What a statistic is before it is taken: a name, the data it is of, how it is taken and read, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from farss.config import FarssConfig
from farss.model.calibration import Batch
from farss.model.targets import Target
from farss.statistics.keeping import Keep
from farss.statistics.observing import Progress
from farss.statistics.summed import Summed

Found = TypeVar("Found", bound=Summed, covariant=True)

DataName = Literal["task", "knowledge"]
"""The data sets that statistics are taken of: calibration rows of the task, and knowledge questions."""


@dataclass(frozen=True)
class Pass:
    """What the pass for a statistic is given.

    Attributes:
        model: in memory; it is only read.
        batches: of the statistic's data, in order.
        targets: the modules that it is of.
        config: a resolved configuration.
        progress: called with (real tokens done, real tokens in total) after every batch.
        keep: where the sums so far are kept, and found again; None keeps nothing.
    """

    model: nn.Module
    batches: Sequence[Batch]
    targets: list[Target]
    config: FarssConfig
    progress: Progress | None = None
    keep: Keep | None = None


@dataclass(frozen=True)
class Statistic(Generic[Found]):
    """One statistic that methods may be planned from.

    Attributes:
        name: what `needs` of a method calls it; files and folders are named after it.
        what: what it is, for messages: "the method needs ..., and none were collected".
        collect: takes it.
        load: reads what its `save` wrote.
        memory: bytes of its sums, for these targets, this dtype of the weights, and this configuration.
        data: which data set it is of.
        reads: what it depends on of a configuration beside the settings that every pass over the data reads.
        file: its name in a folder of `farss init`; None for `NAME.safetensors`.
    """

    name: str
    what: str
    collect: Callable[[Pass], Found]
    load: Callable[[Path], Found]
    memory: Callable[[Sequence[Target], torch.dtype, FarssConfig], int]
    data: DataName = "task"
    reads: Callable[[FarssConfig], Any] = lambda config: None
    file: str | None = None

    @property
    def filename(self) -> str:
        """Of its file in a folder of `farss init`."""
        return self.file or f"{self.name}.safetensors"
