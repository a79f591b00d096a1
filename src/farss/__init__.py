"""Fine-tuning of language models without forgetting.

The five lines in somebody's own trainer:

    plan = farss.plan(model, calibration_loader, farss.FarssConfig(rank=128, shallow_layers=7))
    peft_model = farss.apply(model, plan)
    trainer = SFTTrainer(model=peft_model, ...); trainer.train()
    farss.export(peft_model, "out", to="peft")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farss.adapters.apply import apply
    from farss.adapters.export import export
    from farss.config import FarssConfig, ModelConfig, Recipe
    from farss.errors import FarssError
    from farss.experiment.initialisation.planning import plan
    from farss.model.plan import Plan
    from farss.model.sources import load

__version__ = "0.1.0"
__all__ = ["FarssConfig", "FarssError", "ModelConfig", "Plan", "Recipe", "apply", "export", "load", "plan"]

# Imported on first use, so that `import farss` and `farss --help` need not wait for torch.
_HOMES = {
    "FarssConfig": "farss.config",
    "FarssError": "farss.errors",
    "ModelConfig": "farss.config",
    "Plan": "farss.model.plan",
    "Recipe": "farss.config",
    "apply": "farss.adapters.apply",
    "export": "farss.adapters.export",
    "load": "farss.model.sources",
    "plan": "farss.experiment.initialisation.planning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'farss' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
