"""Parts of the accounts that stages and steps leave."""

from __future__ import annotations

from typing import Any

from farss.experiment.initialisation.streaming import StreamedModel
from farss.model.sources import LoadedModel


def describe_model(loaded: LoadedModel | StreamedModel, targets: list[Any]) -> dict[str, Any]:
    """Name, fingerprint, number of parameters and of layers, of a model in memory or on disk."""
    layers = {target.layer for target in targets if target.layer is not None}
    return {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "layers": len(layers),
    }
