"""Fine-tuning of language models without forgetting.

The five lines in somebody's own trainer:

    plan = farss.plan(model, calibration_loader, farss.FarssConfig(rank=128, shallow_layers=7))
    peft_model = farss.apply(model, plan)
    trainer = SFTTrainer(model=peft_model, ...); trainer.train()
    farss.export(peft_model, "out", to="peft")

The verbs of the command, as functions that take a recipe and fill a folder:

    recipe = farss.Recipe.from_yaml("my.yaml")
    farss.run(recipe, "runs/mine")
    farss.init(recipe, "farss", "init"); farss.train(recipe, "init", "trained")
    farss.evaluate(recipe, ("facts",), "results", adapters=["trained/adapter"])
    farss.audit(recipe, farss.Subject(adapter=Path("trained/adapter")), "audit")
    farss.compare([Path("runs/mine"), Path("trained/adapter")], Path("both"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farss.adapters.apply import apply
    from farss.adapters.export import export
    from farss.config import FarssConfig, ModelConfig, Recipe
    from farss.errors import FarssError
    from farss.experiment.auditing import audit
    from farss.experiment.initialisation.initialising import initialise as init
    from farss.experiment.initialisation.planning import plan
    from farss.experiment.runs.compare import compare
    from farss.experiment.runs.run import run
    from farss.experiment.scoring import evaluate
    from farss.experiment.steps import fine_tune as train
    from farss.experiment.subjects import Subject
    from farss.model.plan import Plan
    from farss.model.sources import load

__version__ = "0.1.0"
__all__ = [
    "FarssConfig",
    "FarssError",
    "ModelConfig",
    "Plan",
    "Recipe",
    "Subject",
    "apply",
    "audit",
    "compare",
    "evaluate",
    "export",
    "init",
    "load",
    "plan",
    "run",
    "train",
]

# Imported on first use, so that `import farss` and `farss --help` need not wait for torch.
_HOMES = {
    "FarssConfig": "farss.config:FarssConfig",
    "FarssError": "farss.errors:FarssError",
    "ModelConfig": "farss.config:ModelConfig",
    "Plan": "farss.model.plan:Plan",
    "Recipe": "farss.config:Recipe",
    "Subject": "farss.experiment.subjects:Subject",
    "apply": "farss.adapters.apply:apply",
    "audit": "farss.experiment.auditing:audit",
    "compare": "farss.experiment.runs.compare:compare",
    "evaluate": "farss.experiment.scoring:evaluate",
    "export": "farss.adapters.export:export",
    "init": "farss.experiment.initialisation.initialising:initialise",
    "load": "farss.model.sources:load",
    "plan": "farss.experiment.initialisation.planning:plan",
    "run": "farss.experiment.runs.run:run",
    "train": "farss.experiment.steps:fine_tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'farss' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
