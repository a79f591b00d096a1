"""One row as token ids, and which of them are learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

UNSUPERVISED = -100
"""Label of a position that the loss ignores (the convention of PyTorch and transformers)."""


@dataclass(frozen=True)
class Example:
    """One row as token ids: those that are only read, and those that are learned.

    Attributes:
        prompt_ids: what is only read, in order.
        response_ids: what is learned, in order.
        learned_at: positions of `response_ids` in the whole, ascending, where they are not simply what follows the
            prompt: a conversation of which several turns are learned.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    learned_at: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Number of tokens, read and learned."""
        return len(self.prompt_ids) + len(self.response_ids)

    @classmethod
    def marked(cls, ids: list[int], learned: list[bool]) -> Example:
        """The example of a whole row and a mark for each of its tokens."""
        at = tuple(position for position, mark in enumerate(learned) if mark)
        read = tuple(token for token, mark in zip(ids, learned, strict=True) if not mark)
        follows = at == tuple(range(len(read), len(ids)))
        return cls(read, tuple(ids[position] for position in at), None if follows else at)

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids in order."""
        if self.learned_at is None:
            return self.prompt_ids + self.response_ids
        whole, read = [0] * len(self), iter(self.prompt_ids)
        learned = dict(zip(self.learned_at, self.response_ids, strict=True))
        for position in range(len(whole)):
            whole[position] = learned[position] if position in learned else next(read)
        return tuple(whole)

    @property
    def labels(self) -> tuple[int, ...]:
        """For each position the token itself where it is learned, -100 elsewhere (not shifted)."""
        if self.learned_at is None:
            return (UNSUPERVISED,) * len(self.prompt_ids) + self.response_ids
        labels = [UNSUPERVISED] * len(self)
        for position, token in zip(self.learned_at, self.response_ids, strict=True):
            labels[position] = token
        return tuple(labels)

    def answers(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(All before it, the learned tokens) of every unbroken run of learned tokens, in order."""
        if self.learned_at is None:
            yield self.prompt_ids, self.response_ids
            return
        whole, begin = self.ids, 0
        for place, position in enumerate(self.learned_at):
            if place + 1 == len(self.learned_at) or self.learned_at[place + 1] != position + 1:
                yield whole[: self.learned_at[begin]], whole[self.learned_at[begin] : position + 1]
                begin = place + 1

    @property
    def before_answer(self) -> tuple[int, ...]:
        """All ids before the last answer: what the model is asked with."""
        *_, (before, _) = self.answers()
        return before
