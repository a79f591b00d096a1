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

SETTINGS_FILE, TEMPLATE_FILE = "generation_config.json", "chat_template.jinja"
SETTINGS = Document("generation settings", AdapterError, most_bytes=MIB)
TEMPLATE = Document("chat template", AdapterError, most_bytes=MIB)


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


@dataclass(frozen=True)
class Taught:
    """What stands beside a trained model, so that it is asked as it was taught and stops where it was taught to.

    Attributes:
        ends: ids of tokens that end an answer beside the end of sequence.
        template: the chat template it was taught in, where that is not its tokenizer's own.
    """

    ends: tuple[int, ...] = ()
    template: str | None = None

    def write_beside(self, model: nn.Module, folder: Path) -> None:
        """Write it into the folder of an adapter of `model`: the model's generation settings, and the template.

        Raises:
            StorageError: if it cannot be written.
        """
        stop_at_(model, self.ends)
        settings = getattr(model, "generation_config", None)
        try:
            if self.ends and settings is not None:
                settings.save_pretrained(str(folder))
            if self.template is not None:
                (folder / TEMPLATE_FILE).write_text(self.template, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                "what an adapter was taught could not be written", where=folder, got=str(error)
            ) from error

    def asking(self, tokenizer: Any) -> Any:
        """The tokenizer with the template."""
        if self.template is None or tokenizer is None:
            return tokenizer
        copied = copy.copy(tokenizer)
        copied.chat_template = self.template
        return copied


def taught_beside(folder: str | Path) -> Taught:
    """What stands beside an adapter; nothing of what is not there.

    Raises:
        AdapterError: if it cannot be used.
    """
    settings, template = Path(folder) / SETTINGS_FILE, Path(folder) / TEMPLATE_FILE
    ends = _ends_in(settings) if settings.is_file() else ()
    return Taught(ends, TEMPLATE.read_text(template) if template.is_file() else None)


def _ends_in(file: Path) -> tuple[int, ...]:
    named = SETTINGS.read_object(file).get("eos_token_id")
    tokens = named if isinstance(named, list) else [] if named is None else [named]
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise AdapterError("an end of sequence is no token id", where=file, expected="eos_token_id: [1, 2]", got=named)
    return tuple(tokens)
