"""Numbers as people and models write them: separators, fractions, powers of ten, currencies, LaTeX, number words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 400
"""A longer run of digits is no answer to anything; Python itself refuses to read more than 4,300."""
MOST_EXPONENT = 400

_MINUS = "\u2212\u2012\u2013\ufe63\uff0d"
_SPACES = "\u00a0\u2009\u202f\u2007"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_POWER = re.compile("10([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")

# In this order: what only decorates a number goes, what separates its digits becomes a comma.
_CLEANED = (
    (re.compile(r"(?:[≈~]|\\approx|\\sim)\s*(?=[-$\\\d.])"), ""),
    (re.compile(r"(?<![\d)]\s)\b(?:negative|minus)\s+(?=[$\d.])", re.IGNORECASE), "-"),
    (re.compile(r"(?<=\d)\s*m²"), " square meters"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), " degrees "),
    (re.compile(r"(?<=\d)\s+and\s+(?:a|one)\s+half\b"), " 1/2"),
    (re.compile(r"(?<=\d)\s+and\s+(?:a|one)\s+quarter\b"), " 1/4"),
    (re.compile(r"(?<=\d)\s+and\s+three\s+quarters\b"), " 3/4"),
    (re.compile(r"\\left|\\right|\\displaystyle|\\[;:!]|\\\(|\\\)|\\\[|\\\]|\*\*|__|`"), ""),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|')(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d)_(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname|textit|mathit|underline)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:boxed|fbox)\s*\{"), "{"),
    (re.compile(r"\\[ ,~]|~"), " "),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\\$|\$|€|£|¥|₹|\bUSD|\bUS|\bEUR|\bRs\.?(?=\s*\d)"), " $ "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:times|cdot|ast)"), "*"),
    (re.compile(r"[×·∙]"), "*"),
    (re.compile(r"(?<=\d)\s*x\s*(?=10\s*\^)"), "*"),
    (re.compile(r"-\s*\$\s*"), "-"),
    (re.compile(r"[$]"), " "),
)

_GROUPED = r"\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)|\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)(?:\.\d+)?"
_SPACED = r"\d{1,3}(?:[ ]\d{3})+(?![\d/]|-[A-Za-z])(?:\.\d+)?"
_DECIMAL = rf"(?:{_GROUPED}|{_SPACED}|\d+(?:\.\d+)?|\.\d+)"
_REPEATING = r"(?P<before>\d*)\.(?P<still>\d*)\\(?:overline|bar|dot)\s*\{?(?P<again>\d+)\}?"
_LATEX = r"\\frac\s*\{\s*(?P<top>-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<bottom>-?\d+(?:\.\d+)?)\s*\}"
_WHOLE = r"(?:(?P<whole>\d+)\s*(?:and\s+|\+\s*|-(?=\d+/\d))?)?"
_NUMBER = re.compile(
    rf"(?<![A-Za-z\d.\\_^])(?P<sign>[-+]?)(?:[{{(]\s*)?(?P<inner>-?)"
    rf"(?:{_REPEATING}|{_WHOLE}\s*{_LATEX}"
    rf"|(?:(?P<first>\d+)(?:\s+(?:and\s+)?|-))?(?P<up>\d[\d,]*(?:\.\d+)?)\s*/\s*(?P<down>\d[\d,]*(?:\.\d+)?)(?!\s*/)"
    rf"|10\s*\^\s*\{{?(?P<ten>-?\d+)\}}?"
    rf"|(?P<plain>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+)\b|\s*\*\s*10\s*(?:\^|\*\*)\s*\{{?(?P<power>[-+]?\d+)\}}?)?)"
)
_DIGITS = re.compile(rf"\d{{{MOST_DIGITS},}}")
_AFTER = re.compile(
    r"[\s})\\]*(%|percent\b|¢|cents?\b|dozens?\b|hundred\b|thousand\b|million\b|billion\b|trillion\b|(?<=\d)k\b)",
    re.IGNORECASE,
)
_RAISED = re.compile(r"\s*(?:\^|\*\*)")
_DOLLARS = re.compile(r"\s*dollars?,?\s+(?:and\s+)?", re.IGNORECASE)
_LARGER = re.compile(r"\s*(days?|hours?|hrs?|h|minutes?|mins?|feet|foot|ft)\.?,?\s*(?:and\s+)?", re.IGNORECASE)
_SMALLER = re.compile(r"\s*(hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|inches|inch|in)\b", re.IGNORECASE)
_RATIOS = {("d", "h"): 24, ("h", "m"): 60, ("m", "s"): 60, ("f", "i"): 12}
_SCALES = {
    **dict.fromkeys(("%", "percent", "¢", "cent", "cents"), Fraction(1, 100)),
    **{"dozen": Fraction(12), "dozens": Fraction(12), "hundred": Fraction(100), "k": Fraction(10**3)},
    **{"thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9)},
    "trillion": Fraction(10**12),
}

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: number for number, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_LARGE = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_NAMES = "|".join([*_WORDS, *_LARGE])
_WORD_RUN = re.compile(rf"\b(?:a\s+)?(?:{_NAMES})(?:(?:[\s-]+(?:and\s+)?)(?:{_NAMES}))*\b")
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_PART = re.compile(rf"\b(?:(a|one|two|three|four|five|seven)[\s-]+)?(half|halves|(?:{'|'.join([*_PARTS][2:])})s?)\b")


@dataclass(frozen=True)
class Quantity:
    """A number in a text.

    Attributes:
        value: "2 million" is 2,000,000, "50%" is 50, "2 dozen" is 2, "2 hours 30 minutes" is 2.5.
        scaled: with its sign, its dozens, or in the smaller of its units: one half, 24, 150.
        start: where it begins in the cleaned text.
        end: where it ends there.
    """

    value: Fraction
    scaled: Fraction
    start: int
    end: int

    def equals(self, other: Quantity) -> bool:
        """Whether they are the same number, what is `scaled` counted or not."""
        return bool({self.value, self.scaled} & {other.value, other.scaled})


def cleaned(text: str) -> str:
    """The text without what decorates numbers: currency and dollar signs, Markdown, boxes, LaTeX's spaces and words."""
    for dash in _MINUS:
        text = text.replace(dash, "-")
    for space in _SPACES:
        text = text.replace(space, " ")
    for sign, fraction in _VULGAR.items():
        text = re.sub(rf"(?<=\d){sign}", f" {fraction}", text).replace(sign, fraction)
    text = _POWER.sub(lambda found: f"10^{found[1].translate(_SUPERSCRIPTS)}", text)
    for pattern, instead in _CLEANED:
        text = pattern.sub(instead, text)
    return text


def quantities(text: str) -> list[Quantity]:
    """The numbers of a cleaned text, in order; number words count where there are no digits. None of a too long one."""
    if _DIGITS.search(text):
        return []
    found = []
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None and not _RAISED.match(text, match.end()):
            scale = _AFTER.match(text, match.end())
            factor = _SCALES[scale[1].lower()] if scale else Fraction(1)
            size = value * factor if factor >= 100 else value
            found.append(Quantity(size, value * factor, match.start(), scale.end() if scale else match.end()))
    return _joined(text, found) or _spoken(text.lower())


def _joined(text: str, found: list[Quantity]) -> list[Quantity]:
    """The quantities, with two of a measure in two units ("5 hours and 30 minutes") as one."""
    joined: list[Quantity] = []
    for each in found:
        last = joined[-1] if joined else None
        if (
            last is not None
            and _DOLLARS.fullmatch(text, last.end, each.start)
            and "cent" in text[each.start : each.end]
        ):
            value = last.value + each.scaled
            joined[-1] = Quantity(value, value, last.start, each.end)
            continue
        unit = last and _LARGER.fullmatch(text, last.end, each.start)
        smaller = _SMALLER.match(text, each.end)
        ratio = _RATIOS.get((unit[1][0].lower(), smaller[1][0].lower())) if unit and smaller else None
        if last is None or ratio is None:
            joined.append(each)
        else:
            value = last.value + each.value / ratio
            joined[-1] = Quantity(value, value * ratio, last.start, each.end)
    return joined


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    negative = (part["sign"] == "-") != (part["inner"] == "-")
    try:
        value = _size(part)
    except ZeroDivisionError:
        return None
    if value is None:
        return None
    return -value if negative else value


def _size(part: dict[str, str | None]) -> Fraction | None:
    """The number without its sign; None if it is too large to be meant."""
    if part["again"] is not None:
        whole, still, again = part["before"] or "0", part["still"] or "", part["again"]
        tail = Fraction(int(again), 10 ** len(again) - 1) / 10 ** len(still)
        return Fraction(f"{whole}.{still or 0}") + tail
    if part["top"] is not None and part["bottom"] is not None:
        return int(part["whole"] or 0) + Fraction(part["top"]) / Fraction(part["bottom"])
    if part["up"] is not None and part["down"] is not None:
        return int(part["first"] or 0) + _decimal(part["up"]) / _decimal(part["down"])
    power = int(part["ten"] or part["e"] or part["power"] or 0)
    if abs(power) > MOST_EXPONENT:
        return None
    base = Fraction(1) if part["plain"] is None else _decimal(part["plain"])
    return base * Fraction(10) ** power


def _decimal(text: str) -> Fraction:
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d{1,2}", text):
        text = text.replace(".", "").replace(",", ".")
    return Fraction(text.replace(",", "").replace(" ", ""))


def _spoken(text: str) -> list[Quantity]:
    text = re.sub(r"(?<=thousand|.million|.billion),", " ", text)
    part = _PART.search(text)
    if part is not None and (part[1] or part[2] == "half"):
        value = Fraction(_WORDS.get(part[1] or "one", 1), _PARTS[part[2] if part[2] in _PARTS else part[2][:-1]])
        whole = _spoken(text[: part.start()]) if re.search(r"\band\s*$", text[: part.start()]) else []
        dozen = 12 if re.match(r"\s+(?:a\s+)?dozen\b", text[part.end() :]) else 1
        value = (value + (whole[0].value if whole else 0)) * dozen
        return [Quantity(value, value, part.start(), part.end())]
    return [_counted(run) for run in _WORD_RUN.finditer(text)]


def _counted(run: re.Match[str]) -> Quantity:
    total, group = 0, 0
    for word in re.findall(r"[a-z]+", run[0]):
        if word in _WORDS:
            group += _WORDS[word]
        elif word in ("hundred", "dozen"):
            group = (group or 1) * _LARGE[word]
        elif word in _LARGE:
            total, group = total + (group or 1) * _LARGE[word], 0
    value = Fraction(total + group)
    return Quantity(value, value, run.start(), run.end())
