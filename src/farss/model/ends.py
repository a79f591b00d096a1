"""Where a model stops writing: the end of a turn that it is taught, beside its end-of-sequence token.

A chat template may close an answer with a token that is no end of sequence to the model (Gemma's `<end_of_turn>`,
ChatML's on a base model). A model that learned it writes it, and whoever lets the model write has to stop there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from farss.errors import AdapterError, StorageError
from farss.reading import MIB, Document

SETTINGS_FILE = "generation_config.json"
SETTINGS = Document("generation settings", AdapterError, most_bytes=MIB)


@dataclass(frozen=True)
class Ends:
    """What ends an answer beside the end-of-sequence token.

    Attributes:
        tokens: ids of tokens that are one of a kind.
        texts: ends that are ordinary text.
    """

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


def ends_of(tokenizer: Any, text: str | None) -> Ends:
    """The ends that a turn's end is told by: its first token, where that is a special or an added one, else its text.

    Args:
        tokenizer: a transformers tokenizer.
        text: what a template writes behind an answer; None or white space tells nothing.
    """
    if text is None or not text.strip():
        return Ends()
    ids = tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    if ids and (ids[0] in tokenizer.all_special_ids or ids[0] in tokenizer.added_tokens_decoder):
        return Ends(() if ids[0] == tokenizer.eos_token_id else (ids[0],))
    return Ends(texts=(text.rstrip(),))


def stop_at_(model: nn.Module, tokens: Sequence[int]) -> None:
    """Add tokens to those at which the model's generation settings have it stop; a model without settings has none."""
    settings = getattr(model, "generation_config", None)
    if settings is None or not tokens:
        return
    named = settings.eos_token_id
    known = [] if named is None else [named] if isinstance(named, int) else list(named)
    settings = copy.deepcopy(settings)  # copies of a model share them
    settings.eos_token_id = list(dict.fromkeys([*known, *tokens]))
    model.generation_config = settings


def write_stops(model: nn.Module, folder: Path) -> None:
    """Put the model's generation settings beside its adapter, for whoever lets its base write.

    Raises:
        StorageError: if they cannot be written.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    try:
        settings.save_pretrained(str(folder))
    except OSError as error:
        raise StorageError("the generation settings could not be written", where=folder, got=str(error)) from error


def stops_beside(folder: str | Path) -> tuple[int, ...]:
    """Ids of the tokens that end an answer by the generation settings beside an adapter; none where there are none.

    Raises:
        AdapterError: if these are no settings.
    """
    file = Path(folder) / SETTINGS_FILE
    if not file.is_file():
        return ()
    named = SETTINGS.read_object(file).get("eos_token_id")
    tokens = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise AdapterError("an end of sequence is no token id", where=file, expected="eos_token_id: [1, 2]", got=named)
    return tuple(tokens)
