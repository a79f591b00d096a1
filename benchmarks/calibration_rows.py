"""Calibration rows read until two halves agree, beside all 256: time, tokens, the plan, and what training makes of it.

Per task the rows are read once, in the steps of `calibration_rows: auto`, but on to the last: time and tokens of the
reading and of judging each step are noted, and the plan after each. So `auto` and 256 rows are parts of one pass, and a
slow moment of the machine is in both. With `--train` the plans of both are fine-tuned with the same rows, order and
seeds, beside one full fine-tuning, and measured: K_p, T_l and the task's loss.

What is done is kept in `--work`, and the same command goes on from it.

    python benchmarks/calibration_rows.py --data-dir DATA --work WORK --out calibration-rows.json
    python benchmarks/calibration_rows.py --data-dir DATA --work WORK --out calibration-rows.json --train
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from farss.adapters.apply import apply
from farss.config import FarssConfig, Recipe
from farss.evaluation.backends import TorchBackend
from farss.evaluation.records import Measurement
from farss.evaluation.scores import compare_to_base, summarise
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.calibrating import growth_of
from farss.experiment.environment import device, versions
from farss.experiment.initialisation.growing import Growth, scored
from farss.experiment.initialisation.halves import HALVES, Halved
from farss.experiment.initialisation.kept_blocks import packed, unpack
from farss.experiment.initialisation.planning import spectrum_folder, take
from farss.experiment.initialisation.settling import Agreed, agreed
from farss.experiment.measuring import measure
from farss.experiment.progress import ProgressLine
from farss.maths.agreement import agreement, rank_difference
from farss.methods import get_method
from farss.methods.base import Evidence
from farss.methods.statistics import CURVATURE
from farss.model.plan import Plan
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets
from farss.statistics.keeping import Growing
from farss.storage import read_tensors, write_json, write_tensors
from farss.training.sft import train

TASKS = ("word_problems", "codealpaca", "gsm8k")
EMBEDDED = "word_problems"
TRAINED = "gsm8k"
MOST_SHARE = 0.25
"""The share of the time of 256 rows that is allowed on GSM8K."""


def recipe_for(task: str, arguments: argparse.Namespace) -> Recipe:
    """The recipe of one task."""
    return Recipe().override(
        {
            "model.name": arguments.model,
            "model.dtype": arguments.dtype,
            "data.task": task,
            "data.data_dir": None if task == EMBEDDED else arguments.data_dir,
            "data.max_length": arguments.max_length,
            "init.rank": arguments.rank,
            "init.r_avg": max(arguments.rank * 3 // 8, 1),
            "init.r_max": max(arguments.rank // 2, 1),
            "train.batch_size": arguments.batch_size,
            "train.micro_batch_size": min(arguments.batch_size, 4),
            "train.learning_rate": arguments.lr,
            "train.dropout": 0.0,
            "eval.knowledge": arguments.knowledge,
            "eval.knowledge_rows": arguments.knowledge_rows,
            "eval.task_rows": arguments.task_rows,
        }
    )


def read(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Read all rows of one task in steps; leaves scores and plan of each step."""
    recipe, _ = settle(recipe_for(task, arguments))
    work = Path(arguments.work) / task
    done = work / "steps.json"
    steps: list[dict[str, Any]] = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else []
    if steps and steps[-1]["last"]:
        return summary(task, steps, work)
    loaded = materials.load_for_statistics(recipe)
    growth = growth_of(recipe, loaded.tokenizer, work, (loaded.fingerprint, str(loaded.dtype)))
    assert growth is not None, "the recipe leaves the number of rows to the data"
    targets = find_targets(loaded.model)
    spectra = SpectrumCache(spectrum_folder())
    for target in targets:
        spectra.get(target)  # decompositions are the same for any number of rows
    sums = [Growing(work / f"half-{half.number}.safetensors", growth.identity, seconds=0.0) for half in HALVES]
    for size in growth.sizes[len(steps) :]:
        steps.append(step(loaded, growth, targets, spectra, sums, size))
        steps[-1]["last"] = size == growth.sizes[-1]
        write_json(done, steps)
        print(json.dumps({"task": task, **steps[-1]}), flush=True)
    return summary(task, steps, work)


def step(
    loaded: LoadedModel,
    growth: Growth,
    targets: list[Target],
    spectra: SpectrumCache,
    sums: Sequence[Growing],
    size: int,
) -> dict[str, Any]:
    """Read up to `size` rows and judge them."""
    started = time.perf_counter()
    with ProgressLine(f"{size} rows") as line:
        parts = [
            take(CURVATURE, loaded.model, queue, targets, growth.config, line, keep)
            for queue, keep in zip(growth.queues(size), sums, strict=True)
        ]
    read_at = time.perf_counter()
    seen = scored(targets, parts, growth, spectra)
    found = agreed(targets, seen.halves, growth.config)
    judged_at = time.perf_counter()
    whole = Halved.empty(loaded.fingerprint, growth.data(size))
    for target in targets:
        whole.score(target, spectra.get(target), parts)
    tensors, importance = packed(whole.whole, targets)
    write_tensors(growth.kept / f"scores-{size}.safetensors", tensors, {"importance": json.dumps(importance)})
    get_method("farss").plan(targets, whole.whole, growth.config).save(growth.kept / f"plan-{size}.json")
    return {
        "rows": size,
        "tokens": seen.tokens,
        "read_seconds": read_at - started,
        "judge_seconds": judged_at - read_at,
        "agreed": dataclasses.asdict(found),
    }


def summary(task: str, steps: list[dict[str, Any]], work: Path) -> dict[str, Any]:
    """Where `auto` stops, and how its plan and cost stand to those of all rows."""
    stop = next((i for i, row in enumerate(steps) if Agreed(**row["agreed"]).steady), len(steps) - 1)
    rows, most = steps[stop]["rows"], steps[-1]["rows"]
    seconds = sum(row["read_seconds"] + row["judge_seconds"] for row in steps[: stop + 1])
    whole_seconds = sum(row["read_seconds"] for row in steps)
    chosen, whole = (Plan.load(work / f"plan-{size}.json") for size in (rows, most))
    pairs = list(zip(chosen.targets, whole.targets, strict=True))
    found = [agreement(a.indices or (), b.indices or (), min(a.shape)) for a, b in pairs]
    shallow = [(a.rank, b.rank) for a, b in pairs if a.region == "shallow"]
    together = agreed_of(work, rows, most, chosen)
    return {
        "task": task,
        "rows": rows,
        "most_rows": most,
        "tokens": steps[stop]["tokens"],
        "most_tokens": steps[-1]["tokens"],
        "seconds": seconds,
        "most_seconds": whole_seconds,
        "time_share": seconds / whole_seconds,
        "rank_difference": rank_difference(*zip(*shallow, strict=True)),
        "overlap": statistics.fmean(one.overlap for one in found),
        "chance": statistics.fmean(one.chance for one in found),
        "weighted_low": together.low,
        "weighted_high": together.high,
        "steps": steps,
    }


def agreed_of(work: Path, rows: int, most: int, plan: Plan) -> Agreed:
    """How far the scores of two numbers of rows agree."""
    held = []
    for size in (rows, most):
        tensors, head = read_tensors(work / f"scores-{size}.safetensors")
        evidence = Evidence(plan.model_fingerprint)
        unpack(evidence, tensors, json.loads(head["importance"]))
        held.append(evidence)
    identity = torch.nn.Identity()
    targets = [
        Target(row.name, identity, row.layer, row.name.rpartition(".")[2], row.shape, False, False)
        for row in plan.targets
    ]
    return agreed(targets, (held[0], held[1]), FarssConfig.from_mapping(plan.settings))


def trainings(found: dict[str, Any], seeds: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, rows of the plan or 0 for all weights, seed) of every training, those that are compared side by side."""
    pairs = [(f"{rows}-rows", rows, seed) for seed in seeds for rows in (found["rows"], found["most_rows"])]
    return [("full", 0, seeds[0]), *pairs]


def train_one(rows: int, seed: int, arguments: argparse.Namespace) -> Measurement:
    """Fine-tune from the plan of so many rows, or all weights, and measure."""
    recipe, _ = settle(recipe_for(TRAINED, arguments))
    loaded = materials.load_model(recipe)
    examples = materials.draw(
        materials.training_examples(recipe, loaded.tokenizer), arguments.steps * arguments.batch_size, 1
    ).rows
    config = dataclasses.replace(recipe.train, seed=seed)
    model: Any = loaded.model
    if rows:
        plan = Plan.load(Path(arguments.work) / TRAINED / f"plan-{rows}.json")
        model = apply(model, plan, SpectrumCache(spectrum_folder()).get, seed=seed)
    else:
        config = dataclasses.replace(config, learning_rate=arguments.full_lr)
    with ProgressLine(f"training {rows or 'full'}, seed {seed}") as line:
        trains = "adapter" if rows else "weights"
        train(model, loaded.tokenizer, examples, config, None, trains=trains, progress=lambda s, n, _: line(s, n))
    with ProgressLine("measuring") as line:
        backend = TorchBackend(model.eval(), loaded.tokenizer)
        return measure(recipe, backend, rows=None, words=False, progress=line)


def measure_base(arguments: argparse.Namespace) -> Measurement:
    """Measure the model as it is."""
    recipe, _ = settle(recipe_for(TRAINED, arguments))
    loaded = materials.load_model(recipe)
    with ProgressLine("measuring the base") as line:
        backend = TorchBackend(loaded.model.eval(), loaded.tokenizer)
        return measure(recipe, backend, rows=None, words=False, progress=line)


def compare(found: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure what is not done yet; what each training kept and gained."""
    folder = Path(arguments.work) / "trained"
    folder.mkdir(parents=True, exist_ok=True)

    def measured(name: str, make: Any) -> Measurement:
        file = folder / f"{name}.jsonl.gz"
        if not file.is_file():
            make().save(file)
        return Measurement.load(file)

    base = measured("base", lambda: measure_base(arguments))
    full, scores = None, []
    for name, rows, seed in trainings(found, arguments.seeds):
        after = measured(f"{name}-{seed}", lambda rows=rows, seed=seed: train_one(rows, seed, arguments))
        full = after if name == "full" else full
        told = compare_to_base(after, base, full)
        loss = summarise(after)[f"task/{TRAINED}/loss"]["value"]
        scores.append({"name": name, "seed": seed, "K_p": told["K_p"], "T_l": told["T_l"], "task_loss": loss})
        print(json.dumps(scores[-1]), flush=True)
    settings = {key: getattr(arguments, key) for key in ("steps", "batch_size", "lr", "full_lr", "max_length", "rank")}
    return {"settings": settings, "base_loss": summarise(base)[f"task/{TRAINED}/loss"]["value"], "runs": scores}


def show(found: Sequence[dict[str, Any]]) -> None:
    """The table of all tasks."""
    print(
        "| task | rows | tokens | of 256 rows' | time | of 256 rows' | rank map differs | overlap (chance) | weighted |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in found:
        weighted = f"{row['weighted_low']:.3f} low, {row['weighted_high']:.3f} high"
        print(
            f"| {row['task']} | {row['rows']} | {row['tokens']:,} | {row['tokens'] / row['most_tokens']:.1%} | "
            f"{row['seconds']:.0f} s | {row['time_share']:.1%} | {row['rank_difference']:.1%} | "
            f"{row['overlap']:.2f} ({row['chance']:.2f}) | {weighted} |"
        )
        if row["task"] == TRAINED:
            said = "at most" if row["time_share"] <= MOST_SHARE else "MORE THAN"
            print(f"\n{row['task']}: {said} {MOST_SHARE:.0%} of the time of all rows\n")


def show_trained(told: dict[str, Any]) -> None:
    """What the trainings from both plans kept and gained: means over seeds, and how far apart seeds lie."""
    runs = told["runs"]
    print("\n| plan of | K_p by seed | mean | T_l by seed | mean |\n|---|---|---|---|---|")
    for name in dict.fromkeys(run["name"] for run in runs):
        cells = []
        for measure_name in ("K_p", "T_l"):
            values = [run[measure_name]["value"] for run in runs if run["name"] == name]
            cells += [", ".join(f"{value:.3f}" for value in values), f"{statistics.fmean(values):.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Read, and with `--train` train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--data-dir")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", required=True, help="folder of what is done")
    parser.add_argument("--out", help="JSON file of the results")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--full-lr", type=float, default=1e-4)
    parser.add_argument("--knowledge", nargs="+", default=("trivia_qa", "known_1000"))
    parser.add_argument("--knowledge-rows", type=int, default=200)
    parser.add_argument("--task-rows", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = device("cpu") | {"threads": torch.get_num_threads()}
    print(json.dumps({"device": machine, "versions": versions()}), flush=True)
    found = [read(task, arguments) for task in arguments.tasks]
    show(found)
    results = {"device": machine, "versions": versions(), "model": arguments.model, "tasks": found}
    if arguments.train:
        results["training"] = compare(next(row for row in found if row["task"] == TRAINED), arguments)
        show_trained(results["training"])
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
