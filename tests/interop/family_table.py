"""What works for a family of models, tried on a tiny one: a row of the table in docs/models.md.

`python -m tests.interop.family_table FAMILY ...` prints the rows of these families, or of all.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tests.families import FAMILIES, saved

import farss
from farss.errors import FarssError, ModelError
from farss.experiment.initialisation.streaming import StreamedModel
from farss.model.blocks import NotAChain
from farss.model.calibration import Batch
from farss.model.sources import load
from farss.model.spectra import SpectrumCache
from farss.model.targets import find_targets

FORMS = ("peft", "portable", "merged", "residual")
CLOSE, MOVED = 1e-4, 1e-3
HEADER = ("family", "needs `init.exclude`", "experts", "resident", "streamed", *FORMS)
EXCLUDED = {
    "DeepSeek-V3": ("gate_proj", "up_proj", "down_proj"),
    "Qwen3-Next": ("gate_proj", "up_proj", "down_proj"),
    "Mamba": ("dt_proj", "out_proj"),
}


def row(family: str, place: Path, tokenizer: Any) -> list[str]:
    """The cells of one family; "yes" stands for what was tried and gave the right outputs."""
    folder = saved(family, place / "model", tokenizer)
    exclude = EXCLUDED.get(family, ())
    config = farss.FarssConfig(rank=2, r_avg=1, r_max=2, shallow_layers=1, exclude=exclude)
    model = _whole(folder)
    if exclude and _refusal(model) is None:
        raise AssertionError(f"{family} needs no exclusion")
    plan = farss.plan(model, _calibration(), config)
    before = _logits(model)
    trained = farss.apply(model, plan)
    _train(trained)
    after = _logits(trained)
    assert float((after - before).abs().max()) > MOVED
    exports = [_exported(trained, folder, place / form, form, before, after) for form in FORMS]
    experts = "left out" if plan.coverage["stacked"] else ""
    return [family, ", ".join(exclude), experts, "yes", _streamed(folder, config, plan, place), *exports]


def table(rows: list[list[str]]) -> str:
    """Rows of cells as Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(cell or '-' for cell in line)} |" for line in lines)


def _calibration() -> list[Batch]:
    ids = torch.randint(4, 90, (4, 12), generator=torch.Generator().manual_seed(1))
    return [Batch(ids, torch.ones_like(ids), ids)]


def _refusal(model: Any) -> ModelError | None:
    try:
        farss.plan(model, _calibration(), farss.FarssConfig(rank=2, r_avg=1, r_max=2, shallow_layers=1))
    except ModelError as error:
        return error
    return None


def _whole(folder: Path) -> Any:
    return load(farss.ModelConfig(name=str(folder), dtype="float32")).model


def _logits(model: Any) -> torch.Tensor:
    ids = torch.randint(4, 90, (2, 10), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def _train(model: Any) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))


def _streamed(folder: Path, config: farss.FarssConfig, wanted: farss.Plan, place: Path) -> str:
    source = StreamedModel(farss.ModelConfig(name=str(folder), dtype="float32"))
    assert source.fingerprint == wanted.model_fingerprint
    try:
        evidence = source.evidence("farss", _calibration(), config, SpectrumCache(place / "spectra"))
    except NotAChain:
        return "no"
    from farss.methods import get_method

    targets = find_targets(source.model, config.targets, config.exclude, in_memory=False)
    plan = get_method("farss").plan(targets, evidence, config)
    same = [(t.name, t.rank, t.indices) for t in plan.targets] == [(t.name, t.rank, t.indices) for t in wanted.targets]
    return "yes" if same else "another plan"


def _exported(trained: Any, folder: Path, out: Path, form: str, before: torch.Tensor, after: torch.Tensor) -> str:
    try:
        farss.export(trained, out, to=form)
    except FarssError as error:
        return error.what
    if form == "merged":
        served = type(trained.get_base_model()).from_pretrained(out)
    else:
        base = type(trained.get_base_model()).from_pretrained(out / "base") if form == "residual" else _whole(folder)
        served = PeftModel.from_pretrained(base, str(out))
    found = _logits(served)
    reaches = float((found - before).abs().max()) > MOVED
    return "yes" if reaches and float((found - after).abs().max()) < CLOSE * float(after.abs().max() + 1) else "wrong"


if __name__ == "__main__":
    from tests.conftest import tiny_tokenizer

    warnings.simplefilter("ignore")
    words = tiny_tokenizer.__wrapped__() if hasattr(tiny_tokenizer, "__wrapped__") else tiny_tokenizer()
    with tempfile.TemporaryDirectory() as place:
        print(table([row(name, Path(place) / str(i), words) for i, name in enumerate(sys.argv[1:] or FAMILIES)]))
