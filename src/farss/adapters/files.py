"""Adapters on disk in the form they are trained in: a PEFT folder and the plan.

`FOLDER/` is the adapter as PEFT itself writes it, in the checkpoints of a trainer too: to any loader an ordinary LoRA
on the original base model, with what it started from beside it, so that training can go on. `FOLDER/plan.json` is the
plan with the fingerprint of the base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from farss.adapters.accounting import check_accounted, check_vocabulary, note_changes, weight_sums
from farss.adapters.apply import check_plan
from farss.adapters.base_starts import check_start, with_start
from farss.adapters.factors import Factors
from farss.adapters.foreign_config import CONFIGURATION, check_config, check_patterns, check_sizes
from farss.adapters.forms import DRAWN, AdapterForm, adapter_form, own_forms
from farss.adapters.layers import refuse_adapters, set_mode, trained_adapter
from farss.adapters.older import REFERENCE, Stored, upgraded
from farss.adapters.provenance import Provenance, provenance_of, remember
from farss.adapters.shapes import Pair, Shape, mark_, marks_of
from farss.adapters.triplets import KIND, has_triplets, uncut
from farss.errors import AdapterError, PlanError, StorageError
from farss.foreign import foreign
from farss.model import sources
from farss.model.ends import Taught
from farss.model.plan import Plan
from farss.storage import new_folder, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PLAN_FILE = "plan.json"
UNUSABLE = "the adapter cannot be loaded on this model"
BASE_FINGERPRINT = "farss.base_fingerprint"
ASKED_FOR = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "bias")
"""What every reader of a LoRA's configuration asks for."""


def write_lora_folder(
    folder: Path,
    config: LoraConfig,
    factors: Mapping[str, Factors],
    fingerprint: str | None = None,
    magnitudes: Mapping[str, Tensor] | None = None,
    *,
    lean: bool = False,
) -> None:
    """Write an ordinary PEFT LoRA folder: configuration and safetensors, nothing else.

    Args:
        folder: an existing folder.
        config: ranks, alphas and target modules.
        factors: up [m, r] and down [r, n] per module name of the base model.
        fingerprint: of the base model, kept in the metadata of the tensor file.
        magnitudes: m [out] per module name, for DoRA.
        lean: as for `write_config`.

    Raises:
        StorageError: if a file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, part in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = part.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = part.up
    for name, norms in (magnitudes or {}).items():
        tensors[f"base_model.model.{name}.lora_magnitude_vector"] = norms
    metadata = {"format": "pt"} | ({BASE_FINGERPRINT: fingerprint} if fingerprint else {})
    write_tensors(folder / WEIGHTS_FILE, tensors, metadata)
    write_config(folder, config, lean=lean)


def write_config(folder: Path, config: PeftConfig, *, lean: bool = False) -> None:
    """Write a PEFT configuration as its own `save_pretrained` does, its sets in a fixed order.

    Args:
        folder: of the adapter.
        config: of any kind.
        lean: leave out the keys that have their default, but those that every reader asks for: older versions of PEFT
            refuse a key that they do not know.

    Raises:
        StorageError: if the file cannot be written.
    """
    try:
        config.save_pretrained(str(folder))
        content = CONFIGURATION.read_object(folder / CONFIG_FILE)
    except OSError as error:
        raise StorageError("the adapter configuration could not be written", where=folder, got=str(error)) from error
    if isinstance(content.get("target_modules"), list):
        content["target_modules"] = sorted(content["target_modules"])
    if lean:
        usual = type(config)().to_dict()
        content = {key: value for key, value in content.items() if key in ASKED_FOR or value != usual.get(key)}
        content.pop("peft_version", None)
    write_json(folder / CONFIG_FILE, content)


def save_adapter(model: PeftModel, folder: str | Path, *, taught: Taught | None = None) -> None:
    """Write the adapter in use so that `load_adapter` brings back the same model, ready to train on.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`, trained or not.
        folder: new or empty.
        taught: how the model is to be asked and where it stops; written beside the adapter.

    Raises:
        AdapterError: if the model has no such adapter.
        StorageError: if the folder is not empty or cannot be written.
    """
    adapter = trained_adapter(model)
    if adapter not in getattr(model, "peft_config", {}):
        raise AdapterError(f"the model has no adapter `{adapter}`", do="save the model returned by `farss.apply`")
    provenance = provenance_of(model)
    with new_folder(folder) as path:
        _save_one(model, adapter, path)
        if provenance is not None:
            provenance.plan.save(path / PLAN_FILE)
        if taught is not None:
            taught.write_beside(model.get_base_model(), path)


def load_adapter(
    base: nn.Module,
    folder: str | Path,
    *,
    trainable: bool = True,
    dropout: float | None = None,
    fingerprint: str | None = None,
) -> PeftModel:
    """Put a saved adapter on its base model.

    Reads folders of `save_adapter`, checkpoints that a trainer made of such a model, exported adapters and any other
    LoRA folder of PEFT. A residual adapter changes the weights of `base` again, as `apply` did.

    Args:
        base: the base model; it will contain the adapter layers.
        folder: the adapter.
        trainable: whether adapter "default" requires gradients.
        dropout: probability of dropping an input entry while training; None keeps the saved one.
        fingerprint: of `base`, where it is known already; None computes it when the folder names one.

    Raises:
        AdapterError: if the folder is missing or damaged, or the adapter was made for another base model.
    """
    folder = Path(folder)
    refuse_adapters(base)
    check_before_loading(base, folder)
    plan = Plan.load(folder / PLAN_FILE) if (folder / PLAN_FILE).exists() else None
    stored = _read(folder)
    _check_base(base, folder, plan, stored.base_fingerprint, fingerprint)
    check_vocabulary(base, folder, stored.tensors)
    with foreign(AdapterError, UNUSABLE, where=folder):
        stored = stored if plan is not None else with_start(base, stored)
    form = DRAWN if plan is None else adapter_form(plan)
    shape = _shape(stored) if plan is None else _planned_shape(folder, form, plan, stored)
    if dropout is not None:
        stored.config.lora_dropout = dropout
    training, before = base.training, weight_sums(base)
    ours = plan is not None or shape != Shape()
    with foreign(AdapterError, UNUSABLE, where=folder):
        model = _wrap(base, stored, shape, trainable) if ours else _foreign(base, folder, stored.config, trainable)
    check_accounted(model, folder, stored.tensors)
    note_changes(model, before)
    if ours:
        form.join_(model)
    set_mode(model, training)
    if plan is not None:
        remember(model, Provenance(plan))
    return model


def _read(folder: Path) -> Stored:
    from peft import PeftConfig

    tensors, metadata = tensors_of(folder)
    with foreign(AdapterError, UNUSABLE, where=folder):
        stored = Stored(PeftConfig.from_pretrained(str(folder)), tensors, metadata.get(BASE_FINGERPRINT))
    return upgraded(folder, stored, lambda part: tensors_of(part)[0])


def _shape(stored: Stored) -> Shape:
    """The shape of a saved adapter without a plan, by its tensors."""
    shapes = [shape for form in own_forms() for shape in form.shapes]
    marks = marks_of(stored.tensors, shapes)
    return next((shape() for shape in shapes if shape.marks == marks), Shape())


def _planned_shape(folder: Path, form: AdapterForm, plan: Plan, stored: Stored) -> Shape:
    """The shape of a saved adapter by its plan and its tensors.

    Raises:
        AdapterError: if the plan subtracts a start that is not in the file.
    """
    found = marks_of(stored.tensors, [shape for each in (*own_forms(), form) for shape in each.shapes])
    shape = form.shape(plan, subtracts=found == Pair.marks)
    if form.lacks_start(shape) or (shape.marks and shape.marks != found):
        raise AdapterError(
            "the folder holds the trained half of its adapter alone: what it started from is not there",
            where=folder,
            expected=f"the tensors of a plan of {plan.method}",
            got="a plain LoRA",
            do="use the folder as it was written; it cannot be put together again from this half",
        )
    return shape


def _foreign(base: nn.Module, folder: Path, config: PeftConfig, trainable: bool) -> PeftModel:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder), config=config, is_trainable=trainable)  # type: ignore[arg-type]


def _wrap(base: nn.Module, stored: Stored, shape: Shape, trainable: bool) -> PeftModel:
    """`base` with the stored adapter, as `PeftModel.from_pretrained` makes it; only the shape is ours."""
    from peft import get_peft_model, set_peft_model_state_dict

    stored.config.inference_mode = not trainable
    config = mark_(stored.config, shape) if stored.config.peft_type == "LORA" else stored.config
    model = get_peft_model(base, config)  # type: ignore[arg-type]  # any nn.Module will do
    set_peft_model_state_dict(model, stored.tensors)
    return model  # type: ignore[return-value]


def base_name_of(folder: str | Path) -> str:
    """The name or folder of the base model that an adapter folder was made for.

    Raises:
        AdapterError: if the folder holds no adapter, or does not say.
    """
    config = read_config(Path(folder))
    name = config.get("base_model_name_or_path")
    if not name:
        raise AdapterError("the adapter does not name its base model", where=folder, do="name it with `--model`")
    return name


def _save_one(model: PeftModel, adapter: str, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    with uncut(model) if has_triplets(model) else nullcontext():
        tensors = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
        config = replace(model.peft_config[adapter], inference_mode=True)  # type: ignore[type-var]  # a dataclass
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
    write_config(folder, config)


def check_before_loading(base: nn.Module, folder: Path) -> None:
    """Check what a folder has PEFT do: its settings, its ranks against its tensors, its patterns on the base's modules.

    Raises:
        AdapterError: if it holds no LoRA adapter, or names what is wrong.
    """
    for part in (folder, folder / REFERENCE):
        if part == folder or (part / CONFIG_FILE).exists():
            config = read_config(part)
            check_sizes(config, tensors_of(part)[0], part)
            check_patterns(config, base, part)
            check_start(config, part)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a LoRA (or AdaLoRA) folder.

    Raises:
        AdapterError: if the folder holds no such adapter, or its configuration is none that PEFT may be given.
    """
    config = read_any_config(folder)
    if config["peft_type"] not in ("LORA", KIND):
        got = config["peft_type"]
        raise AdapterError("the folder holds no LoRA adapter", where=folder, expected="peft_type LORA", got=got)
    return config


def read_any_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter folder of any kind that PEFT knows.

    Raises:
        AdapterError: if the folder holds no adapter, or its configuration is none that PEFT may be given.
    """
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise AdapterError(
            "the folder holds no adapter",
            where=folder,
            expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}",
            got="not a folder" if not folder.is_dir() else ", ".join(sorted(p.name for p in folder.iterdir())[:8]),
        )
    config = CONFIGURATION.read_object(folder / CONFIG_FILE)
    check_config(config, folder)
    return config


def tensors_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of an adapter folder.

    Raises:
        AdapterError: if the file is missing or damaged.
    """
    try:
        return read_tensors(folder / WEIGHTS_FILE)
    except StorageError as error:
        raise AdapterError(
            "the adapter's weights cannot be read", where=folder / WEIGHTS_FILE, got=error.got
        ) from error


def _check_base(
    base: nn.Module, folder: Path, plan: Plan | None, made_for: str | None, fingerprint: str | None
) -> None:
    try:
        if plan is not None:
            check_plan(base, plan, fingerprint)
            return
    except PlanError as error:
        raise AdapterError(
            "the adapter was made for another base model",
            where=folder,
            expected=error.expected,
            got=error.got,
            do="load the base model named in the adapter's configuration",
        ) from error
    actual = (fingerprint or sources.fingerprint(base)) if made_for else None
    if made_for != actual:
        raise AdapterError("the adapter was made for another base model", where=folder, expected=made_for, got=actual)
