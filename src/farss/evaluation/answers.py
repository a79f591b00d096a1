"""When an answer counts as right: TriviaQA's exact match for short answers, a final number for word problems."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from farss.evaluation.quantities import Quantity, cleaned, quantities

ANSWER_MARK = "The answer is:"
"""What precedes the final answer in MetaMathQA's responses, and so in what a model trained on them writes."""

_QUOTES = "\u2018\u2019\u00b4"  # what TriviaQA's script counts as punctuation besides ASCII's
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + _QUOTES, " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_INSIDE_NUMBER = {"point": re.compile(r"(?<=\d)[.:/](?=\d)"), "comma": re.compile(r"(?<=\d),(?=\d{3}(?!\d))")}
_SIGN = re.compile(r"(?<![\w.])[-\u2212](?=[\d.])")
_JOINED, _MINUS = "\u00b7", "\u00ac"  # stand for a point and a minus; no punctuation to `normalise`

_EQUATION = re.compile(r"^[\s$({]*-?[\d.,]+[\s)}%$]*(?:[-+*/\u00f7x][\s$({]*-?[\d.,]+[\s)}%$]*)+=(.*)$", re.DOTALL)
_DENIED = re.compile(r"\bnot\s+[-$]?\s*[\d][\d.,]*\d?(?!\w)", re.IGNORECASE)
_BOUND = re.compile(
    r"\b(?:more|less|greater|fewer|larger|smaller)\s+than(?:\s+or\s+equal\s+to)?\s*$|\bat\s+(?:least|most)\s*$|[<>\u2264\u2265\u00b1]\s*$|\\\\pm\s*$",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"^\s*(?:[a-z]+\s+)?(?:or|to|versus|vs\.?)\s+(?:[a-z]+\s*=?\s*)?[\s$({]*$|^\s*(?:[-:,&]|and)\s*$", re.IGNORECASE
)
_VARIABLE = re.compile(r"\s?[xyz](?![A-Za-z])(?!\s*10)")
_CENTS = re.compile(r"\u00a2|\bcents?\b", re.IGNORECASE)
_BETWEEN = re.compile(r"\bbetween\s*$", re.IGNORECASE)
_DECORATION = re.compile(r"[\s$.,;!%(){}\[\]\\]*(?:percent|cents?|dollars?|\u00a2)?[\s.]*", re.IGNORECASE)
_SAYS_NOTHING = re.compile(r"\*\*|[$]|\.(?!\d)|(?<!\d)\s+|\s+(?!\d)")
_LETTER = re.compile(r"\(?([a-z])\)?(?:[).:]|$|(?=\s))")


def normalise(text: str) -> str:
    """The text in TriviaQA's canonical form: lower case, punctuation and articles dropped, single spaces.

    Punctuation becomes a space as in TriviaQA's evaluation script, so "Self-exile" is "self exile". A text of articles
    only ("The The") keeps them.
    """
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split()) or " ".join(plain.split())


def first_line(text: str) -> str:
    """The first line that holds anything; "" if none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def exact_match(text: str, accepted: Iterable[str]) -> bool:
    """Whether the first line of a generated text is one of the accepted answers, both normalised."""
    answer = normalise(first_line(text))
    return bool(answer) and answer in {normalise(gold) for gold in accepted}


def begins_with(text: str, accepted: Iterable[str]) -> bool:
    """Whether the first line begins with an accepted answer, in whole words, both normalised.

    For cloze sentences, where the model goes on writing after the answer. A number is one word with its sign, point and
    all: "1.008" does not begin with "1".
    """
    words = _words(first_line(text))
    golds = [_words(gold) for gold in accepted]
    return any(gold and words[: len(gold)] == gold for gold in golds)


def _words(text: str) -> list[str]:
    text = _INSIDE_NUMBER["point"].sub(_JOINED, _INSIDE_NUMBER["comma"].sub("", text))
    return normalise(_SIGN.sub(_MINUS, text)).split()


def only_number(text: str) -> Quantity | None:
    """The number that is the whole text but for currency, percent and closing signs; None if there is more to it."""
    plain = cleaned(text.strip())
    found = quantities(plain)
    if len(found) != 1 or not _DECORATION.fullmatch(plain[found[0].end :]):
        return None
    return found[0] if not plain[: found[0].start].strip(" $({[") else None


def answer_number(text: str) -> Quantity | None:
    """The one number that an answer in words gives; None if it gives none, or leaves open which.

    The result of a sum ("9 * 2 = 18"), else the first number that is not denied ("not 17"). "17 or 18", "17-18",
    "between 17 and 18" and "more than 17" leave it open.
    """
    plain = _DENIED.sub(" ", cleaned(text))
    sum_ = _EQUATION.match(plain)
    if sum_:
        plain = sum_[1].rpartition("=")[2] or sum_[1]
    found = quantities(plain)
    if not found or _BOUND.search(plain[: found[0].start]) or _BETWEEN.search(plain[: found[0].start]):
        return None
    if _VARIABLE.match(plain, found[0].end):
        return None
    if len(found) > 1 and _HEDGE.match(plain[found[0].end : found[1].start]):
        return None
    return found[0]


def sign_joined(answer: str, wanted: Quantity) -> str:
    """The answer, a minus with a space at its beginning joined where the reference is negative; else it is a bullet."""
    return re.sub(r"^\s*-\s+", "-", answer) if wanted.value < 0 else answer


def is_sum(answer: str) -> bool:
    """Whether an answer is a calculation with its result, as in "9 * 2 = 18"."""
    return _EQUATION.match(cleaned(answer)) is not None


def same_final_answer(text: str, gold: str) -> bool:
    """Whether a generated response ends in the reference's final answer.

    Args:
        text: the response, its answer after the last `ANSWER_MARK`.
        gold: the answer itself. A number ("18", "$1,200", "50%") is compared as a number, its unit in words or not;
            anything else as text, in lower case, without a closing full stop.
    """
    _, found, after = text.rpartition(ANSWER_MARK)
    return bool(found) and same_answer(after, gold)


def same_answer(answer: str, gold: str) -> bool:
    """Whether an answer is the reference's, as `same_final_answer`, given what follows the mark."""
    wanted = only_number(gold)
    if wanted is not None:
        number = answer_number(sign_joined(answer, wanted))
        if number is not None and "$" in gold and _CENTS.search(answer):
            return number.scaled == wanted.value
        return number is not None and number.equals(wanted)
    given, wanted_text = _plain(first_line(answer)), _plain(gold)
    if _LETTER.fullmatch(wanted_text):
        letter = _LETTER.match(given)
        return letter is not None and letter[1] == wanted_text.strip("().:")
    return given == wanted_text


def _plain(text: str) -> str:
    """In lower case, without marks and spaces that say nothing: "3:30 p.m." is "3:30pm"."""
    return _SAYS_NOTHING.sub("", text.lower())
