"""Fine-tuning an encoder on tasks of GLUE with any method, its classification head trained in full beside."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from farss.adapters.apply import apply
from farss.adapters.classifier import check_apart, check_encoder, encoder_hashes, export_classifier
from farss.adapters.verify import logits, max_difference, sample_inputs
from farss.config import DataConfig, FarssConfig, HeadConfig, ModelConfig, Recipe, TrainConfig
from farss.datasets.glue import GlueRow, GlueTask, glue_rows, glue_task
from farss.errors import ConfigError
from farss.evaluation.glue import predict, samples_of, save_samples
from farss.experiment.arithmetic import ARITHMETIC, settle_in
from farss.experiment.drawing import Drawn, draw
from farss.experiment.encoders.glue_results import SAMPLES, assemble
from farss.experiment.fitting import Rows, fit, training_account
from farss.experiment.initialisation.growing import Growth, forget, grow
from farss.experiment.initialisation.planning import Preparation, check_boundary, prepare, resolved, spectrum_folder
from farss.experiment.initialisation.settling import settles
from farss.experiment.jobs import Job, jobs_of, refuse_variants
from farss.experiment.outputs import begin_again, check_output, inputs_on_disk, rescued
from farss.experiment.progress import ProgressLine
from farss.experiment.space import check_space, glue_space
from farss.experiment.stages import check_stage, finished, run_stage, stage_key
from farss.experiment.unchanged import INPUTS, check_unchanged, model_input, requested
from farss.experiment.workers import Share, Task, run_all, shares
from farss.methods import get_method, package_of_method
from farss.methods.aids import aids_of_methods
from farss.methods.owned import plan_settings
from farss.methods.statistics import CURVATURE, statistics_of
from farss.model.calibration import pad_token
from farss.model.classification import LabelledExample, encode_texts, labelled_batches, labels_fingerprint
from farss.model.devices import place
from farss.model.heads import agreeing_with_head, load_classifier
from farss.model.sources import LoadedModel, arithmetic_of
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.processes import require_one_process
from farss.report.glue import markdown
from farss.statistics.summed import Summed
from farss.storage import held, write_atomically, write_json
from farss.storage.owned import take, writing
from farss.training.head import release_head_, warm_up_head_
from farss.training.readiness import check_classifier_training
from farss.training.sft import TrainReport
from farss.training.tasks import Classification

SPLITS = ("validation",)
FILES = (ARITHMETIC, "recipe.yaml", INPUTS, "results.json", "table.md")
FORMAT = 1  # raise when what a stage leaves changes, so that older ones are done again

GLUE_RECIPE = Recipe(
    name="glue",
    model=ModelConfig(name="minilm-l6", dtype="float32"),
    data=DataConfig(task="glue", max_length=128),
    methods=("lora", "pissa", "farss"),
    learning_rates=(5e-4,),
    full_learning_rates=(5e-5,),
    init=FarssConfig(rank=8, r_avg=3, r_max=4),
    train=TrainConfig(epochs=5, batch_size=16, micro_batch_size=16, warmup_ratio=0.06),
)
"""What `farss glue` does where nothing else is said; the shallow ranks stand to `rank` as the paper's do."""


@dataclass(frozen=True)
class GlueJob:
    """One task fine-tuned with one method.

    Attributes:
        task: of GLUE.
        job: method, learning rate and seed; the seed is the head's too.
        head: how the head is trained before statistics are taken through it.
        splits: what is measured: "validation" and "adversarial".
        source: the task whose training rows are learned, where it is another one with the same labels.
    """

    task: GlueTask
    job: Job
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    splits: tuple[str, ...] = SPLITS
    source: GlueTask | None = None

    @property
    def learned(self) -> GlueTask:
        """The task whose training rows are learned."""
        return self.source or self.task

    @property
    def folder(self) -> str:
        """The stage's folder in that of the run."""
        return f"{self.task.name}/{self.job.id}"

    def key(self, recipe: Recipe) -> str:
        """Of everything that the result depends on."""
        data = recipe.data
        return stage_key(
            FORMAT,
            dataclasses.asdict(self),
            recipe.model.to_mapping(),
            [data.data_dir, data.train_rows, data.calibration_rows, data.max_length, data.seed],
            *([] if data.calibration_order == "random" else [data.calibration_order]),
            [plan_settings(get_method(self.job.method), recipe.init), recipe.match, recipe.budget_params],
            recipe.train.decisive(),
            recipe.eval.task_rows,
            *([package] if (package := package_of_method(self.job.method)) else []),
        )


def run_glue(
    recipe: Recipe,
    tasks: Sequence[str],
    out: str | Path,
    *,
    head: HeadConfig | None = None,
    splits: Sequence[str] = SPLITS,
    train_on: str | None = None,
    workers: int = 1,
    fresh: bool = False,
) -> dict[str, Any]:
    """Fine-tune an encoder on every task with every method, learning rate and seed of a recipe, and score it.

    Leaves `results.json`, `table.md`, and per task and job a folder with the adapter and head in PEFT's form
    (`adapter/`; `model/` for full fine-tuning), `plan.json` and the answers to every row. What an earlier call
    finished is not done again. Every job runs in a process of its own, so a script that calls this needs
    `if __name__ == "__main__":` around it.

    Args:
        recipe: model, methods, learning rates, seeds, init and train settings, `data` without `task`, and
            `eval.task_rows` and `eval.bootstrap`; `GLUE_RECIPE` is where `farss glue` begins.
        tasks: names of `farss.datasets.glue.GLUE`.
        out: the run folder.
        head: how the head is warmed up; None is `HeadConfig()`.
        splits: what is measured.
        train_on: learn the training rows of this task instead of each task's own; its labels must mean the same.
        workers: how many jobs are done at a time.
        fresh: remove what an earlier call left in the folder, and begin again.

    Returns:
        The content of `results.json`.

    Raises:
        FarssError: see `docs/errors.md`; finished jobs stay.
    """
    require_one_process("farss glue")
    chosen = [glue_task(name) for name in dict.fromkeys(tasks)]
    if not chosen:
        raise ConfigError("name at least one task of GLUE", where="tasks")
    if not splits or len(set(splits)) != len(splits):
        raise ConfigError("at least one value is needed, each once", where="splits", got=list(splits))
    _validate(recipe)
    parts = shares(workers)
    source = None if train_on is None else glue_task(train_on)
    for task in chosen:
        _require_same_labels(task, source)
    place = check_output("glue", out, inputs_on_disk(recipe), FILES, fresh=fresh)
    warm = head or HeadConfig()
    jobs = [GlueJob(task, job, warm, tuple(splits), source) for task in chosen for job in jobs_of(recipe)]
    if not fresh:
        for job in jobs:
            check_stage(place / job.folder, job.key(recipe))
    left = [job for job in jobs if fresh or not finished(place / job.folder, job.key(recipe))]
    check_space(place, *glue_space(recipe, [job.job for job in left]))
    inputs = _inputs(recipe, chosen, splits, source)
    with held(place):
        begin_again(place, fresh)
        take(place, "glue")
        check_unchanged(inputs, place)
        with writing(place, "recipe.yaml"):
            write_atomically(place / "recipe.yaml", lambda file: file.write_text(recipe.to_yaml(), encoding="utf-8"))
        settled, decided = settle_in(place, recipe, classifier=True)
        run_all([Task(functools.partial(_carry_out, settled, place, job, job.key(recipe))) for job in jobs], parts)
        done = [(job.task, job.job, place / job.folder) for job in jobs]
        training = {task.name: _rows(recipe, source or task, "train") for task in chosen}
        results = assemble(recipe, done, training, warm, tuple(splits))
        results["arithmetic"] = decided.to_mapping()
        with rescued(results), writing(place, "results.json", "table.md"):
            write_json(place / "results.json", results)
            write_atomically(place / "table.md", lambda file: file.write_text(markdown(results), encoding="utf-8"))
    return results


def _carry_out(recipe: Recipe, place: Path, job: GlueJob, key: str, share: Share) -> None:
    run_stage(place / job.folder, key, functools.partial(fine_tune, recipe, job), share)


def _validate(recipe: Recipe) -> None:
    refuse_variants(recipe, "farss glue")
    jobs_of(recipe)
    needed = {name: statistics_of([get_method(name)]).values() for name in recipe.methods}
    asking = [name for name, statistics in needed.items() if any(one.data == "knowledge" for one in statistics)]
    if asking:
        raise ConfigError("the method takes statistics of knowledge questions, which GLUE has none of", got=asking)
    if recipe.init.compat != "none":
        raise ConfigError("the published code has no batches for classifiers", where="init.compat", expected="none")
    if recipe.select != "none":
        raise ConfigError("no trial is selected on GLUE: all are reported", where="select", expected="none")
    check_classifier_training(recipe.train, aids_of_methods(recipe.methods))
    agreeing_with_head(arithmetic_of(recipe.model, place(recipe.device)), recipe.model.dtype)


def _require_same_labels(task: GlueTask, source: GlueTask | None) -> None:
    if source is not None and source.labels != task.labels:
        raise ConfigError(
            "a classifier of one task cannot answer another one with other labels",
            where="train_on",
            expected=", ".join(task.labels) or "a regression",
            got=f"{source.name}: {', '.join(source.labels) or 'a regression'}",
        )


def _inputs(
    recipe: Recipe, tasks: Sequence[GlueTask], splits: Sequence[str], source: GlueTask | None
) -> dict[str, str]:
    """Name and request -> a hash of what answers it, of the encoder and every set of rows."""
    data = recipe.data
    found = model_input(recipe)
    for task in tasks:
        learned = source or task
        drawn = requested(f"training rows of {learned.name}", data.data_dir, data.train_rows, data.seed)
        found[drawn] = stage_key([dataclasses.asdict(row) for row in _rows(recipe, learned, "train")])
        for split in splits:
            asked = requested(f"{split} rows of {task.name}", data.data_dir, recipe.eval.task_rows)
            found[asked] = stage_key([dataclasses.asdict(row) for row in _rows(recipe, task, split)])
    return found


def _rows(recipe: Recipe, task: GlueTask, split: str) -> list[GlueRow]:
    data, training = recipe.data, split == "train"
    limit, seed = (data.train_rows, data.seed) if training else (recipe.eval.task_rows, None)
    return glue_rows(task, split, data_dir=data.data_dir, limit=limit, seed=seed)


def fine_tune(recipe: Recipe, job: GlueJob, folder: Path) -> dict[str, Any]:
    """Load, warm up the head, plan, adapt, train, measure and save one job, in this process; a JSON-ready account.

    Args:
        recipe: as in `run_glue`.
        job: task, method, learning rate, seed, head and splits.
        folder: receives `plan.json`, `adapter/` or `model/`, and the answers.

    Raises:
        FarssError: see `docs/errors.md`.
    """
    loaded = load_classifier(recipe.model, job.task.classes, seed=job.job.seed, device=place(recipe.device))
    shutil.rmtree(folder / "adapter", ignore_errors=True)  # of an earlier try that was cut short
    encode = functools.partial(_encoded, tokenizer=loaded.tokenizer, max_length=recipe.data.max_length)
    training = encode(_rows(recipe, job.learned, "train"))
    drawn = draw(training, recipe.data.most_rows, recipe.data.seed, recipe.data.calibration_order)
    calibration = drawn.first(len(drawn.rows))
    pad = pad_token(loaded.tokenizer)
    started = time.perf_counter()
    warmed = warm_up_head_(loaded.model, calibration, job.head, pad_id=pad, seed=job.job.seed)
    account: dict[str, Any] = {
        "train_rows": len(training),
        "warmup_seconds": time.perf_counter() - started,
        "warmup_loss": [warmed[0], warmed[-1]] if warmed else None,
    }
    if get_method(job.job.method).trains == "weights":
        report = _train(loaded, loaded.model, training, recipe, job)
        trained: nn.Module = loaded.model
        account["trainable_params"] = sum(p.numel() for p in trained.parameters())
        loaded.model.save_pretrained(folder / "model")
        loaded.tokenizer.save_pretrained(folder / "model")
    else:
        trained, report, adapted = _adapt(recipe, job, loaded, training, drawn, folder)
        account |= adapted
    outputs: list[Any] = []
    for split in job.splits:
        rows = _rows(recipe, job.task, split)
        with ProgressLine(f"{job.task.name} {split}, {job.job.id}", quiet=True) as line:
            answers = predict(trained, encode(rows), pad_id=pad, progress=line)
        outputs += samples_of(job.task, split, rows, answers)
    save_samples(outputs, folder / SAMPLES)
    return {**account, **training_account(report)}


def _encoded(rows: Sequence[GlueRow], *, tokenizer: Any, max_length: int) -> list[LabelledExample]:
    return encode_texts([row.texts for row in rows], [row.label for row in rows], tokenizer, max_length)


def _adapt(
    recipe: Recipe,
    job: GlueJob,
    loaded: LoadedModel,
    training: list[LabelledExample],
    drawn: Drawn[LabelledExample],
    folder: Path,
) -> tuple[nn.Module, TrainReport, dict[str, Any]]:
    """The classifier with its trained adapter and head, which `folder` then holds in PEFT's form."""
    pad, method = pad_token(loaded.tokenizer), job.job.method
    queue = labelled_batches(drawn.first(len(drawn.rows)), batch_tokens=recipe.init.batch_tokens, pad_id=pad)
    ready = _prepared(recipe, job, loaded, queue, drawn, folder)
    plan = ready.plans[method]
    check_apart(loaded.model, plan)
    plan.save(folder / "plan.json")
    sample = sample_inputs(loaded.model, queue[-1].inputs)
    before, start = encoder_hashes(loaded.model), logits(loaded.model, sample)
    cache = SpectrumCache(spectrum_folder())
    config = recipe.train
    model = apply(
        loaded.model, plan, lambda t: cache.get(t, recipe.init.route), dropout=config.dropout, seed=job.job.seed
    )
    difference = max_difference(start, logits(model, sample))
    head = release_head_(model)
    report = _train(loaded, model, training, recipe, job)
    untouched = recipe.init.base == "reference"
    if untouched:
        check_encoder(model, before)
    export_classifier(model, folder / "adapter")
    return (
        model,
        report,
        {
            "trainable_params": plan.trainable_parameters,
            "head_params": head,
            "init_seconds": ready.seconds,
            "calibration_rows": plan.data and plan.data["rows"],
            "settled": plan.data and plan.data.get("settled"),
            "start_max_logit_difference": difference,
            "encoder_unchanged": True if untouched else None,
            "ranks": {row.name: row.rank for row in plan.targets},
        },
    )


def _prepared(
    recipe: Recipe,
    job: GlueJob,
    loaded: LoadedModel,
    queue: Sequence[Any],
    drawn: Drawn[LabelledExample],
    folder: Path,
) -> Preparation:
    """The plan of the job's method; the curvature is taken of as many rows as it takes, everything else of all."""
    method = job.job.method
    fingerprint = functools.partial(labels_fingerprint, seed=recipe.data.seed)
    cache = SpectrumCache(spectrum_folder())
    given, origins, seconds = dict[str, Summed](), dict[str, dict[str, Any]](), 0.0
    if settles(recipe) and CURVATURE.name in get_method(method).needs and len(drawn.rows) > 1:
        pad = pad_token(loaded.tokenizer)
        in_batches = functools.partial(labelled_batches, batch_tokens=recipe.init.batch_tokens, pad_id=pad)
        growth = Growth(drawn, in_batches, fingerprint, resolved(recipe.init), folder, job.key(recipe))
        targets = find_targets(loaded.model, recipe.init.targets, recipe.init.exclude)
        check_boundary(targets, growth.config, [method])
        started = time.perf_counter()
        with ProgressLine(f"statistics for {method}") as line:
            (statistics, other), found = grow(loaded.model, targets, growth, cache, line)
        statistics.add_(other)
        given, origins = {CURVATURE.name: statistics}, {CURVATURE.name: growth.account(found)}
        seconds = time.perf_counter() - started
    ready = prepare(
        loaded.model,
        queue,
        recipe.init,
        [method],
        data=fingerprint(drawn.first(len(drawn.rows))),
        statistics=given,
        origins=origins,
        spectra=cache,
        match=recipe.match,
        budget_params=recipe.budget_params,
    )
    forget(folder)
    ready.seconds["curvature"] = ready.seconds.get("curvature", 0.0) + seconds
    return ready


def _train(
    loaded: LoadedModel, model: nn.Module, training: list[LabelledExample], recipe: Recipe, job: GlueJob
) -> TrainReport:
    config = dataclasses.replace(recipe.train, learning_rate=job.job.learning_rate, seed=job.job.seed, save_steps=None)
    title, trains = f"training {job.task.name} {job.job.id}", get_method(job.job.method).trains
    return fit(model, loaded.tokenizer, Rows(training), config, None, title=title, trains=trains, task=Classification())
