"""What a model has a row for: the token ids of its embeddings and the positions of its table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from farss.errors import DataError
from farss.model.calibration import Batch

GIVE_ROWS = (
    "take the tokenizer that belongs to the model, or enlarge its embeddings and save it: resize_token_embeddings"
)
STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary positions whose factor reaches beyond the positions that the configuration counts."""

SAID = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"}
"""Ids that a configuration names and that stand for themselves in a text."""


def embedding_rows(model: Any) -> int:
    """How many token ids have an embedding; a configuration of several parts need not say it."""
    return int(model.get_input_embeddings().weight.shape[0])


def placeholders(config: Any) -> set[int]:
    """Ids that stand for an image or a sound and are no words, as the configuration names them."""
    named = {
        value
        for key, value in vars(config).items()
        if key.endswith(("_token_id", "_token_index")) and key not in SAID and isinstance(value, int)
    }
    return {value for value in named if value >= 0}


def random_words(model: Any, shape: tuple[int, int], *, seed: int) -> Tensor:
    """Token ids [b, t] on the model's device, drawn from `seed` among those that have an embedding and are words."""
    rows, apart = embedding_rows(model), placeholders(model.config)
    ids = torch.randint(rows, shape, generator=torch.Generator().manual_seed(seed))
    if apart:
        word = next(token for token in range(rows) if token not in apart)
        ids = torch.where(torch.isin(ids, torch.tensor(sorted(apart))), word, ids)
    return ids.to(model.get_input_embeddings().weight.device)


def vocabulary_of(config: Any) -> int | None:
    """How many token ids a configuration's language model has an embedding for; None where it does not say."""
    found = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    return found if isinstance(found, int) else None


def window_of(config: Any) -> int | None:
    """The longest text, in tokens, that a configuration's language model reads; None where nothing bounds it.

    The rows of a table of positions, or what rotary positions were trained for, stretched as the configuration says.
    """
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    rotary = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rotary.get("rope_type", rotary.get("type")) not in STRETCHED:
        return positions
    begun = rotary.get("original_max_position_embeddings") or positions
    return max(positions, math.floor(begun * float(rotary.get("factor") or 1)))


def check_ids(texts: Iterable[Sequence[int]], vocabulary: int | None, rows: Sequence[object], tokenizer: Any) -> None:
    """Check that every token of every text has an embedding.

    Args:
        texts: token ids.
        vocabulary: how many ids have one; None is not checked.
        rows: what each text is called in the message.
        tokenizer: spells the token.

    Raises:
        DataError: naming the row and the token.
    """
    for row, ids in zip(rows, texts, strict=True):
        if vocabulary is not None and ids and max(ids) >= vocabulary:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise _without_embedding(row, f"`{token}`, id {max(ids)}", vocabulary)


def check_batches(model: Any, queue: Sequence[Batch]) -> None:
    """Check, before the model runs, that it has a row for every token id and position of the batches.

    Raises:
        DataError: naming the batch and its row.
    """
    vocabulary, window = embedding_rows(model), window_of(model.config)
    for number, batch in enumerate(queue):
        real = batch.input_ids * batch.attention_mask
        if int(batch.input_ids.max()) >= vocabulary or int(batch.input_ids.min()) < 0:
            row, place = divmod(int(batch.input_ids.argmax()), batch.input_ids.shape[1])
            masked = "" if int(real[row, place]) else " (padding)"
            raise _without_embedding(
                f"batch {number}, row {row}", f"id {int(batch.input_ids.max())}{masked}", vocabulary
            )
        lengths = batch.attention_mask.sum(1)
        if window is not None and int(lengths.max()) > window:
            raise DataError(
                "a text is longer than the model reads",
                where=f"batch {number}, row {int(lengths.argmax())}",
                expected=f"at most {window} tokens (max_position_embeddings)",
                got=f"{int(lengths.max())} tokens",
                do="cut the texts, or lower max_length",
            )


def _without_embedding(row: object, token: str, vocabulary: int) -> DataError:
    return DataError(
        "a token has no embedding in the model",
        where=row,
        expected=f"token ids from 0 to {vocabulary - 1}",
        got=token,
        do=GIVE_ROWS,
    )
