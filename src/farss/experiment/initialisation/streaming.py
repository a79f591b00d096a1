"""Initialisation of a model that is never whole in memory: evidence and start factors, one block at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from farss.adapters.factors import Factors, initial_factors
from farss.config import Dtype, FarssConfig, ModelConfig
from farss.errors import ConfigError, PlanError, StorageError
from farss.experiment.initialisation.kept_blocks import KeptBlocks, ScoredBlocks
from farss.experiment.initialisation.planning import check_boundary
from farss.methods import get_method
from farss.methods.base import Evidence
from farss.methods.factored import FactorMethod
from farss.methods.lora import Lora
from farss.model.blocks import BlockChain
from farss.model.calibration import Batch
from farss.model.checkpoint import load_tokenizer
from farss.model.fingerprints import fingerprint_of
from farss.model.lazy import RESIDENT, LazyWeights, skeleton
from farss.model.plan import Plan
from farss.model.sources import arithmetic_of, name_model, resolve
from farss.model.spectra import SpectrumCache
from farss.model.targets import Target, find_targets
from farss.reading import Document, unless_damaged
from farss.statistics.states import DiskStates, States
from farss.statistics.streamed import Walk
from farss.storage import write_json
from farss.storage.owned import check_own, clear, take

Progress = Callable[[int, int], None]
WALK = "init, a walk"
"""By whom the folder of states and blocks is marked as made."""
LABEL = Document("note of a walk", StorageError)
STREAMED = frozenset({"spectrum", "curvature"})
"""The evidence that can be taken one block at a time."""


def streamable(method: str) -> bool:
    """Whether the streamed engine can plan a method and apply its plan without all weights in memory."""
    return get_method(method).needs <= STREAMED and _of_the_weights(method) is None


def _of_the_weights(method: str) -> str | None:
    """What a method makes of the weights themselves, beside their spectra."""
    found = get_method(method)
    if isinstance(found, FactorMethod):
        return "start factors of the weights"
    return "norms of the weights" if isinstance(found, Lora) and found.form.name == "magnitude" else None


def check_streamable(method: str) -> None:
    """Refuse a method that the streamed engine cannot plan.

    Raises:
        ConfigError: saying what it asks for.
    """
    if not streamable(method):
        asked = sorted(get_method(method).needs - STREAMED) or [_of_the_weights(method)]
        raise ConfigError(f"the streamed engine does not take {asked[0]}", where=method, do=RESIDENT)


class StreamedModel:
    """A model on disk: its architecture in memory, its weights one block at a time.

    Args:
        config: which model; it must be a folder of safetensors, as after `resolve`.
        dtype: replaces `config.dtype`.
        classifier: an encoder with the classification head that the folder holds, for labelled batches.
        device: where blocks are computed.

    Raises:
        ModelError: if the model is not found, damaged, or cannot be read piece by piece.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: Dtype | None = None,
        classifier: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        folder = resolve(config.name, config.revision)
        self.arithmetic = arithmetic_of(config, torch.device(device), dtype=dtype, piecewise=True)
        self.model, kind = skeleton(
            folder, self.arithmetic.weights, classifier=classifier, trust_remote_code=config.trust_remote_code
        )
        name_model(self.model, config.name, folder)
        self.name = config.name
        self.tokenizer = load_tokenizer(folder, config.trust_remote_code)
        self.weights = LazyWeights(folder, self.model, kind, device)
        self._fingerprint: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights during a walk."""
        return self.weights.dtype

    @property
    def fingerprint(self) -> str:
        """Of all weights, read once; the same as of the model in memory."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.weights.read(sorted(self.weights.parameters)))
        return self._fingerprint

    def targets(self, config: FarssConfig) -> list[Target]:
        """The modules to adapt, without their weights.

        Raises:
            ModelError: as `find_targets`.
        """
        return find_targets(self.model, config.targets, config.exclude, in_memory=False)

    @contextmanager
    def block(self, chain: BlockChain, index: int) -> Iterator[None]:
        """The weights of one block in their places."""
        with self.weights.loaded(self.model, [name for name in self.weights.parameters if chain.owns(name) == index]):
            yield

    def evidence(
        self,
        method: str,
        batches: Sequence[Batch],
        config: FarssConfig,
        spectra: SpectrumCache,
        *,
        data: dict[str, Any] | None = None,
        work: Path | None = None,
        progress: Progress | None = None,
    ) -> Evidence:
        """What `method` plans from: singular values, and scores where it asks for curvature.

        Args:
            method: a name of `farss methods`.
            batches: calibration batches; not used by methods without data.
            config: a resolved configuration.
            spectra: decompositions, kept on disk.
            data: fingerprint of the calibration data.
            work: a folder for hidden states and finished blocks, from which an interrupted call goes on and ends with
                the same bits; what belongs to other inputs is removed. None keeps states in memory.
            progress: called with (work done, work in total).

        Raises:
            NotAChain: if the model cannot be walked block by block.
            PlanError: if the boundary does not fit the model.
            ConfigError: if the method needs evidence that this engine does not take.
        """
        targets = self.targets(config)
        check_boundary(targets, config, [method])
        evidence = Evidence(self.fingerprint, data=data)
        check_streamable(method)
        needs = get_method(method).needs
        if "curvature" not in needs:
            if "spectrum" in needs:
                self._decompose(evidence, targets, config, spectra, progress)
            return evidence
        scored = ScoredBlocks(evidence, targets, spectra, config, work)
        self.walk(scored, [batches], config, data=data, progress=progress)
        return evidence

    def walk(
        self,
        blocks: KeptBlocks,
        parts: Sequence[Sequence[Batch]],
        config: FarssConfig,
        *,
        data: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Walk over the blocks with their targets, and have `blocks` receive the moments.

        Args:
            blocks: whose folder `work` also keeps the hidden states, so that an interrupted walk goes on from there;
                what belongs to other inputs is removed. Without a folder states are in memory.
            parts: batches of each part of the data, whose moments are kept apart.
            config: a resolved configuration.
            data: fingerprint of all the data.
            progress: called with (work done, work in total).

        Raises:
            NotAChain: if the model cannot be walked block by block.
        """
        states = None if blocks.work is None else walk_states(blocks.work, self._identity(config, data, parts))
        first, *others = parts
        walk = Walk(
            self.model,
            self.weights,
            blocks.targets,
            first,
            others=others,
            tokens=config.tokens,
            loss_norm=config.loss_norm,
            fisher=config.fisher,
            max_batches=config.max_batches,
            seed=config.seed,
            states=states,
            progress=progress,
        )
        walk.run(blocks)

    def start_factors(self, plan: Plan, spectra: SpectrumCache) -> dict[str, Factors] | None:
        """B0 and A0 of every planned module, on the CPU; one block's weights are in memory at a time.

        None where the plan holds factors of its own or starts without any.

        Raises:
            PlanError: if the plan changes the base weights, needs all their norms, or chooses directions whose singular
                value is zero.
        """
        if plan.base == "residual":
            raise PlanError("the residual form changes the base's weights, which are not in memory", do=RESIDENT)
        if plan.form.reads_norms:
            raise PlanError(
                f"{plan.form.name} plans start from the norms of weights, which are not in memory", do=RESIDENT
            )
        if not plan.form.indexed:
            return None
        route = plan.settings.get("route", "gram")
        rows = {row.name: row for row in plan.targets}
        chain = BlockChain(self.model, [t for t in find_targets(self.model, in_memory=False) if t.name in rows])
        found: dict[str, Factors] = {}
        for index, block in enumerate(chain.targets):
            if not block:
                continue
            part = dataclasses.replace(plan, targets=tuple(rows[target.name] for target in block))
            with self.block(chain, index):
                made = initial_factors(self.model, part, lambda t: spectra.get(t, route))
            found |= {name: Factors(f.up.cpu(), f.down.cpu()) for name, f in made.items()}
        missing = sorted(set(rows) - set(found))
        if missing:
            raise PlanError("a planned module lies outside the chain of blocks", where=missing[0], do=RESIDENT)
        return found

    def _decompose(
        self,
        evidence: Evidence,
        targets: list[Target],
        config: FarssConfig,
        spectra: SpectrumCache,
        progress: Progress | None,
    ) -> None:
        chain = BlockChain(self.model, targets)
        for index in range(len(chain)):
            with self.block(chain, index):
                for target in chain.targets[index]:
                    evidence.keep(target.name, spectra.get(target, config.route).sigma)
            if progress is not None:
                progress(index + 1, len(chain))

    def _identity(
        self, config: FarssConfig, data: dict[str, Any] | None, parts: Sequence[Sequence[Batch]]
    ) -> dict[str, Any]:
        return {
            "model": self.fingerprint,
            "dtype": str(self.weights.dtype),
            "settings": config.to_mapping(),
            "data": data,
            "batches": [[list(batch.input_ids.shape) for batch in part] for part in parts],
        }


def walk_states(work: Path, identity: dict[str, Any]) -> States:
    """The states of an interrupted walk with the same identity, or none, in `work`, a folder of walks alone.

    Raises:
        OutputError: if something else lies there; nothing was touched.
    """
    label = work / "walk.json"
    check_own(work, WALK)
    kept = unless_damaged(lambda: LABEL.read_object(label), "the walk begins again") if label.is_file() else None
    if kept != identity:
        clear(work)
        take(work, WALK, writing=[label.name, "block-*.safetensors", "*-[0-9][0-9][0-9][0-9]"])
        write_json(label, identity)
    return DiskStates(work)
