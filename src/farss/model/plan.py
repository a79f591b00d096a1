"""The plan: what will be adapted, where, with which rank, scale and directions. A decision as data.

A plan can be printed, edited, compared, saved and applied elsewhere; nothing in it changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from farss.errors import PlanError
from farss.model.plan_forms import PlanForm, registry
from farss.model.plan_types import PLAN, check_plan_types
from farss.model.start import Factors, factors_path, read_start, write_start
from farss.storage import write_json

SCHEMA_VERSION = 1

Region = Literal["shallow", "deep"]
Frozen = Literal["none", "up", "down"]


@dataclass(frozen=True)
class TargetPlan:
    """What happens to one linear module.

    Attributes:
        name: dotted module name in the base model.
        layer: index of its block, or None if it belongs to none.
        region: "shallow" or "deep".
        shape: (m, n), out-features by in-features.
        rank: adapter rank, 1 to min(m, n).
        scale: the factor in front of BA.
        indices: ascending positions in the descending spectrum of W, `rank` of them (where they are
            dropped, at most so many); None unless the initialisation names directions.
        importance: Eq. 8, or None where it was not measured.
        log_score_quantiles: natural logarithm of the 0, 25, 50, 75, 100 % quantiles of the scores, or None.
    """

    name: str
    layer: int | None
    region: Region
    shape: tuple[int, int]
    rank: int
    scale: float
    indices: tuple[int, ...] | None = None
    importance: float | None = None
    log_score_quantiles: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """The decision of one method for one model.

    Attributes:
        method: registry name.
        initialisation: the word of a form: "spectral" (B0 A0 = chosen part of W / scale), "factors" (B0 and A0 are the
            method's own, kept beside the plan), "random" (LoRA: B0 = 0), "none" (all weights are trained, no adapter),
            or that of a method with an adapter of its own (`farss.adapters.forms`).
        base: "reference" (base untouched, B0 A0 subtracted by the adapter) or "residual" (subtracted from W).
        factor_scaling: "divided" makes `scale * B0 A0` the chosen part of W; "published" takes sqrt(sigma) as is, so
            that `scale` times the chosen part is subtracted (methods of the published code).
        model_fingerprint: `farss.model.sources.fingerprint` of the weights it was made for.
        settings: the full `FarssConfig` mapping it was made with.
        data: fingerprint of the calibration data (rows, tokens, seed, sha256), or None if none was used.
        frozen: the side of the adapter that training leaves as it starts: "none", "up" (B) or "down" (A).
        factors_digest: `farss.model.start.factors_digest` of the factors an initialisation "factors" starts from.
        requested_rank_total, realised_rank_total: the shallow budget asked for and kept (equal where there is none).
        requested_parameters: the trainable parameters that the ranks were solved for; None where ranks were given.
        targets: one entry per adapted module, in model order.
        layer_scores: layer index, as text, -> the score that layers were chosen by; None where all are adapted.
        coverage: what the targets are of the model (`farss.model.coverage`), or None where it was not counted.
        start: the factors themselves, per module name, where they are in memory; no part of what the plan says.
    """

    method: str
    initialisation: str
    base: Literal["reference", "residual"]
    model_fingerprint: str
    settings: dict[str, Any]
    targets: tuple[TargetPlan, ...]
    data: dict[str, Any] | None = None
    factor_scaling: Literal["divided", "published"] = "divided"
    frozen: Frozen = "none"
    factors_digest: str | None = None
    requested_rank_total: int = 0
    realised_rank_total: int = 0
    requested_parameters: int | None = None
    layer_scores: dict[str, float] | None = None
    coverage: dict[str, Any] | None = None
    schema_version: int = field(default=SCHEMA_VERSION)
    start: Mapping[str, Factors] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.factors_digest is not None) != self.form.keeps_factors:
            raise PlanError(
                "a plan with factors of its own names their digest, and no other plan does",
                expected="initialisation: factors, with factors_digest",
                got=f"{self.initialisation}, {self.factors_digest}",
            )
        for target in self.targets:
            _check_target(target, self.form)
        names = [t.name for t in self.targets]
        if len(set(names)) != len(names):
            raise PlanError("a module is planned twice", got=sorted({n for n in names if names.count(n) > 1}))

    @property
    def form(self) -> PlanForm:
        """What its `initialisation` makes of it.

        Raises:
            PlanError: if there is no form of that word.
        """
        found: PlanForm = registry().form_named(self.initialisation, self.method)
        return found

    @property
    def trainable_parameters(self) -> int:
        """Number of adapter parameters that training will update.

        The sum of rank * (m + n), less a frozen side, and what the form adds, such as a gate per module.
        """
        sides = slice(1 if self.frozen == "up" else 0, 1 if self.frozen == "down" else 2)
        form = self.form
        return sum(t.rank * sum(t.shape[sides]) + form.further_parameters(t.shape, t.rank) for t in self.targets)

    def to_mapping(self) -> dict[str, Any]:
        """The plan as JSON-ready dictionaries, without the factors in memory."""
        mapping = dataclasses.asdict(dataclasses.replace(self, start=None))
        del mapping["start"]
        return mapping

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any], where: object = "plan") -> Self:
        """The plan described by `mapping`.

        Raises:
            PlanError: for another schema version, missing or unknown keys, or impossible ranks and indices.
        """
        if not isinstance(mapping, dict) or mapping.get("schema_version") != SCHEMA_VERSION:
            got = mapping.get("schema_version") if isinstance(mapping, dict) else type(mapping).__name__
            raise PlanError("not a plan of a known version", where=where, expected=SCHEMA_VERSION, got=got)
        check_plan_types(mapping, cls, TargetPlan, where)
        try:
            targets = tuple(TargetPlan(**_with_tuples(row)) for row in mapping["targets"])
            if "start" in mapping:
                raise KeyError("start")
            return cls(**{**mapping, "targets": targets})
        except (TypeError, KeyError, AttributeError) as error:
            raise PlanError("the plan lacks a key or has an unknown one", where=where, got=str(error)) from None

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, atomically, and beside it the factors it holds (`PLAN.safetensors`).

        Raises:
            StorageError: if a file cannot be written.
        """
        if self.start is not None:
            write_start(factors_path(path), self.start)
        write_json(path, self.to_mapping())

    @classmethod
    def load(cls, path: str | Path, *, start: bool = False) -> Self:
        """Read a plan written by `save`, perhaps edited since.

        Args:
            path: of the JSON file.
            start: read the factors beside it too, where the plan has some.

        Raises:
            PlanError: if it is missing, not JSON, or not a possible plan, or its factors are asked for and missing.
        """
        plan = cls.from_mapping(PLAN.read_json(path), where=path)
        if not start or not plan.form.keeps_factors:
            return plan
        return dataclasses.replace(plan, start=read_start(factors_path(path)))


def _with_tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _check_target(target: TargetPlan, form: PlanForm) -> None:
    limit = min(target.shape)
    if not 1 <= target.rank <= limit:
        raise PlanError("impossible rank", where=target.name, expected=f"1 to {limit}", got=target.rank)
    if not target.scale > 0:
        raise PlanError("the scale must be positive", where=target.name, got=target.scale)
    if not form.indexed:
        return
    chosen, drops = target.indices, form.drops
    if chosen is None or (len(chosen) > target.rank if drops else len(chosen) != target.rank):
        raise PlanError(
            f"a {form.name} plan needs {'at most ' if drops else ''}one index per unit of rank",
            where=target.name,
            expected=f"{'0 to ' if drops else ''}{target.rank} indices",
            got=None if chosen is None else len(chosen),
            do="change `rank` and `indices` together",
        )
    if list(chosen) != sorted(set(chosen)) or any(not 0 <= index < limit for index in chosen):
        raise PlanError("indices must ascend within the spectrum", where=target.name, expected=f"0 to {limit - 1}")
