"""Final answers are found and compared as the two rules say; the page of the rules says what is so."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from farss.datasets.files import read_rows
from farss.errors import ConfigError, ResourceError
from farss.evaluation import verifier as module
from farss.evaluation.answers import only_number, same_final_answer
from farss.evaluation.mathematics import (
    PUBLISHED,
    answer_part,
    boxed,
    published_answer,
    published_equal,
    published_form,
    published_number_equal,
)
from farss.evaluation.verifier import MathVerify

TABLE = Path(__file__).with_name("answer_pairs.tsv")
TEXTS = Path(__file__).with_name("answer_texts.tsv")
LINE_END = "⏎"
MOST_WRONG = 0.01
PAGE = Path(__file__).parents[2] / "docs" / "answer-checking.md"
SAME = {"yes": True, "no": False}


@dataclass(frozen=True)
class Pair:
    """A reference and an answer, whether a careful reader takes them for the same.

    `reason` says why the published rule does not agree, where it does not.
    """

    group: str
    gold: str
    answer: str
    same: bool
    reason: str


def read_table() -> list[Pair]:
    """Answers by themselves."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Pair(row["group"], row["gold"], row["answer"], SAME[row["same"]], row[PUBLISHED]) for row in rows]


def read_texts() -> list[Pair]:
    """What stands after "The answer is: " in a response, in words, with units, on several lines."""
    with TEXTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Pair(row["group"], row["gold"], row["text"].replace(LINE_END, "\n"), SAME[row["same"]], "") for row in rows]


PAIRS, RESPONSES = read_table(), read_texts()


def page_table(found: list[bool]) -> str:
    """The table of the page: every pair on which the published rule's verdict is not the truth."""
    wrong = [(pair, verdict) for pair, verdict in zip(PAIRS, found, strict=True) if verdict != pair.same]
    return (
        f"### `{PUBLISHED}`: {len(wrong)} of {len(PAIRS)} pairs\n\n"
        "| kind | reference | answer | same | by the rule | why |\n|---|---|---|---|---|---|\n"
        + "\n".join(
            f"| {pair.group} | `{pair.gold}` | `{pair.answer}` "
            f"| {_word(pair.same)} | {_word(verdict)} | {pair.reason} |"
            for pair, verdict in wrong
        )
    )


def _word(same: bool) -> str:
    return "yes" if same else "no"


@pytest.fixture(scope="module")
def verifier():
    pytest.importorskip("math_verify")
    with MathVerify() as started:
        yield started


@pytest.fixture(scope="module")
def by_package(verifier) -> list[bool]:
    return [verifier.equal(pair.answer, pair.gold) for pair in PAIRS]


def published() -> list[bool]:
    return [published_equal(pair.answer, pair.gold) for pair in PAIRS]


def disagreements(pairs: list[Pair], verdicts: list[bool]) -> list[str]:
    """The pairs on which a rule and the truth differ."""
    return [
        f"{pair.group}: {pair.gold}  {pair.answer!r}  same: {pair.same}"
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict != pair.same
    ]


def test_the_tables_are_large_and_of_both_kinds():
    both = [*PAIRS, *RESPONSES]
    assert len(both) >= 600
    assert len({(pair.gold, pair.answer) for pair in PAIRS}) == len(PAIRS)
    assert len({(pair.gold, pair.answer) for pair in RESPONSES}) == len(RESPONSES)
    assert sum(not pair.same for pair in both) >= 200
    assert len({pair.group for pair in both}) >= 30


def test_the_published_rule_differs_from_the_truth_where_the_table_says_and_nowhere_else():
    found = zip(PAIRS, published(), strict=True)
    assert [pair for pair, verdict in found if (verdict != pair.same) != bool(pair.reason)] == []


@pytest.mark.case("right answers in words and with units count as right")
def test_math_verify_is_the_careful_reader(verifier, by_package):
    answered = [verifier.right(f"We count. The answer is: {pair.answer}", pair.gold) for pair in RESPONSES]
    wrong = disagreements([*PAIRS, *RESPONSES], [*by_package, *answered])
    assert len(wrong) <= MOST_WRONG * (len(PAIRS) + len(RESPONSES)), "\n".join(wrong)


@pytest.mark.case("numbers in answers are read as a reader reads them")
def test_final_numbers_are_those_of_the_careful_reader():
    numbers = [pair for pair in RESPONSES if only_number(pair.gold) is not None]
    found = [same_final_answer(f"We count. The answer is: {pair.answer}", pair.gold) for pair in numbers]
    wrong = disagreements(numbers, found)
    assert len(numbers) >= 250 and len(wrong) <= MOST_WRONG * len(numbers), "\n".join(wrong)


@pytest.mark.case("a number of more than 4,300 digits")
@pytest.mark.parametrize(
    "answer", ["1" * 5000, "0" * 5000, f"18.{'0' * 5000}1", "1e999999999", "10^{99999999}", "1/" + "3" * 5000]
)
def test_numbers_without_end_are_refused_by_every_rule(verifier, answer):
    text = f"The answer is: {answer}"
    assert not same_final_answer(text, "18") and not published_number_equal(text, "18")
    assert not verifier.right(text, "18")


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("18", "18", True),
        ("$1,800 in all", "1800", True),
        ("7 eggs", "7.0", True),
        ("\\frac{7}{2}", "7", True),  # as MetaMath's evaluation reads it
        ("- 18", "18", False),
        ("17", "18", False),
    ],
)
def test_the_published_rule_for_numbers_stays_what_it_was(answer, gold, right):
    assert published_number_equal(f"So. The answer is: {answer}", gold) == right
    assert not published_number_equal(answer, gold)


@pytest.mark.parametrize(
    "form", ["We add. The answer is: {}.", "So it is $\\boxed{{{}}}$, as wanted.", "\\boxed{{{}}}"]
)
def test_math_verify_says_the_same_wherever_the_answer_stands(verifier, by_package, form):
    differing = [
        pair
        for pair, verdict in list(zip(PAIRS, by_package, strict=True))[::3]
        if verifier.right(form.format(pair.answer), pair.gold) != verdict
    ]
    assert differing == []


def test_the_page_lists_the_disagreements():
    page = PAGE.read_text(encoding="utf-8")
    assert page_table(published()) in page
    assert f"{len(PAIRS)} answers by themselves and {len(RESPONSES)} as they stand in responses" in page


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 3. The answer is: 18", "18"),
        ("The answer is: 18.", "18"),
        ("The answer is: 18.5.", "18.5"),
        ("The answer is: 3.\nThe end. Bye", "3"),
        ("The answer is: 3. The answer is: 4", "4"),
        ("The answer is: \\frac{1}{2} .", "\\frac{1}{2}"),
        ("The answer is:18", None),  # the published phrase ends in a space
        ("It is \\boxed{18}", None),
        ("", None),
    ],
)
def test_published_answer(text, answer):
    assert published_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("\\dfrac12", "\\frac{1}{2}"),
        ("\\frac1{72}", "\\frac{1}{72}"),
        ("\\frac{a}{b}", "\\frac{a}{b}"),
        ("3/4", "\\frac{3}{4}"),
        ("x/4", "x/4"),
        ("0.5", "\\frac{1}{2}"),
        ("-0.5", "-0.5"),
        (".5", "\\frac{1}{2}"),
        ("2 .5", "20.5"),  # as the published rule has it: a point after a space gets its nought
        ("\\sqrt3", "\\sqrt{3}"),
        ("x = 5", "5"),
        ("f(x) = 5", "f(x)=5"),
        ("a=b=c", "a=b=c"),
        ("5 \\text{ cm}", "5"),
        ("5\\text{cm}", "5\\text{cm}"),
        ("\\text{ a} and \\text{ b}", "\\text{a}and\\text{b}"),
        ("\\left(1,\\! 2\\right)", "(1,2)"),
        ("90^{\\circ}", "90"),
        ("\\$3", "3"),
        ("50\\%", "50"),
        ("", ""),
    ],
)
def test_published_form(answer, form):
    assert published_form(answer) == form


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{1} or \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed {3}", "3"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed{a \\\\ b\\\\}", "a \\\\ b\\\\"),
        ("\\boxed{\\text{a} b}", "\\text{a} b"),
        ("\\boxed{1", None),
        ("\\boxed 1", None),
        ("1", None),
    ],
)
def test_boxed(text, held):
    assert boxed(text) == held


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("It is \\boxed{3}. The answer is: 4.\nBye", ("4", True)),
        ("The answer is: $\\frac12$.", ("$\\frac12$", True)),
        ("The answer is: \\boxed{5}", ("5", True)),
        ("The answer is: 4. She is glad.", ("4", True)),
        ("The answer is: \\[\n4\n\\]\nBye", ("\\[ 4 \\]", True)),
        ("It is \\boxed{3}. And 4.", ("3", True)),
        ("It is 3 and then 4.", ("It is 3 and then 4.", False)),
    ],
)
def test_answer_part(text, part):
    assert answer_part(text) == part


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("We get 3 + 4 = 7. The answer is: 7", True),
        ("We get $3 + 4 = \\boxed{7}$.", True),
        ("We get 3 + 4, so there are 7", True),
        ("We get 7, no, 8", False),
        ("The answer is: 8, not 7.\nThe total is 7", False),
        ("", False),
        ("I do not know", False),
    ],
)
def test_an_answer_is_found_where_it_stands(verifier, text, right):
    assert verifier.right(text, "7") == right


def test_every_reference_answer_of_math_equals_itself(verifier, shared_data):
    rows = read_rows(shared_data / "math" / "test_500.jsonl.gz")
    golds = sorted({row["answer"] for row in rows})
    assert all(published_equal(gold, gold) for gold in golds)
    assert [gold for gold in golds if not verifier.right(f"Thus. The answer is: {gold}", gold)] == []


def test_the_reference_solutions_of_math_are_right(verifier, shared_data):
    rows = read_rows(shared_data / "math" / "test_500.jsonl.gz")
    differing = [row["answer"] for row in rows if not verifier.right(row["solution"], row["answer"])]
    assert differing == []
    assert [row["answer"] for row in rows if not published_equal(boxed(row["solution"]) or "", row["answer"])] == []


def test_answers_are_compared_off_the_main_thread(verifier):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pair: verifier.equal(*pair), [("x/2", "0.5x"), ("x", "2x")] * 5))
    assert found == [True, False] * 5


WAITING = """
import json, sys, time
print(json.dumps({"version": "0"}), flush=True)
for line in sys.stdin:
    time.sleep(60 if "slow" in line else 0)
    print("true", flush=True)
"""


def test_a_comparison_that_hangs_is_given_up_and_the_next_is_made(tmp_path, monkeypatch):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    monkeypatch.setattr(module, "_SCRIPT", script)
    with MathVerify(seconds=1) as waiting:
        assert waiting.equal("quick+x", "x") is True
        assert waiting.equal("slow+x", "x") is False
        assert waiting.timeouts == 1
        assert waiting.equal("quick+x", "x") is True
        assert waiting.timeouts == 1


def test_a_process_that_ends_half_way_counts_as_no_match(tmp_path, monkeypatch):
    script = tmp_path / "ending.py"
    script.write_text(
        WAITING.replace('time.sleep(60 if "slow" in line else 0)', 'sys.exit(3) if "slow" in line else 0')
    )
    monkeypatch.setattr(module, "_SCRIPT", script)
    with MathVerify() as ending:
        assert [ending.equal(answer, "x") for answer in ("slow+x", "quick+x")] == [False, True]


def test_a_process_ended_by_somebody_else_is_started_again(tmp_path, monkeypatch):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    monkeypatch.setattr(module, "_SCRIPT", script)
    with MathVerify() as waiting:
        waiting._process.kill()
        waiting._process.wait()
        assert waiting.equal("quick+x", "x") is True


def test_a_tower_of_powers_ends_in_time(verifier):
    assert verifier.equal("9^{9^{9^{9}}}", "5") is False
    assert verifier.equal("\\sqrt{25}", "5") is True


def test_without_the_package_its_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no such package')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"farss\[eval\]"):
        MathVerify()


def test_a_process_that_does_not_start_is_said(tmp_path, monkeypatch):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(module, "_SCRIPT", script)
    with pytest.raises(ResourceError, match="did not start"):
        MathVerify()
