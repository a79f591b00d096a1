"""The scores of a run over GLUE as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMES = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}


def markdown(results: Mapping[str, Any]) -> str:
    """One table per split: a row per method and learning rate, a column per task and metric, times 100.

    Values are means over seeds, with the standard error over rows; a dash stands for an undefined metric. The last
    column is the mean over tasks of each task's first metric, where all are defined.

    Args:
        results: the content of `results.json`.
    """
    parts = [
        table for split in results["splits"] for table in (f"### {results['model']}, {split}", _table(results, split))
    ]
    return "\n\n".join(parts) + "\n"


def _table(results: Mapping[str, Any], split: str) -> str:
    tasks = results["tasks"]
    columns = [(task, metric) for task, content in tasks.items() for metric in content["metrics"]]
    titles = [f"{task} {NAMES[metric]}" for task, metric in columns]
    head = ["method", "learning rate", "seeds", "adapter + head parameters", *titles, "mean"]
    lines = [_line(head), _line(["---"] * len(head))]
    majority = {task: content["majority"][split] for task, content in tasks.items()}
    lines.append(_line(["(majority)", "", "", "", *_cells(majority, columns), _mean(majority, tasks)]))
    for method, rate in _methods(tasks):
        found = {task: _entry(content, method, rate) for task, content in tasks.items()}
        scores = {task: entry["scores"][split] for task, entry in found.items()}
        first = next(iter(found.values()))
        seeds = str(len(first["runs"]))
        lines.append(
            _line([method, f"{rate:g}", seeds, _parameters(first), *_cells(scores, columns), _mean(scores, tasks)])
        )
    return "\n".join(lines)


def _methods(tasks: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    rows = [(e["method"], e["learning_rate"]) for content in tasks.values() for e in content["methods"]]
    yield from dict.fromkeys(rows)


def _entry(content: Mapping[str, Any], method: str, rate: float) -> Mapping[str, Any]:
    return next(e for e in content["methods"] if (e["method"], e["learning_rate"]) == (method, rate))


def _parameters(entry: Mapping[str, Any]) -> str:
    run = entry["runs"][0]
    adapter = f"{run['trainable_params']:,}"
    return f"{adapter} + {run['head_params']:,}" if "head_params" in run else f"{adapter} (all)"


def _cells(scores: Mapping[str, Any], columns: list[tuple[str, str]]) -> list[str]:
    return [_cell(scores[task][metric]) for task, metric in columns]


def _cell(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "–"
    error = "" if score["stderr"] is None else f" ± {100 * score['stderr']:.1f}"
    return f"{100 * score['value']:.1f}{error}"


def _mean(scores: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    values = [scores[task][content["metrics"][0]]["value"] for task, content in tasks.items()]
    if any(value is None for value in values):
        return "–"
    return f"{100 * sum(values) / len(values):.1f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
