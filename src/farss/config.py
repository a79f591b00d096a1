"""The recipe: one frozen tree of settings, read from YAML, overridden by flags, written back in full.

Unknown keys are refused and the nearest known key is named; every leaf is checked for its type before anything is
loaded. `Recipe.schema()` returns the JSON schema of the whole tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml

from farss.data_settings import (
    MOST_ROWS,
    TEMPLATES,
    DataConfig,
    Learn,
    MixedSet,
    OnBadRow,
    TooLong,
    Turns,
)
from farss.errors import ConfigError
from farss.method_settings import MethodSettings, registry
from farss.reading import Document
from farss.settings import Settings, require
from farss.train_settings import Precision, TrainConfig
from farss.yaml_text import parse_yaml

__all__ = [
    "MOST_ROWS",
    "TEMPLATES",
    "DataConfig",
    "EvalConfig",
    "FarssConfig",
    "HeadConfig",
    "Learn",
    "MixedSet",
    "ModelConfig",
    "OnBadRow",
    "Precision",
    "Recipe",
    "Settings",
    "TooLong",
    "TrainConfig",
    "Turns",
]

RECIPE = Document("recipe", ConfigError, most_bytes=1 << 17)

Owned = TypeVar("Owned", bound=MethodSettings)

Dtype = Literal["auto", "checkpoint", "float32", "bfloat16", "float16", "float64"]
Budget = Literal["clip", "redistribute"]
Scale = Literal["unit", "alpha_over_r", "rslora"]
Base = Literal["reference", "residual"]
Tokens = Literal["nonpad", "response", "all"]
LossNorm = Literal["token_sum", "batch_mean"]
Fisher = Literal["empirical", "sampled"]
Selection = Literal["method", "low", "high", "low_shallow_high_deep", "rank_rule"]
Compat = Literal["none", "published-code"]
Route = Literal["gram", "polar", "gesdd", "auto"]
SampleScale = Literal["none", "signed_maximum"]
Match = Literal["rank", "params"]
Select = Literal["none", "validation"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Which pre-trained model: a short name of `farss models`, a folder, or a hub id.

    `dtype` is what its weights are kept in and its products computed in: "auto" is what the device does fastest without
    rounding the checkpoint (`farss.model.arithmetic`), "checkpoint" what it is stored in.
    """

    name: str = "smollm2-135m"
    revision: str | None = None
    dtype: Dtype = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FarssConfig(Settings):
    """How an adapter is initialised. The defaults are the paper's, with the choices of `docs/method.md`.

    `rank` is R, the rank of deep modules; `r_min`, `r_avg`, `r_max` bound the shallow ones (Eq. 10-12). `alpha` is
    only read by the scales `alpha_over_r` and `rslora`; with `unit` every module's scale is 1. `dtype` is the model's
    during the data pass; `auto` is its own. `route` names how weights are decomposed; `auto` times the routes, once per
    shape, and what it chose is kept beside the spectra.

    `own` are the settings that single methods own, where they are not at their defaults; in a recipe each is a part of
    `init` by the name of its group, and `of` reads them.
    """

    rank: int = 128
    shallow_layers: int | None = None
    r_min: int = 1
    r_avg: int = 50
    r_max: int = 64
    budget: Budget = "clip"
    epsilon: float = 1e-12
    selection: Selection = "method"
    scale: Scale = "unit"
    alpha: float = 128.0
    base: Base = "reference"
    tokens: Tokens = "nonpad"
    loss_norm: LossNorm = "token_sum"
    fisher: Fisher = "empirical"
    batch_tokens: int = 1024
    max_batches: int | None = None
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    route: Route = "gram"
    dtype: Dtype = "auto"
    seed: int = 0
    compat: Compat = "none"
    own: tuple[MethodSettings, ...] = ()

    def __post_init__(self) -> None:
        changed = {one.group: one for one in self.own if one != type(one)()}
        # In one order and without defaults, so that configurations that mean the same are equal.
        object.__setattr__(self, "own", tuple(changed[name] for name in sorted(changed)))
        require(self.rank >= 1, "the rank must be at least 1", where="rank", got=self.rank)
        require(
            1 <= self.r_min <= self.r_avg and (self.r_avg <= self.r_max or self.compat == "published-code"),
            "shallow ranks are inconsistent",
            where="r_min, r_avg, r_max",
            expected="1 <= r_min <= r_avg <= r_max",
            got=f"{self.r_min}, {self.r_avg}, {self.r_max}",
        )
        require(
            self.shallow_layers is None or self.shallow_layers >= 0,
            "the number of shallow layers cannot be negative",
            where="shallow_layers",
            got=self.shallow_layers,
        )
        require(self.epsilon > 0, "epsilon must be positive", where="epsilon", got=self.epsilon)

    def of(self, kind: type[Owned]) -> Owned:
        """The settings of one kind that a method owns."""
        return next((one for one in self.own if isinstance(one, kind)), None) or kind()

    def shared(self) -> dict[str, Any]:
        """The settings that no method owns, as plain values."""
        return {name: value for name, value in self.to_mapping(whole=False).items() if name in self.shared_keys()}

    @classmethod
    def shared_keys(cls) -> list[str]:
        """The names of the settings that no method owns."""
        return [name for name in super().names() if name != "own"]

    @classmethod
    def kind_of(cls, key: object) -> Any:
        """The type of a setting that no method owns, or of a group that one does."""
        if key in cls.shared_keys():
            return super().kind_of(key)
        return registry().group_named(key) if isinstance(key, str) else None

    @classmethod
    def names(cls) -> list[str]:
        """The settings that no method owns, and the groups of installed methods."""
        return [*cls.shared_keys(), *registry().group_names()]

    @classmethod
    def of_parts(cls, parts: dict[str, Any]) -> Self:
        """Groups are kept together."""
        shared = {name: parts.pop(name) for name in cls.shared_keys() if name in parts}
        return cls(**shared, own=tuple(parts.values()))

    def parts(self, *, whole: bool = True) -> dict[str, Any]:
        """Groups have the names that recipes give them; those of farss itself are there where all is asked for."""
        found = {name: getattr(self, name) for name in self.shared_keys()}
        groups = {name: kind() for name, kind in registry().own_groups().items()} if whole else {}
        return found | groups | {one.group: one for one in self.own}


@dataclass(frozen=True)
class HeadConfig(Settings):
    """How a classification head of random numbers is trained, alone, before statistics are taken through it.

    `warmup_steps` steps of AdamW on `warmup_rows` calibration rows each, at the constant rate `warmup_rate`; 0 steps
    leave it random. Every method starts from the same head.
    """

    warmup_steps: int = 40
    warmup_rate: float = 2e-3
    warmup_rows: int = 32

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "the number of steps cannot be negative", got=self.warmup_steps)
        require(self.warmup_rate > 0, "the learning rate must be positive", where="warmup_rate", got=self.warmup_rate)
        require(self.warmup_rows >= 1, "at least one row is needed", where="warmup_rows", got=self.warmup_rows)


BackendName = Literal["torch", "vllm"]


@dataclass(frozen=True)
class EvalConfig(Settings):
    """What is measured: knowledge sets (kept?) and the task (gained?), with intervals and the scale frontier.

    The task's held-out rows are scored by the likelihood of their responses, and `generate_rows` of them answered in
    words. With `benchmarks` (of farss, of another package, or `lm-eval:NAME`) the answers to these count as the task's
    in place of the held-out rows'. `backend` says what reads and writes: PyTorch, or vLLM.
    """

    knowledge: tuple[str, ...] = ("facts",)
    knowledge_rows: int | None = None
    benchmarks: tuple[str, ...] = ()
    backend: BackendName = "torch"
    shots: int = 5
    task_rows: int | None = None
    generate_rows: int = 100
    max_new_tokens: int = 256
    frontier_scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    frontier_rows: int = 200
    batch_tokens: int = 8192
    bootstrap: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        rows = self.task_rows
        require(rows is None or rows >= 1, "at least one held-out row is needed", where="task_rows", got=rows)


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything `farss run` needs: one model, one task, many methods, learning rates and seeds.

    A method's learning rates are those of `method_learning_rates`, else for full fine-tuning `full_learning_rates`,
    else `learning_rates`; its seeds those of `method_seeds`, else `seeds`. With `select="validation"` the loss on
    `validation_rows` rows, which are neither trained on nor scored, chooses one learning rate per method and seed. With
    `match="params"` ranks are solved so that every adapter trains about `budget_params` parameters; None is what plain
    `lora` trains at `init.rank`. `vary` trains a method several times, with other settings of `data`, `init`, `train`,
    `match` or `budget_params`: `{farss: {init: {rank: [16, 32]}}}` has a list where the recipe has a value, and several
    lists are combined. `init_from: {farss: FOLDER}` starts a method from a folder of `farss init` instead of planning
    it; `subjects: {mine: FOLDER}` names adapters and models that were trained elsewhere, to be measured beside the jobs
    (a run notes what it found there: `FOLDER@DIGEST`). `device` says where all is computed: "auto" takes a GPU if there
    is one. It is no part of what decides whether a finished stage is reused.
    """

    name: str = "run"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    methods: tuple[str, ...] = ("full", "lora", "pissa", "milora", "farss")
    learning_rates: tuple[float, ...] = (2e-5,)
    full_learning_rates: tuple[float, ...] = ()
    method_learning_rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    select: Select = "none"
    validation_rows: int = 128
    match: Match = "rank"
    budget_params: int | None = None
    seeds: tuple[int, ...] = (0,)
    method_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    vary: dict[str, dict[str, Any]] = field(default_factory=dict)
    init_from: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    init: FarssConfig = field(default_factory=FarssConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    out: str | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        rows, budget = self.validation_rows, self.budget_params
        require(rows >= 1, "at least one validation row is needed", where="validation_rows", got=rows)
        require(budget is None or budget >= 1, "a budget must be positive", where="budget_params", got=budget)
        require(
            budget is None or self.match == "params",
            "a budget of parameters is not read where ranks are equal",
            where="budget_params",
            do="set match: params",
        )
        require(
            self.select == "validation" or self.train.eval_steps is None,
            "there are no validation rows to measure the loss on while training",
            where="train.eval_steps",
            do="set select: validation, whose rows are neither trained on nor scored",
        )

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """The recipe in a YAML file.

        Raises:
            ConfigError: if the file is missing, no ordinary file, larger than a recipe can be, not YAML, or has
                unknown or repeated keys or wrong types.
        """
        tree = parse_yaml(RECIPE.read_text(path), RECIPE, path)
        return cls.from_mapping({} if tree is None else tree, where=Path(path).name)

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as YAML."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True)
