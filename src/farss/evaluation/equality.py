"""Whether two final answers are the same, as far as reading alone tells; and how the rest is put to math-verify.

The package takes letters for variables and drops units, bases and brackets; what a reader sees there is decided
before it is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from farss.evaluation.answers import answer_number, is_sum, normalise, same_answer, sign_joined
from farss.evaluation.quantities import Quantity, cleaned, quantities

_SAME_UNIT = (
    ("in", "inch", "inches"),
    ("ft", "foot", "feet"),
    ("yd", "yard", "yards"),
    ("mi", "mile", "miles"),
    ("m", "meter", "meters", "metre", "metres"),
    ("cm", "centimeter", "centimeters"),
    ("km", "kilometer", "kilometers"),
    ("g", "gram", "grams"),
    ("kg", "kilogram", "kilograms"),
    ("lb", "lbs", "pound", "pounds"),
    ("oz", "ounce", "ounces"),
    ("ton", "tons"),
    ("s", "sec", "second", "seconds"),
    ("min", "minute", "minutes"),
    ("h", "hr", "hrs", "hour", "hours"),
    ("day", "days"),
    ("week", "weeks"),
    ("month", "months"),
    ("year", "years"),
    ("$", "dollar", "dollars"),
    ("cent", "cents"),
    ("%", "percent"),
    ("degree", "degrees", "°"),
    ("radian", "radians"),
    ("l", "liter", "liters", "litre", "litres"),
    ("ml", "milliliter", "milliliters"),
    ("mm", "millimeter", "millimeters"),
    ("gallon", "gallons"),
    ("cup", "cups"),
)
_KNOWN = {word: names[0] for names in _SAME_UNIT for word in names}

_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z])")
_MATHEMATICAL = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "pi", "sqrt", "max", "min", "mod", "gcd", "lcm")
)
_MARKUP = re.compile(r"\*\*|__|^\s*[-*•]\s+(?=\S)|`|^\s*\*(?=\S)|(?<=\S)\*\s*$|(?<=\s)!+\s*$")
_RATIO, _SHOUTED = re.compile(r"\d+\s*:\s*\d+"), re.compile(r"(\d{1,20})!")
_CLOCK = re.compile(r"\d{1,3}:\d{1,3}")
_DENIAL = frozenset(("not", "no", "neither", "nor", "never", "isn", "t"))
MOST_WORDS = 8
"""Of an answer that has to hold the words of the reference; a longer one may say anything besides."""
_CHOICE = re.compile(r"\(?[A-E]\)?")
_DELIMITER = re.compile(r"\$\$?|\\[\[\]()]")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit|operatorname)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\*?\}|\\[A-Za-z]+")
_ENDS = re.compile(
    r"^(?:\s*[A-Za-z]{2,}\b[,:]?)+\s+(?=[-\d\\(\[{a-zA-Z])"
    r"|\s+(?:[A-Za-z]{2,}(?:\^\d)?[\s.,!]*)+$"
)

_DEGREES = re.compile(r"\\(sin|cos|tan|cot|sec|csc)\s*[({]?\s*(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*[)}]?")
_COLUMN = re.compile(r"\\begin\{([pb]matrix)\}(.*?)\\end\{\1\}", re.DOTALL)
_BASE = re.compile(r"(?<![A-Za-z\d])([\dA-F]+)_\{?(\d+)\}?")
_COMPARED = r"(<|>|\\leq?(?![a-z])|\\geq?(?![a-z])|≤|≥|\\lt(?![a-z])|\\gt(?![a-z]))"
_ONE_SIDED = re.compile(rf"\s*([A-Za-z])\s*{_COMPARED}\s*([^<>=≤≥]+)\s*")
_TWO_SIDED = re.compile(rf"\s*([^<>=≤≥]+?)\s*{_COMPARED}\s*([A-Za-z])\s*{_COMPARED}\s*([^<>=≤≥]+)\s*")
_MEMBER = re.compile(r"\s*[A-Za-z]\s*\\in\s*")
_OR = re.compile(r"\s+(?:or|\\text\{\s*or\s*\}|\\lor)\s+")
_NAMED_PART = re.compile(r"\s*([a-z])\s*=\s*([^=]+?)\s*")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_PLAIN_NAMES = (
    (
        re.compile(r"√\s*\(([^()]*)\)|√\s*\{([^{}]*)\}|√\s*(\d+|[A-Za-z])"),
        lambda f: rf"\sqrt{{{f[1] or f[2] or f[3]}}}",
    ),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)"), lambda f: rf"\sqrt{{{f[1]}}}"),
    (re.compile(r"(?<![\\A-Za-z])(pi|sin|cos|tan|ln|log)(?![A-Za-z])"), lambda f: rf"\{f[1]}"),
    (re.compile(r"(?<=[\w)}])\*\*(?=[\d({-])"), "^"),
    (re.compile(r"\\langle"), "("),
    (re.compile(r"\\rangle"), ")"),
    (re.compile(r"∞|(?<![A-Za-z])infinity(?![A-Za-z])"), r"\\infty"),
    (re.compile(r"\\varnothing|∅|^no (?:real )?solutions?$"), r"\\emptyset"),
)
_INTERVAL = re.compile(r"(?:\\left)?\s*[(\[].*,.*(?:\\right)?[)\]]", re.DOTALL)
_PARENTHESES, _BRACES = re.compile(r"(?:\\left)?\(.*,.*\)", re.DOTALL), re.compile(r"(?:\\left)?\\\{.*\}", re.DOTALL)


@dataclass(frozen=True)
class Measure:
    """A number with what it counts.

    Attributes:
        number: as written.
        unit: its unit's one name; None for a word that is no unit we know, or none.
        power: of the unit.
    """

    number: Quantity
    unit: str | None
    power: str


def read_measure(text: str) -> Measure | None:
    """The text as one number with its unit, in words or symbols; None if it is anything else."""
    degrees = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|°", " degrees", text)
    plain = cleaned(degrees if degrees.lstrip().startswith("-") else _MARKUP.sub("", degrees))
    found = quantities(plain)
    if not found or plain[: found[0].start].strip(" ({["):
        return None
    rest = plain[found[0].end :].strip(" .)}]").rstrip("\\ ")
    shape = re.fullmatch(r"((?:[A-Za-z]{2,}|[A-Za-z](?=\W|$)|[\s./-])*?)\s*(?:\^?\{?([23])\}?)?", rest)
    if shape is None or (len(found) > 1 and not shape[2]):
        return None
    words = _WORD.findall(rest)
    if rest and not words and rest.partition("^")[0].strip() not in ("m", "g", "s", "h", "l"):
        return None
    if set(words) & _MATHEMATICAL or (rest and not words and not re.search(r"\\(?:text|mathrm|mbox)|\s", text)):
        return None
    return Measure(found[0], _unit(text, rest, words), _power(words, shape[2]))


def _unit(text: str, rest: str, words: list[str]) -> str | None:
    if "\\$" in text or text.count("$") % 2:  # a pair of them is LaTeX's
        return "$"
    if re.search(r"%|\bpercent\b", text):
        return "%"
    if re.search(r"¢|\bcents?\b", text, re.IGNORECASE):
        return "cent"
    named = [_KNOWN[word.lower()] for word in [*words, rest.partition("^")[0].strip()] if word.lower() in _KNOWN]
    return named[0] if named else None


def _power(words: list[str], written: str | None) -> str:
    said = {"square": "2", "squared": "2", "sq": "2", "cubic": "3", "cubed": "3"}
    return written or next((said[word.lower()] for word in words if word.lower() in said), "1")


def read_equal(answer: str, gold: str) -> bool | None:
    """Whether an answer is the reference, where reading tells; None where it has to be computed."""
    wanted = read_measure(gold)
    if wanted is not None:
        answer = sign_joined(answer, wanted.number)
        if _RATIO.fullmatch(answer.strip()):
            return False
        shouted = _SHOUTED.fullmatch(answer.strip())
        if shouted and Fraction(shouted[1]) == wanted.number.value:
            return True
    given = read_measure(answer)
    if wanted is not None and given is not None:
        return _same_measure(given, wanted)
    if wanted is not None and (is_prose(answer) or is_sum(answer)):
        if re.search(r"\\sqrt|\\pi|[A-Za-z\d)}]\s*\^", answer):
            return None
        number = answer_number(answer)
        return number is not None and number.equals(wanted.number)
    if (
        _words_only(gold)
        or is_prose(_TEXT.sub(r" \1 ", gold))
        or _CLOCK.fullmatch(gold.strip())
        or _CHOICE.fullmatch(gold.strip())
    ):
        return _same_words(answer, gold) or None
    return _same_base(answer, gold)


def _same_measure(given: Measure, wanted: Measure) -> bool:
    if given.unit and wanted.unit and (given.unit, given.power) != (wanted.unit, wanted.power):
        scales = {given.unit, wanted.unit} == {"$", "cent"}
        return scales and _dollars(given) == _dollars(wanted)
    return given.number.equals(wanted.number)


def _dollars(measure: Measure) -> object:
    return measure.number.scaled if measure.unit == "cent" else measure.number.value


def _words_only(text: str) -> bool:
    plain = _TEXT.sub(r"\1", text).replace("\\ ", "")
    return bool(_TEXT.search(text) or len(plain.strip()) > 2) and not re.search(r"[\\\d^_=+*/<>]", plain)


def _same_words(answer: str, gold: str) -> bool:
    given, wanted = (_TEXT.sub(r" \1 ", _DELIMITER.sub("", _MARKUP.sub("", text))) for text in (answer, gold))
    given = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", given)
    if _CLOCK.fullmatch(wanted.strip()):
        given = re.sub(r"(?<=\d)\s*[ap]\.?m\.?$", "", re.sub(r"(?<=\d)\s+to\s+(?=\d)", ":", given.strip()), flags=re.I)
    words, sought = normalise(given).split(), normalise(wanted).split()
    if words == sought or same_answer(given, wanted):
        return True
    if len(words) > MOST_WORDS or len(wanted.strip()) < 2 or "or" in words:
        return False
    begins = words[: len(sought)] == sought  # "No, it is not even."
    within = any(words[at : at + len(sought)] == sought for at in range(len(words))) and not _DENIAL & set(words)
    return begins or within


def _same_base(answer: str, gold: str) -> bool | None:
    wanted, given = _BASE.fullmatch(gold.strip()), _BASE.fullmatch(_DELIMITER.sub("", answer).strip().rstrip("."))
    if wanted is None:
        return None
    return given is not None and given.groups() == wanted.groups()


def is_prose(answer: str) -> bool:
    """Whether an answer has words of a language in it, outside of LaTeX."""
    plain = _COMMAND.sub(" ", _TEXT.sub(" ", answer))
    return any(_is_language(plain, word) for word in _WORD.finditer(plain))


def _is_language(text: str, word: re.Match[str]) -> bool:
    """Whether a run of letters is a word rather than a product of variables or a function."""
    before, after = text[: word.start()].rstrip()[-1:], text[word.end() :].lstrip()[:1]
    called = text[word.end() : word.end() + 1] == "("
    product = called or (
        (before and before in "+*/^_") or (after and after in "+*/^_") or (len(word[0]) == 2 and "=" in (before, after))
    )
    return word[0].lower() in _KNOWN or (not product and word[0].lower() not in _MATHEMATICAL)


def core(answer: str) -> str:
    """An answer without Markdown, without words around its formula, its list joined by commas."""
    answer = _MARKUP.sub("", answer).strip()
    if "$" in answer.replace("\\$", "") or "\\(" in answer or "\\[" in answer:
        return answer
    answer = re.sub(r"\s*,?\s+(?:and|or)\s+", ", ", answer)
    while is_prose(answer) and (shorter := _ENDS.sub("", answer)) != answer:
        answer = shorter
    return answer.strip()


def prepared(answer: str, gold: str) -> tuple[str, str] | None:
    """Answer and reference as the package sees in them what a reader sees; None where they cannot be the same."""
    answer, gold = as_intervals(as_latex(answer), gold), as_latex(gold.strip())
    answer, gold = (_DEGREES.sub(r"\\\1(\\frac{\2\\pi}{180})", text) for text in (core(answer), gold))
    answer, gold = (text.replace("\\sqrt{-1}", "i") for text in (answer, gold))
    bare = _DELIMITER.sub("", answer).strip()
    if _PARENTHESES.fullmatch(gold) and (named := _named_parts(bare)):
        answer = bare = named
    if _brackets_differ(bare, gold) or _letters_differ(bare, gold):
        return None
    if _MEMBER.match(bare):
        answer = _MEMBER.sub("", bare)
    if _PARENTHESES.fullmatch(gold) and _COLUMN.fullmatch(bare):
        answer = _column_as_tuple(bare)
    if _PARENTHESES.fullmatch(bare) and _COLUMN.fullmatch(gold):
        gold = _column_as_tuple(gold)
    return answer, gold


def as_latex(text: str) -> str:
    """The text with signs and names that LaTeX writes otherwise in LaTeX: roots, powers, pi, functions."""
    for pattern, instead in _PLAIN_NAMES:
        text = pattern.sub(instead, text)
    return _RAISED.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)


def as_intervals(answer: str, gold: str) -> str:
    """Inequalities as intervals, one or joined by "or", where the reference is one; else the answer as it is."""
    parts = [part.strip() for part in _OR.split(_DELIMITER.sub("", answer))]
    if not _INTERVAL.search(gold) or not all(
        _ONE_SIDED.fullmatch(each) or _TWO_SIDED.fullmatch(each) for each in parts
    ):
        return answer
    return " \\cup ".join(as_interval(part) for part in parts)


def _named_parts(text: str) -> str | None:
    """A point from what its coordinates are ("x = 2, y = 3"); None from anything else."""
    found = [_NAMED_PART.fullmatch(part) for part in text.split(",")]
    named = [each for each in found if each is not None]
    if len(named) < max(len(found), 2) or [each[1] for each in named] != sorted({each[1] for each in named}):
        return None
    return f"({','.join(each[2] for each in named)})"


def as_interval(text: str) -> str:
    """An inequality in one letter as an interval; any other text as it is."""
    two = _TWO_SIDED.fullmatch(text)
    if two is not None and _greater(two[2]) == _greater(two[4]):
        low, left, right, high = (two[1], two[2], two[4], two[5])
        if _greater(left):
            low, left, right, high = high, right, left, low
        return f"{'[' if _closed(left) else '('}{low},{high}{']' if _closed(right) else ')'}"
    one = _ONE_SIDED.fullmatch(text)
    if one is None:
        return text
    closed = _closed(one[2])
    if _greater(one[2]):
        return f"{'[' if closed else '('}{one[3]},\\infty)"
    return f"(-\\infty,{one[3]}{']' if closed else ')'}"


def _greater(sign: str) -> bool:
    return sign in (">", "≥", "\\gt") or sign.startswith("\\ge")


def _closed(sign: str) -> bool:
    return sign in ("≤", "≥") or sign.startswith(("\\le", "\\ge"))


def _column_as_tuple(text: str) -> str:
    found = _COLUMN.fullmatch(text)
    assert found is not None
    parts = re.split(r"\\\\|&", found[2])
    return f"({','.join(part.strip() for part in parts)})"


def _brackets_differ(answer: str, gold: str) -> bool:
    """A point is no list without brackets, and a set no point."""
    plain_list = "," in answer and not re.search(r"[()\[\]{}\\|]", answer)
    if _PARENTHESES.fullmatch(gold) and plain_list:
        return True
    return bool(_BRACES.fullmatch(gold) and _PARENTHESES.fullmatch(answer))


def _letters_differ(answer: str, gold: str) -> bool:
    """The same letters, but not in the same case: variables are told apart by it."""
    letters = [set(re.findall(r"[A-Za-z]", _COMMAND.sub(" ", _TEXT.sub(" ", text)))) for text in (answer, gold)]
    folded = [{letter.lower() for letter in found} for found in letters]
    return folded[0] == folded[1] and letters[0] != letters[1]
