"""Colours as the paper asks for them: contrast, and what is mixed in where it is too small."""

from __future__ import annotations

LIGHT_PAPER = "#fcfbf8"
NIGHT_PAPER = "#15161a"
LEAST_CONTRAST = {LIGHT_PAPER: 3.0, NIGHT_PAPER: 4.5}
"""What marks must have against the paper (WCAG 2.2 asks 3 of graphics); thin lines on dark paper need more."""
STEPS = 50


def readable(colour: str, paper: str) -> str:
    """`colour`, with as much black (on light paper) or white (on dark paper) mixed in as its contrast needs.

    Args:
        colour: `#rrggbb`.
        paper: `LIGHT_PAPER` or `NIGHT_PAPER`.
    """
    far = "#000000" if luminance(paper) > 0.5 else "#ffffff"
    mixed = (mix(colour, far, step / STEPS) for step in range(STEPS + 1))
    return next(found for found in mixed if contrast(found, paper) >= LEAST_CONTRAST[paper])


def mix(first: str, second: str, share: float) -> str:
    """`first` with this share of `second`, channel by channel."""
    pairs = zip(_channels(first), _channels(second), strict=True)
    return "#" + "".join(f"{round(255 * (a + (b - a) * share)):02x}" for a, b in pairs)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance, 0 of black to 1 of white."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
