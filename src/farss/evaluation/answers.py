"""When an answer counts as right: TriviaQA's exact match for short answers, a final number for word problems."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from fractions import Fraction

ANSWER_MARK = "The answer is:"
"""What precedes the final answer in MetaMathQA's responses, and so in what a model trained on them writes."""
GSM8K_MARK = "####"
"""What precedes the final answer in GSM8K's own solutions; read from reference solutions only."""

_QUOTES = "\u2018\u2019\u00b4"  # what TriviaQA's script counts as punctuation besides ASCII's
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + _QUOTES, " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"(-?)\s*(\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*(\d+))?")
_ONLY_NUMBER = re.compile(r"[-\u2212]?[$€£]?[-\u2212]?[\d,]*\.?\d+(?:/\d+)?\s*%?\.?")
_DROPPED = re.compile(r"[$€£,]|(?<=\d)\s(?=\d{3}\b)")  # currency signs and thousands separators


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

    For cloze sentences, where the model goes on writing after the answer.
    """
    words = normalise(first_line(text)).split()
    golds = [normalise(gold).split() for gold in accepted]
    return any(gold and words[: len(gold)] == gold for gold in golds)


def final_number(text: str, mark: str = ANSWER_MARK) -> Fraction | None:
    """The number after the last `mark` in a response; None if there is no mark or no number after it.

    As in MetaMath's evaluation of GSM8K: everything up to the last mark is ignored, the first number after it counts,
    thousands separators and currency signs are dropped, `a/b` is a fraction. Ours compares exactly where theirs rounds
    to a whole number. There is no fall-back to another mark or to the last number in the text.
    """
    _, found, after = text.rpartition(mark)
    return parse_number(after) if found else None


def parse_number(text: str) -> Fraction | None:
    """The first number in a text, for example "$1,234.50." -> 1234.5; None if there is none or it divides by zero."""
    match = _NUMBER.search(_DROPPED.sub("", text.replace("\u2212", "-")))
    if match is None:
        return None
    sign, number, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(number) / int(divisor or 1)
    return -value if sign else value


def same_final_answer(text: str, gold: str) -> bool:
    """Whether a generated response ends in the reference's final answer.

    Args:
        text: the response, its answer after the last `ANSWER_MARK`.
        gold: the answer itself. A number ("18", "$1,200", "50%") is compared as a number; anything else as text, in
            lower case, without a closing full stop.
    """
    if _ONLY_NUMBER.fullmatch(gold.strip()):
        number = final_number(text)
        return number is not None and number == parse_number(gold)
    _, found, after = text.rpartition(ANSWER_MARK)
    return bool(found) and _plain(first_line(after)) == _plain(gold)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
