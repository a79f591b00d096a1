"""Waiting for weights: a walk over blocks on a cold disk, with and without the next block announced to the system.

The file cache is emptied of the model before each walk, so every block comes from the disk. Between two blocks the walk
computes for `--compute` seconds, as the pass over calibration data does. Both ways alternate; medians are compared.

    python benchmarks/reading.py --shape sheared-1.3b --layers 8
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
from shapes import SHAPES, random_model

from farss.experiment.environment import device, versions
from farss.model.lazy import LazyWeights, skeleton
from farss.model.sources import cache_root
from farss.storage import write_json


def forget(folder: Path) -> None:
    """Drop the folder's files from the system's file cache."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def compute(seconds: float, matrix: torch.Tensor) -> None:
    """Matrix products for about this long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix @ matrix


def waited(folder: Path, seconds: float, *, announced: bool) -> float:
    """Seconds spent on reading blocks during one walk."""
    model, kind = skeleton(folder)
    weights = LazyWeights(folder, model, kind)
    blocks = [
        [name for name in weights.parameters if f".layers.{i}." in name] for i in range(model.config.num_hidden_layers)
    ]
    matrix, total = torch.ones(1024, 1024), 0.0
    forget(folder)
    for index, block in enumerate(blocks):
        started = time.perf_counter()
        with weights.loaded(model, block):
            total += time.perf_counter() - started
            if announced and index + 1 < len(blocks):
                weights.announce(blocks[index + 1])
            compute(seconds, matrix)
    return total


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="sheared-1.3b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--compute", type=float, default=0.5, help="seconds of computing per block")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = random_model(options.shape, options.layers, cache_root())
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.repeats):
        for announced in (False, True):
            found[announced].append(waited(folder, options.compute, announced=announced))
    plain, ahead = statistics.median(found[False]), statistics.median(found[True])
    print(device(), versions())
    print(
        f"waited for {options.layers} blocks: {plain:.3f} s as they come, {ahead:.3f} s announced ({ahead / plain:.2f})"
    )
    if options.out:
        report = {"device": device(), "versions": versions(), "shape": options.shape, "layers": options.layers}
        write_json(options.out, report | {"plain_seconds": found[False], "announced_seconds": found[True]})


if __name__ == "__main__":
    main()
