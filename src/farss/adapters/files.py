"""Adapters on disk in the form they are trained in: two PEFT folders and the plan.

`FOLDER/` is the trainable adapter as PEFT writes it, `FOLDER/reference/` the frozen one (the layout PEFT itself gives
the checkpoints of a trainer), `FOLDER/plan.json` the plan with the fingerprint of the base model, and, in the residual
form, `FOLDER/removed.safetensors` what was taken out of the base weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from farss.adapters.apply import check_plan, subtract_
from farss.adapters.factors import Factors
from farss.adapters.foreign_config import CONFIGURATION, check_config, check_patterns, check_sizes
from farss.adapters.gated import restore_gates_
from farss.adapters.layers import DEFAULT, REFERENCE, refuse_adapters, set_mode
from farss.adapters.pairs import activate, hold, is_pair, join
from farss.adapters.provenance import Provenance, provenance_of, remember
from farss.adapters.triplets import KIND, has_triplets, uncut
from farss.errors import AdapterError, PlanError, StorageError
from farss.foreign import foreign
from farss.model import sources
from farss.model.plan import Plan
from farss.storage import new_folder, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PLAN_FILE = "plan.json"
REMOVED_FILE = "removed.safetensors"
UNUSABLE = "the adapter cannot be loaded on this model"
BASE_FINGERPRINT = "farss.base_fingerprint"


def write_lora_folder(
    folder: Path,
    config: LoraConfig,
    factors: Mapping[str, Factors],
    fingerprint: str | None = None,
    magnitudes: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an ordinary PEFT LoRA folder: configuration and safetensors, nothing else.

    Args:
        folder: an existing folder.
        config: ranks, alphas and target modules.
        factors: up [m, r] and down [r, n] per module name of the base model.
        fingerprint: of the base model, kept in the metadata of the tensor file.
        magnitudes: m [out] per module name, for DoRA.

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
    write_config(folder, config)


def write_config(folder: Path, config: PeftConfig) -> None:
    """Write a PEFT configuration as its own `save_pretrained` does, its sets in a fixed order.

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
    write_json(folder / CONFIG_FILE, content)


def save_adapter(model: PeftModel, folder: str | Path) -> None:
    """Write an adapter so that `load_adapter` brings back the same model, ready to train on.

    Args:
        model: a PEFT model made by `apply` or `load_adapter`, trained or not.
        folder: new or empty.

    Raises:
        AdapterError: if the model has no adapter called "default".
        StorageError: if the folder is not empty or cannot be written.
    """
    if DEFAULT not in getattr(model, "peft_config", {}):
        raise AdapterError(f"the model has no adapter `{DEFAULT}`", do="save the model returned by `farss.apply`")
    provenance = provenance_of(model)
    with new_folder(folder) as path:
        _save_one(model, DEFAULT, path)
        if is_pair(model):
            (path / REFERENCE).mkdir()
            _save_one(model, REFERENCE, path / REFERENCE)
        if provenance is not None:
            provenance.plan.save(path / PLAN_FILE)
            if provenance.removed is not None:
                tensors = {f"{name}.up": part.up for name, part in provenance.removed.items()}
                tensors |= {f"{name}.down": part.down for name, part in provenance.removed.items()}
                write_tensors(path / REMOVED_FILE, tensors)


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
    from peft import PeftConfig, PeftModel

    folder = Path(folder)
    refuse_adapters(base)
    check_before_loading(base, folder)
    plan = Plan.load(folder / PLAN_FILE) if (folder / PLAN_FILE).exists() else None
    stored = {DEFAULT: _stored(folder)}
    if (folder / REFERENCE / CONFIG_FILE).exists():
        stored[REFERENCE] = _stored(folder / REFERENCE)
    removed = _removed(folder)
    _check_base(base, folder, plan, stored[DEFAULT][1].get(BASE_FINGERPRINT), fingerprint)
    training = base.training
    with foreign(AdapterError, UNUSABLE, where=folder):
        config = PeftConfig.from_pretrained(str(folder))
        if dropout is not None:
            config.lora_dropout = dropout  # type: ignore[attr-defined]  # a LoRA folder holds a LoRA configuration
        model = PeftModel.from_pretrained(base, str(folder), config=config, is_trainable=trainable)  # type: ignore[arg-type]
    restore_gates_(model, stored[DEFAULT][0], trainable=trainable)
    _check_loaded(model, folder, DEFAULT, stored[DEFAULT][0])
    if REFERENCE in stored:
        with foreign(AdapterError, UNUSABLE, where=folder / REFERENCE):
            model.load_adapter(str(folder / REFERENCE), REFERENCE)
        _check_loaded(model, folder / REFERENCE, REFERENCE, stored[REFERENCE][0])
        join(model)
        activate(model, trainable=trainable)
    if plan is not None:
        hold(model, plan.frozen)
    set_mode(model, training)
    if plan is not None:
        if removed is not None:
            subtract_(model, plan, removed)
        remember(model, Provenance(plan, removed))
    return model


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
            check_sizes(config, _stored(part)[0], part)
            check_patterns(config, base, part)


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


def _stored(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def _removed(folder: Path) -> dict[str, Factors] | None:
    if not (folder / REMOVED_FILE).exists():
        return None
    tensors, _ = read_tensors(folder / REMOVED_FILE)
    names = [key.removesuffix(".up") for key in tensors if key.endswith(".up")]
    return {name: Factors(tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in names}


def _check_loaded(model: PeftModel, folder: Path, adapter: str, stored: dict[str, Tensor]) -> None:
    """PEFT only warns when tensors are missing; an adapter that is half random must not pass."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False))
    differing = sorted(wanted ^ set(stored))
    if differing:
        raise AdapterError(
            "the adapter's weights do not match its configuration",
            where=folder,
            expected=f"{len(wanted)} tensors",
            got=f"{len(stored)}; differing: {', '.join(differing[:3])}",
        )
