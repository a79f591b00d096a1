"""Log probabilities of given answers and responses, in nats, batched and with the shared beginning read once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farss.errors import DataError, NumericalError
from farss.evaluation.prefix import Prefix, device_of, encode, logits_at, measuring, read_prefix
from farss.evaluation.records import Progress
from farss.evaluation.window import check_embedded, within_window
from farss.model.calibration import Example, pad_token

LOGITS_PER_BATCH = 2**28
"""Most logits (positions times vocabulary) computed at once: 0.5 GiB in bfloat16."""
_ROWS_IN_FLOAT32 = 256  # logits turned into float32 at once, so that the copy stays small


@dataclass(frozen=True)
class TokenScores:
    """Likelihood of one answer.

    Attributes:
        log_prob: mean log probability per answer token, in nats.
        total: sum over the answer tokens, in nats.
        tokens: number of answer tokens.
        hit: every answer token is the model's most probable one, so greedy decoding spells the answer.
    """

    log_prob: float
    total: float
    tokens: int
    hit: bool


@dataclass(frozen=True)
class Continuation:
    """A context and what follows it, as token ids; both hold at least one."""

    context: tuple[int, ...]
    target: tuple[int, ...]


def answer_log_probs(
    model: nn.Module,
    tokenizer: Any,
    prefix: str,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[TokenScores]:
    """How probable each answer is after `prefix + prompt`.

    The scored text is `prefix + prompt + " " + answer`, split into tokens as lm-eval does (see `continuations`). The
    result does not depend on `batch_tokens` or on the order of questions beyond rounding.

    Args:
        model: a causal language model, with or without a PEFT adapter; only read.
        tokenizer: its tokenizer.
        prefix: few-shot examples common to all questions, "" for none; the model reads it once.
        prompts: one per answer; the same question may be asked with several answers.
        answers: without leading space.
        batch_tokens: most tokens of a batch, prefix and padding included.
        progress: called with (answers done, answers in all).

    Returns:
        One TokenScores per answer, in order.

    Raises:
        DataError: if the lists differ in length, an answer has no token or is longer than the model reads, or a token
            has no embedding.
    """
    if not prompts and not answers:
        return []
    pairs = fitting(model, continuations(tokenizer, [prefix + prompt for prompt in prompts], answers))
    with measuring(model):
        shared = read_prefix(model, [pair.context for pair in pairs]) if prefix else Prefix()
        return score(model, pairs, shared, pad_id=pad_token(tokenizer), batch_tokens=batch_tokens, progress=progress)


def response_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    pad_id: int,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[tuple[float, int]]:
    """Negative log probability of each response given its prompt.

    Args:
        model: a causal language model; only read.
        examples: what `encode_rows` returns; prompts of at least one token.
        pad_id: id written at padded positions.
        batch_tokens: most tokens of a batch, padding included.
        progress: called with (examples done, examples in all).

    Returns:
        Per example, in order: nats summed over the response tokens, and their number.

    Raises:
        DataError: if a prompt or a response has no token.
    """
    pairs, owners = answers_of(examples)
    scores = continuation_scores(model, pairs, pad_id=pad_id, batch_tokens=batch_tokens, progress=progress)
    return summed_answers(scores, owners, len(examples))


def continuation_scores(
    model: nn.Module,
    pairs: Sequence[Continuation],
    *,
    pad_id: int,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[TokenScores]:
    """How probable each target is after its context; contexts that are too long are cut at their beginning.

    Args:
        model: a causal language model, with or without a PEFT adapter; only read.
        pairs: contexts and targets as token ids.
        pad_id: id written at padded positions.
        batch_tokens: most tokens of a batch, padding included.
        progress: called with (pairs done, pairs in all).

    Raises:
        DataError: if a target is longer than the model reads, or a token has no embedding.
    """
    pairs = fitting(model, pairs)
    with measuring(model):
        return score(model, pairs, Prefix(), pad_id=pad_id, batch_tokens=batch_tokens, progress=progress)


def answers_of(examples: Sequence[Example]) -> tuple[list[Continuation], list[int]]:
    """Every answer of every example with all that comes before it, and the number of the example it is of.

    Raises:
        DataError: if an answer has no token, or nothing before it.
    """
    found = [(Continuation(*answer), i) for i, example in enumerate(examples) for answer in example.answers()]
    empty = [i for pair, i in found if not pair.context or not pair.target]
    if empty:
        raise DataError("an example has no prompt or no response token", where=f"example {empty[0]}")
    return [pair for pair, _ in found], [i for _, i in found]


def summed_answers(scores: Sequence[TokenScores], owners: Sequence[int], examples: int) -> list[tuple[float, int]]:
    """Nats and tokens of the answers of each example together."""
    sums = [(0.0, 0)] * examples
    for found, i in zip(scores, owners, strict=True):
        sums[i] = (sums[i][0] - found.total, sums[i][1] + found.tokens)
    return sums


def continuations(tokenizer: Any, contexts: Sequence[str], answers: Sequence[str]) -> list[Continuation]:
    """Contexts and answers as token ids, by lm-eval's rule.

    White space at the end of the context moves to the answer; context and whole text are tokenised; what the whole has
    beyond the context's tokens is the answer. Only where the context's tokens do not begin the whole's (a token spans
    the boundary) ours differs: the answer is then tokenised by itself, so that the scored ids always spell the text.
    An empty context becomes the BOS token, or EOS if there is none.

    Raises:
        DataError: if the lists differ in length or an answer has no token.
    """
    if len(contexts) != len(answers):
        raise DataError("every answer needs its question", expected=len(contexts), got=len(answers))
    stripped = [context.rstrip() for context in contexts]
    moved = [context[len(kept) :] for context, kept in zip(contexts, stripped, strict=True)]
    spoken = [
        gap + answer if gap.endswith(" ") else f"{gap} {answer}" for gap, answer in zip(moved, answers, strict=True)
    ]
    wholes = encode(tokenizer, [s + answer for s, answer in zip(stripped, spoken, strict=True)])
    pairs = []
    for begin, whole, answer in zip(encode(tokenizer, stripped), wholes, spoken, strict=True):
        opening = begin or [_opening_token(tokenizer)]
        target = whole[len(begin) :]
        if whole[: len(begin)] != begin or not begin:
            target = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not answer.strip() or not target:
            raise DataError("an answer has no token", where=f"answer {len(pairs)}", got=repr(answer))
        pairs.append(Continuation(tuple(opening), tuple(target)))
    return pairs


def fitting(model: nn.Module, pairs: Sequence[Continuation]) -> list[Continuation]:
    """The pairs, contexts cut at their beginning where both together are longer than the model reads.

    Raises:
        DataError: if a token has no embedding, or a target alone is too long.
    """
    check_embedded(model, [pair.context + pair.target for pair in pairs])
    read = [len(pair.target) - 1 for pair in pairs]  # the last token is predicted, and not read
    contexts = within_window(model, [pair.context for pair in pairs], read)
    return [Continuation(context, pair.target) for context, pair in zip(contexts, pairs, strict=True)]


def _opening_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise DataError("an empty question needs a BOS or EOS token to begin with", do="ask the question in words")


def score(
    model: nn.Module,
    pairs: Sequence[Continuation],
    shared: Prefix,
    *,
    pad_id: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[TokenScores]:
    """Likelihood of every target after its context, whose beginning `shared` the model has already read.

    Args:
        model: a causal language model in evaluation mode.
        pairs: contexts that all begin with `shared.ids` and are longer than it.
        shared: from `read_prefix`, or an empty Prefix.
        pad_id: id written at padded positions.
        batch_tokens: most tokens of a batch, shared beginning and padding included.
        progress: called with (pairs done, pairs in all).

    Raises:
        NumericalError: if the model gives NaN or infinite log probabilities.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    found: dict[int, TokenScores] = {}
    for batch in _batches(_readings(pairs), batch_tokens, max(1, LOGITS_PER_BATCH // vocabulary)):
        found.update(_score_batch(model, batch, shared, pad_id))
        if progress is not None:
            progress(len(found), len(pairs))
    return [found[i] for i in range(len(pairs))]


@dataclass(frozen=True)
class _Reading:
    """One sequence that the model reads, for every pair that differs from the others in its last token only.

    The last target token is only predicted, never read, so options of one token each cost one sequence together.

    Attributes:
        ids: the sequence, shared beginning included.
        targets: how many tokens are predicted, the last one included.
        lasts: number of a pair -> its last token.
    """

    ids: tuple[int, ...]
    targets: int
    lasts: dict[int, int]


def _readings(pairs: Sequence[Continuation]) -> list[_Reading]:
    found: dict[tuple[tuple[int, ...], int], _Reading] = {}
    for number, pair in enumerate(pairs):
        ids, size = (pair.context + pair.target)[:-1], len(pair.target)
        found.setdefault((ids, size), _Reading(ids, size, {})).lasts[number] = pair.target[-1]
    return list(found.values())


def _batches(readings: Sequence[_Reading], tokens: int, targets: int) -> Iterator[list[_Reading]]:
    """Batches, longest sequences first, within the limits on padded tokens and on predicted positions."""
    batch: list[_Reading] = []
    width = predicted = 0
    for reading in sorted(readings, key=lambda reading: -len(reading.ids)):
        wanted = reading.targets
        if batch and ((len(batch) + 1) * width > tokens or predicted + wanted > targets):
            yield batch
            batch, predicted = [], 0
        width = width if batch else len(reading.ids)
        batch.append(reading)
        predicted += wanted
    if batch:
        yield batch


def _score_batch(model: nn.Module, batch: list[_Reading], shared: Prefix, pad_id: int) -> dict[int, TokenScores]:
    """The scores of every pair of these readings, by the pair's number."""
    logits = _logits(model, batch, shared, pad_id)
    rows, tokens, first = [], [], 0
    for reading in batch:
        before = reading.ids[len(reading.ids) - reading.targets + 1 :]
        last = first + reading.targets - 1
        rows += [*range(first, last), *[last] * len(reading.lasts)]
        tokens += [*before, *reading.lasts.values()]
        first = last + 1
    log_probs, greedy = _gold(logits, rows, tokens)
    sizes = [reading.targets - 1 + len(reading.lasts) for reading in batch]
    scores: dict[int, TokenScores] = {}
    for reading, part, best in zip(batch, log_probs.split(sizes), greedy.split(sizes), strict=True):
        size = reading.targets
        for place, number in enumerate(reading.lasts, start=size - 1):
            chosen = torch.cat([part[: size - 1], part[place : place + 1]])
            hit = bool(best[: size - 1].all() and best[place])
            scores[number] = TokenScores(float(chosen.mean()), float(chosen.sum()), size, hit)
    return scores


def _logits(model: nn.Module, batch: list[_Reading], shared: Prefix, pad_id: int) -> Tensor:
    """Logits [N, vocabulary] of all predicted positions, N of them, readings in order."""
    start = len(shared)
    rests = [reading.ids[start:] for reading in batch]
    width = max(map(len, rests))
    ids = torch.full((len(batch), width), pad_id)
    mask = torch.ones((len(batch), start + width), dtype=torch.int64)
    predicts = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, (reading, rest) in enumerate(zip(batch, rests, strict=True)):
        ids[row, : len(rest)] = torch.tensor(rest)
        mask[row, start + len(rest) :] = 0
        predicts[row, len(rest) - reading.targets : len(rest)] = True
    device = device_of(model)
    cache = shared.repeated(len(batch))
    return logits_at(
        model,
        predicts,
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=torch.arange(start, start + width, device=device).expand(len(batch), -1),
        use_cache=cache is not None,
        **({} if cache is None else {"past_key_values": cache}),
    )


def _gold(logits: Tensor, rows: list[int], tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Log probability (float64, CPU) of each token at its row of the logits, and whether it is the most probable one.

    Args:
        logits: [N, vocabulary].
        rows: [M], ascending.
        tokens: [M].

    Returns:
        Two tensors [M].
    """
    log_probs, greedy = [], []
    for first in range(0, len(logits), _ROWS_IN_FLOAT32):
        exact = logits[first : first + _ROWS_IN_FLOAT32].float()
        part = slice(bisect_left(rows, first), bisect_left(rows, first + len(exact)))
        places = torch.tensor(rows[part], device=exact.device) - first
        gold = torch.tensor(tokens[part], device=exact.device)
        log_probs.append((exact[places, gold] - exact.logsumexp(1)[places]).double().cpu())
        greedy.append((exact.argmax(1)[places] == gold).cpu())
    found = torch.cat(log_probs)
    if not found.isfinite().all():
        raise NumericalError(
            "the model gives NaN or infinite log probabilities",
            got=f"{int((~found.isfinite()).sum())} of {len(found)} tokens of a batch",
            do="the training may have diverged: lower the learning rate",
        )
    return found, torch.cat(greedy)
