"""Our runner of lm-eval's tasks beside the plain `lm_eval` command: both scores, and whether every sample agrees.

The command gets a model folder and, through `--include_path`, a folder of YAML files: each includes lm-eval's own
definition of a task and has its rows from JSON files written here. Ours gets the same folder, or with `--adapter` and
`--base` the adapter switched on where the folder holds it merged. Limits, seeds, batch size and dtype are the same.
(IFEval may differ in a sample: the command lets language detection draw without a seed.)

    python benchmarks/lm_eval_parity.py --model MERGED --data-dir DATA --limit 50 --out parity.json
    python benchmarks/lm_eval_parity.py --model MERGED --base smollm2-135m --adapter ADAPTER --data-dir DATA
    python benchmarks/lm_eval_parity.py --model MODEL --data-dir DATA --limit 5 --tasks mmlu gsm8k hendrycks_math500
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from farss.adapters.files import load_adapter
from farss.config import ModelConfig
from farss.errors import FarssError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.harness import SPLITS, HarnessResult, check_tasks, rows_by_part, run_tasks, task_manager
from farss.evaluation.ifeval import NLTK_FOLDER
from farss.evaluation.local_tasks import SOURCES
from farss.experiment.environment import device, versions
from farss.model.sources import load
from farss.storage import write_json

TASKS = (
    "arc_easy",
    "arc_challenge",
    "openbookqa",
    "hellaswag",
    "piqa",
    "winogrande",
    "social_iqa",
    "webqs",
    "triviaqa",
    "nq_open",
)
SEEDS_BEFORE_SHOTS = "0,1234,1234"
"""lm-eval's defaults for Python's, NumPy's and torch's generators, which our runner leaves as they are."""

Scores = dict[str, dict[str, Any]]
SampleKey = tuple[int, str]


class StockError(FarssError):
    """The plain command failed."""


@dataclass(frozen=True)
class Stock:
    """What the plain command found.

    Attributes:
        scores: task or group -> metric (with its filter where that is not "none") -> value.
        samples: task -> its records.
        seconds: wall time.
    """

    scores: Scores
    samples: dict[str, list[dict[str, Any]]]
    seconds: float


def leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks of a task, group or tag in lm-eval's index."""
    entry = index[name]
    if entry.kind.name == "GROUP":
        for member in entry.cfg["task"]:
            yield from leaves(member if isinstance(member, str) else member["task"], index)
    elif entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    else:
        yield name


def write_overrides(names: Sequence[str], data_dir: Path, folder: Path, index: Mapping[str, Any]) -> list[Path]:
    """Write, for every task and member of a group, lm-eval's own definition with rows of ours, under its own name.

    Args:
        names: tasks and groups of `SOURCES`.
        data_dir: folder laid out as `NAME/SPLIT.jsonl.gz`.
        folder: gets `NAME.yaml` and `NAME/SPLIT.jsonl`.
        index: `task_manager().task_index`.

    Returns:
        The YAML files.
    """
    written = []
    for name in names:
        source, parts = SOURCES[name], rows_by_part(SOURCES[name], data_dir)
        for leaf in leaves(name, index):
            part = None if source.part is None else index[leaf].cfg["dataset_name"]
            files = {split: _write_rows(folder / leaf / f"{split}.jsonl", rows) for split, rows in parts[part].items()}
            settings = {
                "include": str(index[leaf].yaml_path),
                "task": leaf,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
                **{key: None for key, split in SPLITS.items() if split not in source.files},
                **source.settings,
            }
            path = folder / f"{leaf}.yaml"
            path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
            written.append(path)
    return written


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def run_stock(arguments: argparse.Namespace, place: str, folder: Path) -> Stock:
    """Run the plain command on the overrides.

    Args:
        arguments: of this script.
        place: the device, as torch names it.
        folder: working folder.

    Raises:
        StockError: if the command fails.
    """
    write_overrides(arguments.tasks, arguments.data_dir, folder / "tasks", task_manager().task_index)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", ",".join(arguments.tasks)]
    command += ["--model_args", f"pretrained={arguments.model},dtype={arguments.dtype}", "--device", place]
    command += ["--include_path", str(folder / "tasks"), "--seed", f"{SEEDS_BEFORE_SHOTS},{arguments.seed}"]
    command += ["--batch_size", str(arguments.batch_size), "--log_samples", "--output_path", str(folder / "results")]
    command += ["--limit", str(arguments.limit)] if arguments.limit else []
    nltk = os.pathsep.join(filter(None, (str(arguments.data_dir / NLTK_FOLDER), os.environ.get("NLTK_DATA"))))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "NLTK_DATA": nltk}
    started = time.perf_counter()
    ended = subprocess.run(command, env={**os.environ, **offline}, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise StockError("the plain command failed", where=" ".join(command), got=f"exit code {ended.returncode}")
    return read_stock(folder / "results", time.perf_counter() - started)


def read_stock(folder: Path, seconds: float) -> Stock:
    """Read what the plain command left."""
    [results] = folder.rglob("results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    date = results.stem.removeprefix("results_")
    samples = {
        file.stem.removeprefix("samples_").removesuffix(f"_{date}"): [
            json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()
        ]
        for file in folder.rglob("samples_*.jsonl")
    }
    return Stock({task: dict(_metrics(row)) for task, row in found.items()}, samples, seconds)


def _metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            yield (metric if chosen == "none" else f"{metric}/{chosen}"), value


def sample_scores(samples: Sequence[Mapping[str, Any]]) -> dict[SampleKey, dict[str, Any]]:
    """Each document's own scores, by document and filter, as JSON keeps them."""
    return {
        (sample["doc_id"], sample["filter"]): {
            metric: json.loads(json.dumps(sample[metric], default=str)) for metric in sample["metrics"]
        }
        for sample in samples
    }


def compare(names: Sequence[str], ours: HarnessResult, stock: Stock, index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per task and metric: both scores, and how many samples were scored the same."""
    rows = []
    for name in names:
        both = [(sample_scores(ours.samples[leaf]), sample_scores(stock.samples[leaf])) for leaf in leaves(name, index)]
        for metric, score in ours.scores[name].items():
            plain, _, chosen = metric.partition("/")
            keys = [(a, b, key) for a, b in both for key in a.keys() | b.keys() if key[1] == (chosen or "none")]
            same = sum(key in a and key in b and a[key].get(plain) == b[key].get(plain) for a, b, key in keys)
            rows.append(
                {
                    "task": name,
                    "metric": metric,
                    "n": score["n"],
                    "ours": score["value"],
                    "lm_eval": stock.scores[name].get(metric),
                    "samples": len(keys),
                    "samples_identical": same,
                    "identical": score["value"] == stock.scores[name].get(metric) and same == len(keys),
                }
            )
    return rows


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the comparison."""
    table = Table(box=None, header_style="bold")
    for column in ("task", "metric", "n", "ours", "lm_eval", "samples the same", "identical"):
        table.add_column(column)
    for row in rows:
        plain = "none" if row["lm_eval"] is None else f"{row['lm_eval']:.6f}"
        same = f"{row['samples_identical']} of {row['samples']}"
        cells = (row["task"], row["metric"], row["n"], f"{row['ours']:.6f}", plain, same, row["identical"])
        table.add_row(*map(str, cells))
    Console().print(table)


def arguments_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder, which the plain command reads")
    parser.add_argument("--adapter", help="ours takes this adapter on --base instead of the model folder")
    parser.add_argument("--base", help="the adapter's base model")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder laid out as NAME/SPLIT.jsonl.gz")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(SOURCES), metavar="NAME")
    parser.add_argument("--limit", type=int, help="documents per task")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1234, help="of the choice of examples")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="JSON file for the comparison")
    found = parser.parse_args(given)
    if (found.adapter is None) != (found.base is None):
        parser.error("--adapter and --base go together")
    return found


def main() -> None:
    """Run both and compare; exit code 1 if anything differs."""
    arguments = arguments_of()
    check_tasks(arguments.tasks, arguments.data_dir)
    loaded = load(ModelConfig(name=arguments.base or arguments.model), dtype=arguments.dtype)
    model = load_adapter(loaded.model, arguments.adapter) if arguments.adapter else loaded.model
    started = time.perf_counter()
    ours = run_tasks(
        TorchBackend(model.eval(), loaded.tokenizer),
        arguments.tasks,
        data_dir=arguments.data_dir,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    seconds, place = time.perf_counter() - started, str(next(model.parameters()).device)
    del model, loaded
    with tempfile.TemporaryDirectory(prefix="lm-eval-parity-") as folder:
        stock = run_stock(arguments, place, Path(folder))
    rows = compare(arguments.tasks, ours, stock, task_manager().task_index)
    print_table(rows)
    differing = [row for row in rows if not row["identical"]]
    print(f"{len(rows) - len(differing)} of {len(rows)} scores identical to the sample")
    if arguments.out:
        settings = {
            key: value for key, value in vars(arguments).items() if key not in ("model", "adapter", "data_dir", "out")
        }
        account = {
            "settings": settings | {"model": Path(arguments.model).name, "adapter": bool(arguments.adapter)},
            "versions": versions(),
            "lm_eval_versions": ours.versions,
            "device": device(),
            "seconds": {"ours": seconds, "lm_eval": stock.seconds},
            "rows": rows,
        }
        write_json(arguments.out, account)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
