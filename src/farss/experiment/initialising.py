"""`farss init`: statistics, plan and adapter, of a model in memory or block by block from the disk."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from farss.adapters.apply import apply
from farss.adapters.files import save_adapter
from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.environment import peak_bytes
from farss.experiment.planning import calibration_batches, prepare, resolved, spectrum_folder
from farss.experiment.progress import ProgressLine
from farss.experiment.stages import stage_key
from farss.experiment.steps import RECIPE, require_new
from farss.experiment.streaming import StreamedModel
from farss.experiment.work import STATISTICS
from farss.methods import get_method
from farss.model.blocks import BlockChain
from farss.model.calibration import Batch, data_fingerprint
from farss.model.cost import MemoryCost, choose_engine, resident_cost, streamed_cost
from farss.model.curvature import Keep
from farss.model.lazy import skeleton
from farss.model.plan import Plan
from farss.model.sources import LoadedModel, resolve
from farss.model.spectra import SpectrumCache
from farss.model.targets import chain_prefixes, find_targets
from farss.storage import held, new_folder

Engine = Literal["auto", "resident", "streamed"]
SAMPLE_TOKENS = 32


def initialise(
    recipe: Recipe,
    method: str,
    out: str | Path,
    *,
    plan_file: str | Path | None = None,
    engine: Engine = "auto",
) -> dict[str, Any]:
    """Decide a plan, or obey one, and build its adapter; leaves `plan.json`, `adapter/`, statistics and recipe.

    A call that was interrupted, even killed, goes on where it stopped when it is made again with the same `out`.

    Args:
        recipe: model, data and init settings.
        method: a name of `farss methods` that trains an adapter.
        out: a new folder.
        plan_file: obey this plan; `method` and the data are then not used.
        engine: "resident" (the model in memory), "streamed" (one block of it at a time) or "auto" (streamed where the
            model does not fit).

    Raises:
        DataError: if the method needs data, and rows are missing or lack fields.
        PlanError: if the plan was made for another model.
        ConfigError: if the method has no adapter to initialise, or `out` is not empty.
        ResourceError: if the model fits neither way; nothing was loaded.
        NotAChain: if the streamed engine is asked for and the model cannot be walked.
        StorageError: if `out` cannot be written, or another process initialises there.
    """
    if plan_file is None and get_method(method).trains == "weights":
        raise ConfigError("this method trains the weights themselves; there is nothing to initialise", got=method)
    given = Plan.load(plan_file) if plan_file else None
    work = Path(out).with_name(f".{Path(out).name}.work")
    try:
        require_new(out)
    except ConfigError:
        shutil.rmtree(work, ignore_errors=True)  # left by a call that was killed after its last step
        raise
    if given is None and "curvature" in get_method(method).needs:
        materials.training_rows(recipe)
    chosen, cost = engine_for(recipe, engine)
    started = time.perf_counter()
    with held(work):
        act = _streamed if chosen == "streamed" else _resident
        plan, difference = act(Request(recipe, method, Path(out), given, work))
    shutil.rmtree(work)
    return {
        "method": plan.method,
        "engine": chosen,
        "modules": len(plan.targets),
        "trainable_params": plan.trainable_parameters,
        "seconds": time.perf_counter() - started,
        "predicted_peak_bytes": cost.peak,
        "peak_bytes": peak_bytes(),
        "max_logit_difference": difference,
        "plan": str(Path(out) / "plan.json"),
        "adapter": str(Path(out) / "adapter"),
    }


@dataclass(frozen=True)
class Request:
    """What an initialisation was asked for.

    Attributes:
        recipe: model, data and settings.
        method: registry name.
        out: the folder to make.
        given: a plan to obey, or None to decide one.
        work: what an interrupted call keeps.
    """

    recipe: Recipe
    method: str
    out: Path
    given: Plan | None
    work: Path

    @property
    def config(self) -> FarssConfig:
        """The init settings with `compat` spelled out."""
        return resolved(self.recipe.init)

    def calibration(self, tokenizer: Any) -> tuple[list[Batch], dict[str, Any] | None]:
        """Batches and their fingerprint; nothing where a plan is given or the method needs no data."""
        if self.given is not None or "curvature" not in get_method(self.method).needs:
            return [], None
        data = self.recipe.data
        training = materials.training_examples(self.recipe, tokenizer)
        examples = materials.calibration_examples(training, data.calibration_rows, data.seed)
        batches = calibration_batches(examples, self.recipe.init, tokenizer, data.max_length)
        return batches, data_fingerprint(examples, data.seed)

    def finish(self, plan: Plan, model: PeftModel, folder: Path) -> None:
        """Write what both engines leave."""
        save_adapter(model, folder / "adapter")
        plan.save(folder / "plan.json")
        (folder / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")


def engine_for(recipe: Recipe, engine: Engine) -> tuple[Literal["resident", "streamed"], MemoryCost]:
    """The engine to use and what it will need, from the model's configuration alone.

    Raises:
        ModelError: if the model is not found, or has no module to adapt.
        ResourceError: if `engine` is "auto" and the model fits neither way.
    """
    config = resolved(recipe.init)
    folder = resolve(recipe.model.name, recipe.model.revision)
    dtype = recipe.model.dtype if config.dtype == "auto" else config.dtype
    model, kind = skeleton(folder, dtype, trust_remote_code=recipe.model.trust_remote_code)
    targets = find_targets(model, config.targets, config.exclude, in_memory=False)
    resident = resident_cost(model, targets, kind, config.batch_tokens)
    walkable = len(chain_prefixes(model)) == 1 and all(target.layer is not None for target in targets)
    streamed = streamed_cost(model, targets, kind, config.batch_tokens) if walkable else None
    chosen = choose_engine(resident, streamed) if engine == "auto" else engine
    if chosen == "resident":
        return chosen, resident
    BlockChain(model, targets)  # says why, if it cannot be walked
    assert streamed is not None, "a chain can be walked"
    return chosen, streamed


def _resident(request: Request) -> tuple[Plan, float]:
    loaded = materials.load_for_statistics(request.recipe)
    cache = SpectrumCache(spectrum_folder())
    with new_folder(request.out) as folder:
        plan = request.given or _decide(request, loaded, cache, folder)
        before = sample_logits(loaded.model)
        route = request.recipe.init.route
        model = apply(loaded.model, plan, lambda t: cache.get(t, route), seed=request.recipe.init.seed)
        difference = float((sample_logits(model) - before).abs().max())
        request.finish(plan, model, folder)
    return plan, difference


def _decide(request: Request, loaded: LoadedModel, cache: SpectrumCache, folder: Path) -> Plan:
    batches, data = request.calibration(loaded.tokenizer)
    if data is None:
        return prepare(loaded.model, (), request.recipe.init, [request.method], spectra=cache).plans[request.method]
    identity = stage_key(loaded.fingerprint, str(loaded.dtype), data, request.config.to_mapping())
    with ProgressLine(f"statistics of {data['rows']} examples, {data['tokens']:,} tokens") as line:
        ready = prepare(
            loaded.model,
            batches,
            request.recipe.init,
            [request.method],
            data=data,
            spectra=cache,
            progress=line,
            keep=Keep(request.work / "partial.safetensors", identity),
        )
    if ready.evidence.curvature is not None:
        ready.evidence.curvature.save(folder / STATISTICS)
    return ready.plans[request.method]


def _streamed(request: Request) -> tuple[Plan, None]:
    """The plan, and None: no forward pass sees the whole model, so no outputs are compared.

    What the adapter adds is zero to the bit before training (`farss.adapters.pairs`).
    """
    dtype = None if request.config.dtype == "auto" else request.config.dtype
    source = StreamedModel(request.recipe.model, dtype=dtype)
    cache = SpectrumCache(spectrum_folder())
    batches, data = request.calibration(source.tokenizer)
    plan = request.given
    if plan is None:
        with ProgressLine(f"walk over the blocks of {request.recipe.model.name}") as line:
            evidence = source.evidence(
                request.method, batches, request.config, cache, data=data, work=request.work / "walk", progress=line
            )
        targets = source.targets(request.config)
        plan = get_method(request.method).plan(targets, evidence, request.config)
    start = source.start_factors(plan, cache) if plan.initialisation == "spectral" else None
    source.weights.hollow_(source.model)  # PEFT puts adapters where it finds weights
    with new_folder(request.out) as folder:
        seed = request.recipe.init.seed
        model = apply(source.model, plan, seed=seed, fingerprint=source.fingerprint, start=start)
        request.finish(plan, model, folder)
    return plan, None


def sample_logits(model: nn.Module) -> Tensor:
    """The model's logits [1, 32, vocabulary] in float32 on a fixed row of token ids."""
    vocabulary = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportCallIssue]
    ids = torch.randint(vocabulary, (1, SAMPLE_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()
