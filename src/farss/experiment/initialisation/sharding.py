"""The second moments of the calibration examples, of all or of a shard of them: `farss init --shard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farss.config import FarssConfig, Recipe
from farss.errors import ConfigError
from farss.experiment import materials
from farss.experiment.arithmetic import settle
from farss.experiment.calibrating import calibration_of, growth_of
from farss.experiment.dating import dated
from farss.experiment.fetched import Inputs
from farss.experiment.initialisation.crew import Crew
from farss.experiment.initialisation.growing import grow
from farss.experiment.initialisation.planning import calibration_batches, collect_with, reached, resolved
from farss.experiment.initialisation.settling import settles
from farss.experiment.initialisation.statistics import STATISTICS, Origin, Shard, save_statistics
from farss.experiment.outputs import check_new_output, inputs_on_disk
from farss.experiment.progress import ProgressLine
from farss.experiment.space import check_space, shard_space
from farss.experiment.stages import stage_key
from farss.experiment.steps import RECIPE
from farss.model.calibration import Batch, Example, data_fingerprint
from farss.model.sources import LoadedModel
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets
from farss.processes import processes, require_one_process
from farss.statistics.curvature import Curvature, Keep
from farss.storage import new_folder
from farss.storage.folders import work_folder

PARTIAL = "partial.safetensors"


def take_statistics(
    recipe: Recipe,
    loaded: LoadedModel,
    shard: Shard,
    kept: Path,
    progress: ProgressLine | None = None,
    examples: list[Example] | None = None,
) -> tuple[Curvature, Origin]:
    """The second moments of a shard of the recipe's calibration examples.

    Args:
        recipe: data and init settings.
        loaded: the model.
        shard: which part of the examples.
        kept: where the sums so far are kept, so that an interrupted call goes on from them.
        progress: told how far it is.
        examples: all calibration examples, where they are at hand; None encodes them.

    Raises:
        ConfigError: if the published code's choices, which depend on the order of all examples, are asked of a shard.
        DataError: if there are fewer examples than shards.
    """
    config = resolved(recipe.init)
    examples = calibration_of(recipe, loaded.tokenizer) if examples is None else examples
    origin = Origin(
        loaded.fingerprint,
        str(loaded.dtype),
        data_fingerprint(examples, recipe.data.seed),
        (shard.number,),
        shard.count,
    )
    batches = shard_batches(recipe, loaded.tokenizer, examples, shard)
    targets = find_targets(loaded.model, config.targets, config.exclude)
    reached(loaded.model, targets)
    keep = Keep(kept, stage_key(origin.notes(), config.to_mapping()))
    return collect_with(loaded.model, batches, targets, config, progress, keep), origin


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
        return take_statistics(recipe, loaded, crew.shard, kept / f"partial-{crew.rank}.safetensors", progress)
    targets = find_targets(loaded.model, growth.config.targets, growth.config.exclude)
    reached(loaded.model, targets)
    (curvature, other), found = grow(loaded.model, targets, growth, spectra, progress)
    curvature.add_(other)
    return curvature, Origin(loaded.fingerprint, str(loaded.dtype), growth.account(found))


def shard_batches(recipe: Recipe, tokenizer: Any, examples: list[Example], shard: Shard) -> list[Batch]:
    """The batches of a shard.

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
    return calibration_batches(shard.of(examples), recipe.init, tokenizer, materials.longest(recipe))


def initialise_shard(recipe: Recipe, out: str | Path, shard: Shard) -> dict[str, Any]:
    """Take the statistics of a shard of the calibration examples; leaves `stats.safetensors` and the recipe.

    Raises:
        DataError: if rows are missing or lack fields, or there are fewer than shards.
        ConfigError: if `out` is not empty, or the number of calibration rows is not given.
        StorageError: if `out` cannot be written, or another process initialises there.
    """
    if processes() > 1:
        require_one_process("farss init --shard")
    check_new_output(out, inputs_on_disk(recipe))
    if settles(recipe):
        raise ConfigError(
            "a shard sees its own rows alone and cannot tell when all shards have read enough",
            where="data.calibration_rows",
            expected="a number of rows",
            got="auto",
            do="give the same number to every shard, or start one `farss init` with torchrun",
        )
    recipe = dated(Inputs.of(recipe))
    calibration_of(recipe, materials.tokenizer_of(recipe))  # a wrong row is named before the model is loaded
    check_space(out, shard_space(recipe))
    settled, decided = settle(recipe)
    loaded = materials.load_for_statistics(settled)
    with work_folder(out, [PARTIAL]) as work, ProgressLine(f"statistics of shard {shard.number}/{shard.count}") as line:
        curvature, origin = take_statistics(recipe, loaded, shard, work / PARTIAL, line)
        with new_folder(out, "init") as folder:
            save_statistics(curvature, origin, folder / STATISTICS)
            (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    return {
        "shard": f"{shard.number}/{shard.count}",
        "sequences": curvature.sequences,
        "tokens": curvature.tokens,
        "arithmetic": decided.to_mapping(),
        "statistics": str(Path(out) / STATISTICS),
    }
