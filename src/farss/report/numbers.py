"""Numbers for people: estimates read from the report, and their text on the page and on the terminal."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MINUS = "−"
MISSING = "–"
NARROW_INTERVAL = 0.02  # below this width one decimal of a percentage is shown


@dataclass(frozen=True)
class Estimate:
    """A measured value and, where it was computed, its interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return self.low is not None and self.high is not None

    def ends(self) -> tuple[float, ...]:
        """The value and, where known, the two ends."""
        return (self.value, *(v for v in (self.low, self.high) if v is not None and self.has_interval))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is known and zero lies outside it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals share a value; an estimate without interval is a point."""
        a, b = self.ends(), other.ends()
        return min(a) <= max(b) and min(b) <= max(a)

    def __neg__(self) -> Estimate:
        """The estimate of the opposite difference."""
        return Estimate(-self.value, None if self.high is None else -self.high, None if self.low is None else -self.low)


def estimate(raw: Any) -> Estimate | None:
    """The estimate in a report entry: an object with value, low and high, a bare number, or nothing."""
    if isinstance(raw, dict):
        value = finite(raw.get("value"))
        return None if value is None else Estimate(value, finite(raw.get("low")), finite(raw.get("high")))
    value = finite(raw)
    return None if value is None else Estimate(value)


def finite(raw: Any) -> float | None:
    """`raw` as a float if it is a finite number, else None."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not math.isfinite(raw):
        return None
    return float(raw)


def decimal(value: float, places: int = 3) -> str:
    """A plain decimal with a true minus sign; never minus zero."""
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float, places: int = 3) -> str:
    """A decimal that always carries its sign, for differences."""
    text = decimal(value, places)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def percent(value: float, places: int = 0) -> str:
    """A share as a percentage without the sign, for example `93`."""
    return decimal(100 * value, places)


def percent_places(found: Estimate) -> int:
    """How many decimals a percentage needs so that its interval does not collapse."""
    narrow = found.low is not None and found.high is not None and found.high - found.low < NARROW_INTERVAL
    return 1 if narrow else 0


def rate(value: float) -> str:
    """A learning rate as people write it: 2e-4, 0.001 as 1e-3."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: float) -> str:
    """A count: whole up to 9999, then with thousands set apart, from a million in M and B."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 1e4 else f"{value:.0f}"


def ratio(value: float) -> str:
    """A ratio to a reference: × 0.92."""
    return f"× {value:.2f}"


def share(value: float) -> str:
    """A share of the whole as a percentage with two digits that matter: 7.2 %, 0.34 %."""
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def with_indices(text: str) -> Markup:
    """`text` escaped, with the index of the measures' names set low: K_p, T_l, KT_l."""
    return Markup(re.sub(r"\b(KT|K|T)_([a-z])\b", r"\1<sub>\2</sub>", str(escape(text))))


def tagged(value: float, text: str) -> Markup:
    """`text` in a `data` element that carries the exact value from the report."""
    return Markup('<data value="{}">{}</data>').format(repr(value), text)


def cell(found: Estimate | None, places: int = 3, *, sign: bool = False, why: str = "not measured") -> Markup:
    """A table cell's content: the value and, smaller, its interval; a dash that says why where there is none."""
    if found is None:
        return Markup('<span class="missing" title="{}">{}</span>').format(why, MISSING)
    write = signed if sign else decimal
    value = tagged(found.value, write(found.value, places))
    if found.low is None or found.high is None:
        return value
    low, high = tagged(found.low, write(found.low, places)), tagged(found.high, write(found.high, places))
    return value + Markup(' <span class="ci">[{},\u00a0{}]</span>').format(low, high)


def shown(raw: Any, write: Any) -> Markup:
    """A single number of the report written by `write`, tagged; a dash where it is missing."""
    value = finite(raw)
    return cell(None) if value is None else tagged(value, escape(write(value)))
