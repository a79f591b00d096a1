"""Encoders with a classification head: loading one, and which of its modules the head is."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from farss.config import Dtype, ModelConfig
from farss.errors import ConfigError, ModelError
from farss.foreign import foreign
from farss.model.arithmetic import HALF, Arithmetic, name_of
from farss.model.checkpoint import check_finite, check_folder, quiet
from farss.model.fingerprints import fingerprint
from farss.model.sources import LoadedModel, arithmetic_of, name_model, resolve

POOLER = "pooler"
"""What BERT-like encoders call the layer between their last block and the head."""


def load_classifier(
    config: ModelConfig, classes: int, *, seed: int = 0, device: torch.device | str = "cpu"
) -> LoadedModel:
    """The encoder that `config` names with a head for `classes` classes; 1 stands for a regression.

    What of the head the checkpoint does not hold is drawn from `seed` as transformers draws it; a pooler that it does
    hold is taken over.

    Args:
        config: name, revision, dtype and whether the model's own code may run.
        classes: number of outputs.
        seed: of the head's random numbers; torch's global generator is left alone.
        device: where to put the model.

    Raises:
        ConfigError: if half precision is asked for.
        ModelError: if the model is not found, damaged, unsafe to load, has no sequence classifier in transformers,
            lacks weights of its encoder, or its tokenizer cannot pad.
    """
    folder = resolve(config.name, config.revision)
    check_folder(folder, trust_remote_code=config.trust_remote_code)
    tokenizer = _tokenizer(folder, config.trust_remote_code)
    decided = agreeing_with_head(arithmetic_of(config, torch.device(device)), config.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, missing = _classifier(folder, config, decided.weights, classes)
    outside = sorted(name for name in missing if not _inside(name, head_modules(model)))
    if outside:
        raise ModelError(
            "the checkpoint lacks weights of the encoder",
            where=folder,
            expected=", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else ""),
            do="name an encoder whose checkpoint is whole",
        )
    check_finite(model, where=folder)
    name_model(model, config.name, folder)
    return LoadedModel(model.eval().to(device), tokenizer, config.name, folder, fingerprint(model), decided)


def agreeing_with_head(decided: Arithmetic, wanted: Dtype) -> Arithmetic:
    """The arithmetic of an encoder whose head is learned beside it: no weights in half precision.

    Learned weights are float32, and what the encoder hands to its head has to be of the same dtype wherever training's
    autocast is over: in evaluation and in export.

    Args:
        decided: as for a model alone.
        wanted: `model.dtype`.

    Raises:
        ConfigError: if half precision is asked for.
    """
    if decided.weights not in map(name_of, HALF):
        return decided
    if wanted != "auto":
        raise ConfigError(
            "an encoder in half precision does not agree with its head, which is learned in float32",
            where="model.dtype",
            expected="auto or float32",
            got=wanted if wanted == decided.weights else f"{wanted}, which is {decided.weights}",
            do="train.precision bfloat16 still computes the training's products in half precision",
        )
    training = decided.training if decided.training == name_of(torch.bfloat16) else name_of(torch.float32)
    reason = "the encoder has to agree with its head, which is learned in float32"
    return dataclasses.replace(decided, weights=name_of(torch.float32), training=training, reason=reason)


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that make logits of the encoder's last hidden states, those closest to the encoder first.

    These are the encoder's pooler, where there is one, and the modules with parameters beside the encoder.

    Raises:
        ModelError: if the model is no encoder with a head.
    """
    prefix = getattr(model, "base_model_prefix", "")
    encoder = getattr(model, prefix, None) if prefix else None
    beside = [
        name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())
    ]
    if encoder is None or not beside:
        raise ModelError(
            "the model has no classification head beside an encoder",
            got=type(model).__name__,
            do="load it as AutoModelForSequenceClassification",
        )
    pooler = getattr(encoder, POOLER, None)
    return (*([f"{prefix}.{POOLER}"] if isinstance(pooler, nn.Module) else []), *beside)


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of `head_modules`, by their names in `model`.

    Raises:
        ModelError: if the model is no encoder with a head.
    """
    heads = head_modules(model)
    return {name: parameter for name, parameter in model.named_parameters() if _inside(name, heads)}


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))


def _classifier(folder: Any, config: ModelConfig, dtype: str, classes: int) -> tuple[Any, list[str]]:
    from transformers import AutoModelForSequenceClassification

    with foreign(ModelError, "the model cannot be loaded as a classifier", where=folder), quiet():
        answer: Any = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=classes,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
        )
    model, loading = answer
    return model, list(loading["missing_keys"])


def _tokenizer(folder: Any, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    with foreign(ModelError, "the tokenizer cannot be loaded", where=folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "the tokenizer has no padding token, which classifiers are batched with",
            where=folder,
            do='set it once: tokenizer.pad_token = "..."; tokenizer.save_pretrained(FOLDER)',
        )
    return tokenizer
