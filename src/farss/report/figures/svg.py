"""SVG elements as escaped text: what every figure is built from."""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup

CHARACTER_WIDTH = 0.6  # of the font size: a cautious mean over the sans-serif fonts a reader may have


def number(value: float) -> str:
    """`value` with at most two decimals, as short as SVG allows."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def element(name: str, *children: str, **attributes: object) -> str:
    """One element; `children` are SVG already, attribute values are escaped here.

    Args:
        name: the tag.
        children: finished SVG, joined as is; plain text goes through `words` first.
        attributes: `class_` means `class`, other underscores become hyphens, None leaves the attribute out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        shown = number(value) if isinstance(value, float) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{' '.join(parts)}>{''.join(children)}</{name}>"


def words(text: object) -> str:
    """`text` escaped for use between tags."""
    return escape(str(text))


def formula(text: str) -> str:
    """`text` escaped, with the index of names such as K_p set low."""
    low = r'\1<tspan dy="3" font-size="0.76em">\2</tspan><tspan dy="-3">&#8203;</tspan>'
    return re.sub(r"\b(KT|K|T)_([a-z])\b", low, words(text))


def label(x: float, y: float, text: object, **attributes: object) -> str:
    """A text element at (`x`, `y`), its content escaped."""
    return element("text", words(text), x=float(x), y=float(y), **attributes)


def tip(text: object) -> str:
    """The `title` child that browsers show on hovering and screen readers speak."""
    return element("title", words(text))


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), **attributes)


def polyline(points: list[tuple[float, float]], **attributes: object) -> str:
    """An open line through `points` in pixels; nothing when fewer than two remain."""
    if len(points) < 2:
        return ""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return element("path", d=f"M{steps}", fill="none", **attributes)


def picture(width: float, height: float, title: str, description: str, *body: str, class_: str = "") -> Markup:
    """A whole figure with its title and description for those who cannot see it.

    Args:
        width: of the view box and, at most, of the figure on the page, in pixels.
        height: in pixels.
        title: what the figure is, in a few words.
        description: what can be seen in it, in a sentence.
        body: finished SVG.
        class_: further style-sheet classes, for example `wide` or `narrow`.
    """
    return Markup(
        element(
            "svg",
            element("title", words(title)),
            element("desc", words(description)),
            *body,
            xmlns="http://www.w3.org/2000/svg",
            class_=f"figure {class_}".strip(),
            viewBox=f"0 0 {number(width)} {number(height)}",
            width=float(width),
            height=float(height),
            role="img",
        )
    )


def text_width(text: str, size: float) -> float:
    """A cautious guess at the width of `text` in pixels at font size `size`."""
    return CHARACTER_WIDTH * size * len(text)
