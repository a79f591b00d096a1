"""How methods are shown: a proper name, a colour and a mark for each, the same in every figure and table.

A method carries its own as the attribute `look`. The marks of farss's methods all differ, so that they are told apart
in print and by readers who see few colours; related methods have related hues. A method of another package that says
nothing gets a look by its name, in a colour that none of farss's methods has.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farss.errors import ConfigError

if TYPE_CHECKING:
    from farss.methods.base import Method

MARKS = (
    "circle",
    "square",
    "diamond",
    "up",
    "down",
    "left",
    "right",
    "star",
    "plus",
    "cross",
    "hexagon",
    "pentagon",
    "hourglass",
    "bowtie",
    "star4",
    "star6",
    "dome",
    "bowl",
    "bar",
    "plank",
    "chevron",
)
"""The marks that figures can draw."""

FREE_COLOURS = ("#6b6a2e", "#7d4a2b", "#56626f", "#9c3f63")
"""Colours of methods that have none of their own."""

COLOUR = re.compile(r"#[0-9a-f]{6}")
LONGEST_LABEL = 24


@dataclass(frozen=True)
class Look:
    """The name, colour and mark of one method.

    Attributes:
        label: its proper name, at most `LONGEST_LABEL` characters.
        colour: `#rrggbb` in small letters; pages darken or lighten it as far as their paper asks.
        mark: one of `MARKS`.

    Raises:
        ConfigError: if one of them is not of this form.
    """

    label: str
    colour: str
    mark: str

    def __post_init__(self) -> None:
        label = self.label if isinstance(self.label, str) else ""
        if not label.strip() or len(label) > LONGEST_LABEL or not label.isprintable():
            raise ConfigError(
                "a method's label must be a short text", expected=f"1 to {LONGEST_LABEL} characters", got=repr(label)
            )
        if not isinstance(self.colour, str) or not COLOUR.fullmatch(self.colour):
            raise ConfigError("a method's colour must be written in full", expected="#rrggbb", got=repr(self.colour))
        if self.mark not in MARKS:
            raise ConfigError("there is no such mark", expected=" | ".join(MARKS), got=repr(self.mark))


def look_of(method: Method) -> Look:
    """The method's own look, or one made from its name."""
    own = getattr(method, "look", None)
    return own if isinstance(own, Look) else look_by_name(method.name)


def look_by_name(name: str, turn: int = 0) -> Look:
    """A look for a method that has none of its own; the same for the same name.

    Args:
        name: of the method; also its label, cut where it is too long.
        turn: the next look for the same name, where the first one is taken.
    """
    label = "".join(sign if sign.isprintable() else "?" for sign in name).strip() or "?"
    if len(label) > LONGEST_LABEL:
        label = label[: LONGEST_LABEL - 1] + "…"
    place = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big") + turn
    colour, mark = FREE_COLOURS[place % len(FREE_COLOURS)], MARKS[place // len(FREE_COLOURS) % len(MARKS)]
    return Look(label, colour, mark)
