"""A row as text: what the model reads, and which of its characters it learns."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """One row in one template.

    Attributes:
        text: the whole text.
        learned: begin and end of the characters that are learned, ascending, none overlapping.
        opened: the text holds its special tokens (a chat template wrote them), so the tokenizer adds none.
        closed: the text ends as the template ends it; else the end-of-sequence token is appended, and learned.
        divided: where prompt and answer are tokenised apart, as the template `plain` always did; None for one piece.
    """

    text: str
    learned: tuple[Span, ...]
    opened: bool = False
    closed: bool = False
    divided: int | None = None

    @property
    def prompt(self) -> str:
        """What comes before the last learned part: the text that an answer is asked for with."""
        return self.text[: self.learned[-1][0]]
