"""Statistics of data, of all examples or of a shard of them: `farss init --shard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.calibrating import examples_of, growth_of, in_batches
from farss.experiment.dating import dated
from farss.experiment.fetched import Inputs
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.growing import grow
from farss.experiment.initialisation.planning import reached, resolved, take
from farss.experiment.initialisation.settling import settles
from farss.experiment.initialisation.statistics import Origin, Shard, save_statistics
from farss.experiment.outputs import check_new_output, inputs_on_disk
from farss.experiment.progress import ProgressLine
from farss.experiment.space import check_space, shard_space
from farss.experiment.stages import stage_key
from farss.experiment.steps import RECIPE
from farss.methods import get_method
from farss.methods.statistics import CURVATURE, OWN, statistics_of
from farss.model.calibration import Batch, Example
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.processes import processes, require_one_process
from farss.statistics.curvature import Curvature
from farss.statistics.keeping import Keep
from farss.statistics.kinds import DataName, Statistic
from farss.statistics.summed import Summed
from farss.storage import new_folder
from farss.storage.folders import work_folder

KEPT = ("partial*.safetensors",)
"""What is kept beside the output until it is done: the sums so far."""

Found = TypeVar("Found", bound=Summed)


def take_statistics(
    recipe: Recipe,
    loaded: LoadedModel,
    statistic: Statistic[Found],
    shard: Shard,
    kept: Path,
    progress: ProgressLine | None = None,
    method: str | None = None,
) -> tuple[Found, Origin]:
    """A statistic of a shard of its data.

    Args:
        recipe: data and init settings.
        loaded: the model.
        statistic: which one.
        shard: which part of the examples.
        kept: where the sums so far are kept, so that an interrupted call goes on from them.
        progress: told how far it is.
        method: that needs it, by which one that is not of farss is known again.

    Raises:
        ConfigError: if the published code's choices, which depend on the order of all examples, are asked of a shard.
        DataError: if there are fewer examples than shards.
    """
    config = resolved(recipe.init)
    examples, read = examples_of(recipe, loaded.tokenizer, statistic.data)
    named = (statistic.name, None if statistic.name in OWN else method)
    origin = Origin(loaded.fingerprint, str(loaded.dtype), read, (shard.number,), shard.count, *named)
    batches = shard_batches(recipe, loaded.tokenizer, examples, shard, statistic.data)
    targets = find_targets(loaded.model, config.targets, config.exclude)
    reached(loaded.model, targets)
    keep = Keep(kept, stage_key(origin.notes(), config.to_mapping()))
    return take(statistic, loaded.model, batches, targets, config, progress, keep), origin


def take_enough_statistics(
    recipe: Recipe,
    loaded: LoadedModel,
    kept: Path,
    spectra: SpectrumCache,
    progress: ProgressLine,
    hands: Crew | None = None,
    judged: Sequence[FarssConfig] = (),
) -> tuple[Curvature, Origin]:
    """The second moments of the recipe's calibration examples: of as many as it takes, or as the recipe says.

    Args:
        recipe: data and init settings.
        loaded: the model.
        kept: a folder from which an interrupted call goes on.
        spectra: decompositions, by which it is judged what is enough.
        progress: told how far it is.
        hands: this process among those that read together; each gets the sums of its own share.
        judged: the configurations whose plans the examples must be enough for; none stands for the recipe's.

    Raises:
        ConfigError, DataError: as `take_statistics`.
    """
    crew = hands or Crew()
    growth = growth_of(recipe, loaded.tokenizer, kept, (loaded.fingerprint, str(loaded.dtype)), crew, judged)
    if growth is None:
        return take_statistics(recipe, loaded, CURVATURE, crew.shard, kept / partial(CURVATURE, crew.rank), progress)
    targets = find_targets(loaded.model, growth.config.targets, growth.config.exclude)
    reached(loaded.model, targets)
    (curvature, other), found = grow(loaded.model, targets, growth, spectra, progress)
    curvature.add_(other)
    return curvature, Origin(loaded.fingerprint, str(loaded.dtype), growth.account(found))


def partial(statistic: Statistic[Summed], rank: int = 0) -> str:
    """The file in which a process keeps the sums so far of a statistic."""
    middle = "" if statistic is CURVATURE else f"{statistic.name}-"
    return f"partial-{middle}{rank}.safetensors"


def shard_batches(
    recipe: Recipe, tokenizer: Any, examples: list[Example], shard: Shard, data: DataName = "task"
) -> list[Batch]:
    """The batches of a shard of the examples.

    Raises:
        ConfigError: if the published code's choices, which depend on the order of all examples, are asked of a shard.
        DataError: if there are fewer examples than shards.
    """
    if shard.count > 1 and recipe.init.compat == "published-code":
        raise ConfigError(
            "the published code takes the first examples as they come, so they cannot be divided",
            where="init.compat",
            do="use one process and no shards",
        )
    return in_batches(recipe, tokenizer, data, shard.of(examples))


def initialise_shard(recipe: Recipe, out: str | Path, shard: Shard, method: str = "farss") -> dict[str, Any]:
    """Take what a method is planned from of a shard of the examples; leaves a file of each statistic, and the recipe.

    Raises:
        DataError: if rows are missing or lack fields, or there are fewer than shards.
        ConfigError: if the method reads no data, `out` is not empty, or the number of calibration rows is not given.
        StorageError: if `out` cannot be written, or another process initialises there.
    """
    if processes() > 1:
        require_one_process("farss init --shard")
    check_new_output(out, inputs_on_disk(recipe))
    needed = statistics_of([get_method(method)])
    if not needed:
        raise ConfigError("the method is planned without data, so there is nothing to take of a shard", got=method)
    if CURVATURE.name in needed and settles(recipe):
        raise ConfigError(
            "a shard sees its own rows alone and cannot tell when all shards have read enough",
            where="data.calibration_rows",
            expected="a number of rows",
            got="auto",
            do="give the same number to every shard, or start one `farss init` with torchrun",
        )
    recipe = dated(Inputs.of(recipe))
    tokenizer = materials.tokenizer_of(recipe)
    read: list[DataName] = list(dict.fromkeys(one.data for one in needed.values()))
    examples = [examples_of(recipe, tokenizer, data)[0] for data in read]
    # A wrong row, or rows that cannot be divided, are named before the model is loaded.
    queues = [shard_batches(recipe, tokenizer, rows, shard, data) for rows, data in zip(examples, read, strict=True)]
    check_space(out, shard_space(recipe, method))
    settled, decided = settle(recipe)
    loaded = materials.load_for_statistics(settled)
    found: list[tuple[Summed, Origin]] = []
    with work_folder(out, KEPT) as work:
        for statistic in needed.values():
            with ProgressLine(f"{statistic.name} of shard {shard.number}/{shard.count}") as line:
                kept = work / partial(statistic)
                found.append(take_statistics(recipe, loaded, statistic, shard, kept, line, method))
        with new_folder(out, "init") as folder:
            for summed, origin in found:
                save_statistics(summed, origin, folder / origin.kind.filename)
            (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    files = {name: str(Path(out) / statistic.filename) for name, statistic in needed.items()}
    return {
        "shard": f"{shard.number}/{shard.count}",
        "sequences": sum(len(shard.of(rows)) for rows in examples),
        "tokens": sum(batch.tokens for queue in queues for batch in queue),
        "arithmetic": decided.to_mapping(),
        "statistics": files,
    }
