"""The choices of the authors' published code where they differ from the paper, in one place.

`compat="published-code"` reproduces that code's plans for comparison. Beside the settings below it

- reads `shallow_layers` as the index of the last shallow layer, 0 if unset (`base.shallow_layer_count`);
- takes the lowest directions wherever the rank is below 128, else the highest, in every layer (`rank_rule`);
- builds the factors of Fisher-scored methods from sqrt(sigma) without dividing by the scale
  (`Plan.factor_scaling = "published"`; PiSSA and MiLoRA divide in their own published codes);
- falls back to equal importances when their sum is below an absolute threshold (`published_importance`).

What it cannot reproduce is unseeded there: the random subset of token rows in batches of more than 1024 tokens, which
does not occur with two sequences of 512.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from farss.config import FarssConfig
from farss.model.calibration import Batch, Example, batches

RANK_RULE_THRESHOLD = 128
"""The published code takes the lowest directions below this rank and the highest from it on."""

PUBLISHED_MAX_BATCHES = 8
PUBLISHED_BATCH_SIZE = 2
PUBLISHED_EPSILON = 1e-12
PUBLISHED_LEAST_IMPORTANCE = 1e-12
"""Sum of importances, in absolute terms, at or below which the published code treats all modules alike."""


def published_code_config(config: FarssConfig) -> FarssConfig:
    """The concrete settings that `compat="published-code"` stands for; any other configuration is returned as it is.

    Call it before collecting curvature, which must count padding and use batch-mean losses too; calling it again
    changes nothing. `rank`, `alpha`, `targets` and the seed stay the user's.

    Raises:
        ConfigError: if the published caps `r_max <= rank`, `r_avg <= r_max` leave `r_min` above them.
    """
    if config.compat != "published-code":
        return config
    r_max = min(config.r_max, config.rank)
    return dataclasses.replace(
        config,
        r_max=r_max,
        r_avg=min(config.r_avg, r_max),
        budget="clip",
        epsilon=PUBLISHED_EPSILON,
        selection="rank_rule",
        scale="alpha_over_r",
        base="residual",
        tokens="all",
        loss_norm="batch_mean",
        fisher="empirical",
        max_batches=PUBLISHED_MAX_BATCHES,
    )


def published_batches(examples: Sequence[Example], *, pad_id: int, max_length: int) -> list[Batch]:
    """The calibration batches of the published code: the first 16 rows in order, two at a time, padded to the maximum.

    Args:
        examples: the shuffled calibration rows, none longer than `max_length`.
        pad_id: id written at padded positions; that code counts them as tokens.
        max_length: width of every batch.
    """
    first = examples[: PUBLISHED_MAX_BATCHES * PUBLISHED_BATCH_SIZE]
    return batches(
        first,
        batch_tokens=PUBLISHED_BATCH_SIZE * max_length,
        pad_id=pad_id,
        pad_to=max_length,
        max_sequences=PUBLISHED_BATCH_SIZE,
        sort=False,
    )


def published_importance(importance: Sequence[float]) -> list[float]:
    """Importances as the published code uses them: all equal when their sum is not above an absolute 1e-12."""
    if sum(importance) <= PUBLISHED_LEAST_IMPORTANCE:
        return [1.0] * len(importance)
    return list(importance)
