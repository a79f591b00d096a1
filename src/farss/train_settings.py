"""How a model is trained: one node of the recipe, and what of other tools' settings is said otherwise or not taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from farss.errors import ConfigError, did_you_mean
from farss.settings import Settings, require

Precision = Literal["auto", "float32", "bfloat16", "float16"]

BY_VALIDATION = ("reduce_lr_on_plateau", "greedy")
"""Schedules that go by the loss on validation rows."""
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "constant_with_warmup": "constant_with_warmup",
    "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
    "cosine_with_min_lr": "cosine_with_min_lr",
    "cosine_warmup_with_min_lr": "cosine_warmup_with_min_lr",
    "warmup_stable_decay": "warmup_stable_decay",
    **{name: name for name in BY_VALIDATION},
}
"""Schedules by our name, and transformers' name of each."""

BITSANDBYTES = (
    "ademamix",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "ademamix_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
)
OPTIMISERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    **dict.fromkeys(BITSANDBYTES, "bitsandbytes"),
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
}
"""Optimisers by transformers' names, and the package that each needs."""
OTHER_OPTIMISERS = {
    "galore": "it projects the gradients of whole weights, and an adapter's factors are of low rank already",
    "apollo": "it projects the gradients of whole weights, and an adapter's factors are of low rank already",
    "lomo": "it updates inside the backward pass, before the gradient of a step is whole",
    "adalomo": "it updates inside the backward pass, before the gradient of a step is whole",
    "schedule_free": "its weights while training are not those that are measured and saved",
    "adamw_anyprecision": "learned weights are kept in float32 here",
}
"""Optimisers of transformers that are not taken, by the beginnings of their names, each with why."""

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "clearml", "neptune", "swanlab")
"""Whom a training can be reported to."""

ONE_PROCESS = "farss trains in one process: leave it out, and raise batch_size or set gradient_checkpointing: true"
SAID_OTHERWISE = {
    "num_train_epochs": "say `epochs`",
    "num_epochs": "say `epochs`",
    "per_device_train_batch_size": "say `micro_batch_size`; `batch_size` is the rows of a whole step",
    "gradient_accumulation_steps": "say `batch_size` (rows of a whole step) and `micro_batch_size` (rows of a pass)",
    "lr": "say `learning_rate`",
    "lr_scheduler": "say `schedule`",
    "lr_scheduler_type": "say `schedule`",
    "optimizer": "say `optim`",
    "early_stopping": "say `early_stopping_patience`",
    "load_best_model_at_end": "say `load_best`",
    "eval_strategy": "say `eval_steps`",
    "save_strategy": "say `save_steps`",
    "neftune": "say `neftune_noise_alpha`",
    "fp16": "say `precision: float16`",
    "bf16": "say `precision: bfloat16`",
    "lora_dropout": "say `dropout`",
    "sample_packing": "say `packing`",
    "neat_packing": "say `packing`",
    "deepspeed": ONE_PROCESS,
    "fsdp": ONE_PROCESS,
    "fsdp_config": ONE_PROCESS,
    "torch_compile": "the head reads only the tokens that are learned, whose number differs from pass to pass",
    "use_liger_kernel": "the loss already computes no logits but those of the tokens that are learned",
    "label_smoothing_factor": "losses are of the task alone, so that those of all methods can be compared",
    "loraplus_lr_ratio": "both factors learn at one rate, so that methods differ in their start alone",
}
"""Settings of other tools: how each is said here, or why it is not taken."""

COUNTS = ("save_steps", "max_steps", "eval_steps", "early_stopping_patience", "save_total_limit", "logging_steps")
"""Settings that count something there is at least one of."""


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Response-only supervised fine-tuning; the schedule is the paper's (AdamW, linear, warm-up 3 %, no decay).

    `max_steps`, where it is set, is how long a training is, whatever `epochs` says, and `warmup_steps` how long it
    warms up, whatever `warmup_ratio` says. `optim`, `lr_scheduler_kwargs`, the `adam_` numbers and
    `neftune_noise_alpha` are transformers'. `report_to` names trackers, with commas between, that are told the mean
    loss of every `logging_steps` steps.

    Every `eval_steps` steps, and at the end, the loss on validation rows is measured. Training stops where it was not
    lower than ever `early_stopping_patience` times in a row, and with `load_best` the model is that of the lowest.
    The newest `save_total_limit` checkpoints are kept, and the best. With `packing` the rows of a pass are put in one
    sequence without seeing each other: the same training without padding.
    """

    learning_rate: float = 2e-5
    epochs: float = 1.0
    batch_size: int = 16
    micro_batch_size: int | None = None
    warmup_ratio: float = 0.03
    schedule: str = "linear"
    weight_decay: float = 0.0
    dropout: float = 0.05
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    save_steps: int | None = None
    seed: int = 0
    max_steps: int | None = None
    warmup_steps: int | None = None
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    optim: str = "adamw_torch"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    neftune_noise_alpha: float | None = None
    eval_steps: int | None = None
    early_stopping_patience: int | None = None
    load_best: bool = False
    packing: bool = False
    save_total_limit: int = 1
    report_to: str = "none"
    logging_steps: int = 1

    REFUSED: ClassVar[dict[str, str]] = SAID_OTHERWISE

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "the learning rate must be positive", got=self.learning_rate)
        require(self.epochs > 0, "the number of epochs must be positive", got=self.epochs)
        require(self.batch_size >= 1, "the batch size must be at least 1", got=self.batch_size)
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)", got=self.dropout)
        for name in COUNTS:
            value = getattr(self, name)
            require(value is None or value >= 1, "a number must be at least 1", where=name, got=value)
        _require_known("schedule", self.schedule, SCHEDULES)
        _require_known("optim", self.optim, OPTIMISERS, OTHER_OPTIMISERS)
        for name in self.trackers:
            _require_known("report_to", name, TRACKERS)
        self._check_numbers()
        self._check_pairs()

    def _check_numbers(self) -> None:
        betas = (self.adam_beta1, self.adam_beta2)
        require(all(0 <= b < 1 for b in betas), "betas must be in [0, 1)", where="adam_beta1, adam_beta2", got=betas)
        require(self.adam_epsilon > 0, "epsilon must be positive", where="adam_epsilon", got=self.adam_epsilon)
        alpha, warm = self.neftune_noise_alpha, self.warmup_steps
        require(alpha is None or alpha > 0, "the noise must be positive", where="neftune_noise_alpha", got=alpha)
        require(warm is None or warm >= 0, "the number of steps cannot be negative", where="warmup_steps", got=warm)

    def _check_pairs(self) -> None:
        decides = {
            "early_stopping_patience": self.early_stopping_patience is not None,
            "load_best": self.load_best,
            "schedule": self.schedule in BY_VALIDATION,
        }
        require(
            self.eval_steps is not None or not any(decides.values()),
            "nothing is measured while training to decide by",
            where=", ".join(name for name, used in decides.items() if used),
            do="set train.eval_steps",
        )
        require(
            self.warmup_steps is None or self.schedule not in BY_VALIDATION,
            "the schedule has no warm-up",
            where="warmup_steps, schedule",
            got=self.schedule,
            do="leave warmup_steps out",
        )
        require(
            self.neftune_noise_alpha is None or not self.packing,
            "the noise is divided by the length of a sequence, which packing changes",
            where="neftune_noise_alpha, packing",
            do="set one of them",
        )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in `report_to`."""
        names = (name.strip() for name in self.report_to.split(","))
        return tuple(dict.fromkeys(name for name in names if name not in ("", "none")))

    def decisive(self) -> dict[str, Any]:
        """The settings, those at their defaults that change nothing learned, and later ones only where they are used.

        Those that change nothing say how a step is divided, what is kept, and what is told to whom.
        """
        same = replace(self, **{name: USUAL[name] for name in SAME})
        return {name: value for name, value in same.to_mapping().items() if name not in LATER or value != USUAL[name]}


def _require_known(where: str, value: str, known: Iterable[str], others: dict[str, str] | None = None) -> None:
    """Refuse a name that is not known, with the reason where it begins like one of `others`."""
    if value in known:
        return
    why = next((reason for name, reason in (others or {}).items() if value.startswith(name)), None)
    if why is not None:
        raise ConfigError(f"`{value}` is not taken: {why}", where=where, expected=" | ".join(known))
    raise ConfigError(
        "value is not one of the named choices",
        where=where,
        expected=" | ".join(known),
        got=repr(value),
        do=did_you_mean(value, known),
    )


USUAL = TrainConfig().to_mapping()
SAME = (
    "micro_batch_size",
    "gradient_checkpointing",
    "save_steps",
    "packing",
    "save_total_limit",
    "report_to",
    "logging_steps",
)
"""Settings that change nothing learned."""
LATER = frozenset(list(USUAL)[list(USUAL).index("seed") + 1 :])
"""Settings that there were not always: a recipe without them keeps its keys, and its checkpoints."""
