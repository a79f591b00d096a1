"""Final answers of mathematics problems: found in a response, and held to be equal, by two named rules.

`published` is the rule of the paper's evaluation, which is MetaMath's: what follows the last "The answer is: " must be
the reference as a string, once both are in the normal form of the MATH data set. `math-verify` parses both answers and
compares them as mathematics, by the package of that name.
"""

from __future__ import annotations

import re
from fractions import Fraction

from farss.evaluation.answers import ANSWER_MARK
from farss.evaluation.quantities import MOST_DIGITS

PUBLISHED = "published"
MATH_VERIFY = "math-verify"
RULES = (PUBLISHED, MATH_VERIFY)

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response: Let's think step by step."
)
"""The zero-shot prompt of MetaMath's evaluation of GSM8K and MATH, word for word."""

BOX = "\\boxed"

_PUBLISHED_MARK = f"{ANSWER_MARK} "
_SENTENCE_END = ".\n"
_NEXT_SENTENCE = re.compile(r"(?<=[\w})$%])\.\s+(?=[A-Z])")
_FIRST_NUMBER = re.compile(r"(-?)\s*(\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*(\d+))?")
_DROPPED = re.compile(r"[$€£,]|(?<=\d)\s(?=\d{3}\b)")  # currency signs and thousands separators
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character is none
_DEPTH = {"{": 1, "}": -1}

_REMOVED = re.compile(r"\n|\\!|\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$|\\%")
_SAME_FRACTION = re.compile(r"\\[td]frac")
_UNIT = "\\text{ "  # with the space that parts a unit from its number, so that \text{even} is no unit
_BARE_POINT = re.compile(r"(?:(?<=[ {])|^)\.")
_NAMED = re.compile(r"[^=]{0,2}=([^=]*)")
_SHORT_ROOT = re.compile(r"\\sqrt([^{])")
_SHORT_FRACTION = re.compile(r"\\frac([^{])(?:([^{])|(?=\{))")
_SLASHED = re.compile(r"(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))")


def published_answer(text: str) -> str | None:
    """What the published rule takes for the final answer of a response; None where the phrase is missing.

    It is what follows the last "The answer is: ", up to the end of the sentence at a line's end, without a full stop.
    """
    _, found, after = text.rpartition(_PUBLISHED_MARK)
    if not found:
        return None
    return after.partition(_SENTENCE_END)[0].strip().removesuffix(".").strip()


def published_form(answer: str) -> str:
    r"""An answer in the normal form of the MATH data set.

    From "Measuring Mathematical Problem Solving With the MATH Dataset" (Hendrycks et al. 2021), in code of our own.
    Line breaks, spaces, sizes of brackets, degree, dollar and percent signs go; a unit (`\text{ cm}`, with a space)
    goes with what follows it; `\dfrac`, `\tfrac` and `\frac12` become `\frac{1}{2}`, as does `1/2` alone and 0.5;
    `.5` gets its nought; the short name before a single equals sign (`x = 5`) is dropped. Nothing is computed.
    """
    text = _SAME_FRACTION.sub(r"\\frac", _REMOVED.sub("", answer.replace("\\\\", "\\")))
    if text.count(_UNIT) == 1:
        text = text.partition(_UNIT)[0]
    text = _BARE_POINT.sub("0.", text)
    named = _NAMED.fullmatch(text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", named[1] if named else text).replace(" ", "")
    text = _SHORT_FRACTION.sub(_with_braces, text)
    if text == "0.5":
        return "\\frac{1}{2}"
    return _SLASHED.sub(r"\\frac{\1}{\2}", text) if _SLASHED.fullmatch(text) else text


def published_equal(answer: str, gold: str) -> bool:
    """Whether two answers are the same string in the normal form of the MATH data set."""
    return published_form(answer) == published_form(gold)


def published_number_equal(text: str, gold: str) -> bool:
    """The published rule for GSM8K: the first number after the last "The answer is:" is the reference.

    As in MetaMath's evaluation: thousands separators and currency signs are dropped, `a/b` is a fraction. Ours compares
    exactly where theirs rounds to a whole number.

    Args:
        text: the response.
        gold: the reference's number.
    """
    _, found, after = text.rpartition(ANSWER_MARK)
    number = published_number(after) if found else None
    return number is not None and number == published_number(gold)


def published_number(text: str) -> Fraction | None:
    """The first number as the published rule reads it; None if there is none, or more digits than a number has."""
    match = _FIRST_NUMBER.search(_DROPPED.sub("", text.replace("\u2212", "-")))
    if match is None or len(match[0]) > MOST_DIGITS:
        return None
    sign, number, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(number) / int(divisor or 1)
    return -value if sign else value


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` of a text holds; None without one, or where its braces do not close."""
    _, found, after = text.rpartition(BOX)
    after = after.lstrip()
    if not found or not after.startswith("{"):
        return None
    depth = 0
    for token in _BRACE.finditer(after):
        depth += _DEPTH.get(token[0], 0)
        if not depth:
            return after[1 : token.start()]
    return None


def answer_part(text: str) -> tuple[str, bool]:
    r"""The part of a response that the `math-verify` rule reads, and whether that is the answer by itself.

    In this order: what follows the last "The answer is:" up to the end of its sentence or line, what the last
    `\boxed{...}` holds, or the whole text, in which the package looks for the last expression.
    """
    _, found, after = text.rpartition(ANSWER_MARK)
    part = _first_statement(after) if found else text
    held = boxed(part)
    if held is not None:
        return held, True
    return part, bool(found)


def _first_statement(text: str) -> str:
    """The first line with something on it, with the lines that a formula goes on for; its first sentence."""
    lines = text.strip().splitlines()
    taken = ""
    for line in lines:
        taken = f"{taken} {line.strip()}".strip()
        if _closed(taken):
            break
    return _NEXT_SENTENCE.split(taken, maxsplit=1)[0].removesuffix(".").strip()


def _closed(text: str) -> bool:
    """Whether what a line opens is closed on it, and it says something."""
    pairs = (("\\begin", "\\end"), ("\\[", "\\]"), ("\\(", "\\)"), ("{", "}"))
    return all(text.count(a) <= text.count(b) for a, b in pairs) and bool(re.search(r"\w", text))


def as_formula(answer: str) -> str:
    """A formula between dollar signs, where it has none of its own: the package takes only such text for LaTeX.

    Backslashes at the end, which would hide the closing sign, are dropped.
    """
    answer = " ".join(answer.split()).rstrip("\\ ")
    answer = re.sub(r"\\[\[\]()]", "$", answer) if re.search(r"\\[\[(]", answer) else answer
    return answer if "$" in answer.replace("\\$", "") else f"${answer}$"


def _with_braces(found: re.Match[str]) -> str:
    return f"\\frac{{{found[1]}}}" + (f"{{{found[2]}}}" if found[2] else "")
