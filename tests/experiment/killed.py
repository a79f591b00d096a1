"""An initialisation in a process of its own, which writes as often as it can, so that it can be killed anywhere."""

from __future__ import annotations

import warnings


def initialise_in(recipe: dict, out: str, engine: str) -> None:
    import torch

    from farss.config import Recipe
    from farss.experiment.initialisation.initialising import initialise
    from farss.statistics import keeping

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keeping.KEEP_SECONDS = 0.0
    initialise(Recipe.from_mapping(recipe), "farss", out, engine=engine)
