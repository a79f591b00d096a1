"""`farss audit`: what any fine-tuning kept of its base model, and what it lost, fact by fact."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, Literal

import torch

from farss.config import Recipe
from farss.datasets.files import is_data_file
from farss.datasets.resolve import load_rows
from farss.errors import ConfigError, GateError
from farss.evaluation.backends import TorchBackend
from farss.evaluation.forgetting import facts, facts_account
from farss.evaluation.knowledge import measure_knowledge
from farss.evaluation.records import Measurement
from farss.evaluation.relations import by_relation
from farss.evaluation.scores import compare_to_base, summarise
from farss.evaluation.task import TaskSet, measure_task
from farss.evaluation.text import check_texts, text_windows
from farss.evaluation.window import counting_cuts
from farss.experiment import materials
from farss.experiment.arithmetic import ARITHMETIC, settle_in
from farss.experiment.environment import device, versions
from farss.experiment.fetched import Inputs
from farss.experiment.measuring import SAMPLES
from farss.experiment.outputs import begin_again, check_output, inputs_on_disk, rescued
from farss.experiment.progress import ProgressLine
from farss.experiment.stages import check_stage, run_stage, stage_key
from farss.experiment.subjects import Subject, check_subject, tuned_model
from farss.processes import require_one_process
from farss.report.audit import interval_text, write_audit
from farss.storage import held, write_json
from farss.storage.owned import take, writing

Gate = Literal["K", "K_p"]
AUDIT = "audit.json"
FILES = (ARITHMETIC, AUDIT, "audit.html")
FACTS_LISTED = 200


def audit(
    recipe: Recipe,
    subject: Subject,
    out: str | Path,
    *,
    text: str | None = None,
    text_windows: int = 64,
    min_k: float | None = None,
    gate: Gate = "K",
    fresh: bool = False,
) -> dict[str, Any]:
    """Measure base and fine-tuned model on the recipe's knowledge sets; leaves `audit.json`, `audit.html`, samples.

    Both measurements are stages: an interrupted audit goes on, and a second subject in the same folder reuses the base.

    Args:
        recipe: base model, knowledge sets and how they are asked.
        subject: what is audited.
        out: folder for the results.
        text: a set of general text (rows with `text`) whose loss is measured too, as `text_rows` takes it; None for
            none.
        text_windows: at most so many windows of it, `data.max_length` tokens each.
        min_k: the least `gate` must reach; None only reports.
        gate: "K" (right answers kept, as in the paper) or "K_p" (probability kept).
        fresh: remove what an earlier call left in the folder, and begin again.

    Returns:
        The content of `audit.json`.

    Raises:
        GateError: if the gate is not met, or cannot be judged on these questions; everything is written first.
        ConfigError: if there are no knowledge sets.
        ModelError, AdapterError, DataError: if model, adapter or rows are missing or do not fit.
    """
    require_one_process("farss audit")
    recipe = Inputs.of(recipe)
    if not recipe.eval.knowledge:
        raise ConfigError("at least one knowledge set is needed", where="eval.knowledge")
    read = {"the adapter": subject.adapter, "the fine-tuned model": subject.finetuned, "the text": text}
    place = check_output("audit", out, inputs_on_disk(recipe) | read, FILES, fresh=fresh)
    materials.check_model(recipe)
    check_subject(recipe, subject)
    materials.knowledge_sets(recipe)
    if text is not None:
        check_texts(text, text_rows(recipe, text))
    started = time.perf_counter()
    asked = [recipe.model.to_mapping(), recipe.data.data_dir, recipe.data.max_length, recipe.eval.to_mapping()]
    key = stage_key(*asked, text, text_windows)
    stages = [(place / "base", key, None), (place / "after", stage_key(key, subject.identity()), subject)]
    if not fresh:
        for folder, part, _ in stages:
            check_stage(folder, part)
    with held(place):
        begin_again(place, fresh)
        take(place, "audit")
        settled, decided = settle_in(place, recipe)
        measure = functools.partial(_measure, settled, text, text_windows)
        accounts = [run_stage(folder, part, functools.partial(measure, measured)) for folder, part, measured in stages]
        before, after = (Measurement.load(place / part / SAMPLES) for part in ("base", "after"))
        report: dict[str, Any] = _report(recipe, subject, before, after)
        report["arithmetic"] = decided.to_mapping()
        report["cut"] = {name: account.get("cut", {}) for name, account in zip(report["scores"], accounts, strict=True)}
        report["seconds"] = time.perf_counter() - started
        with rescued(report), writing(place, *FILES):
            report["gate"] = _gate(report["compared"], min_k, gate)
            write_json(place / AUDIT, report)
            write_audit(report, place)
    _enforce(report["gate"], place)
    return report


def _measure(recipe: Recipe, text: str | None, windows: int, subject: Subject | None, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    loaded = materials.load_model(recipe)
    model = loaded.model if subject is None else tuned_model(recipe, subject, loaded)
    model.eval()
    backend = TorchBackend(model, loaded.tokenizer)
    title = "base model" if subject is None else subject.name
    with counting_cuts() as cut, ProgressLine(f"auditing {title}") as line, torch.inference_mode():
        knowledge = measure_knowledge(
            backend,
            materials.knowledge_sets(recipe),
            generate=True,
            choices=True,
            batch_tokens=recipe.eval.batch_tokens,
            progress=line,
        )
        written = []
        if text is not None:
            plain = _text(recipe, text, windows, loaded.tokenizer)
            written = measure_task(
                backend,
                plain,
                generate_rows=0,
                max_new_tokens=1,
                batch_tokens=recipe.eval.batch_tokens,
            )
    found = Measurement(knowledge=knowledge, task=written)
    with rescued({"measured": title, "scores": summarise(found)}):
        found.save(folder / SAMPLES)
    size, seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - started
    return {"seconds": seconds, "parameters": size, "cut": cut}


def text_rows(recipe: Recipe, text: str) -> list[dict[str, Any]]:
    """The rows of a set of general text: a file, or `NAME:SPLIT` of the data directory or the hub (SPLIT: test).

    Raises:
        DataError: if there are none.
    """
    name, _, split = (text, "", "") if is_data_file(text) else text.partition(":")
    return load_rows(name, split or "test", data_dir=recipe.data.data_dir)


def _text(recipe: Recipe, text: str, windows: int, tokenizer: Any) -> TaskSet:
    rows = text_rows(recipe, text)
    return text_windows(Path(text).name, rows, tokenizer, width=materials.longest(recipe), most=windows)


def _report(recipe: Recipe, subject: Subject, before: Measurement, after: Measurement) -> dict[str, Any]:
    settings = recipe.eval
    kinds = {(s.name, q.id): q.relation for s in materials.knowledge_sets(recipe) for q in s.questions}
    return {
        "schema_version": 1,
        "base": Path(recipe.model.name).name if Path(recipe.model.name).exists() else recipe.model.name,
        "subject": subject.name,
        "kind": "adapter" if subject.adapter is not None else "model",
        "scores": {"before": summarise(before), "after": summarise(after)},
        "compared": compare_to_base(after, before, bootstrap=settings.bootstrap, seed=settings.seed),
        "relations": by_relation(before, after, kinds),
        "facts": facts_account(facts(before, after), FACTS_LISTED),
        "recipe": recipe.to_mapping(),
        "versions": versions(),
        "device": device(recipe.device),
    }


def _gate(compared: dict[str, Any], least: float | None, measure: Gate) -> dict[str, Any] | None:
    if least is None:
        return None
    found = compared.get(measure) or {"value": None, "low": None, "high": None}
    value, why = found["value"], compared.get("undefined", {}).get(measure)
    short = value is not None and value < least
    judged = short or found["low"] is not None  # too few answers for an interval are too few to pass on
    met = not short if judged else None
    return {"measure": measure, "least": least, **found, "met": met, "why": None if met else why}


def _enforce(gate: dict[str, Any] | None, place: Path) -> None:
    if gate is None or gate["met"]:
        return
    asked = {"where": place / AUDIT, "expected": f"{gate['measure']} at least {gate['least']:g}"}
    got = interval_text(gate, gate["why"])
    if gate["met"] is False:
        raise GateError("the fine-tuned model keeps less than asked for", **asked, got=got)
    raise GateError(
        "the gate cannot be judged: the base model answers too few of these questions right",
        **asked,
        got=got,
        do="ask more questions (--knowledge-rows, --tasks), or gate on the probability kept (`--gate K_p`)",
    )
