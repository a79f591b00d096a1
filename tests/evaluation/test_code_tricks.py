"""Wrong programs that want to count as right do not; right programs in an unusual form do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from farss.errors import SandboxError
from farss.evaluation.code import humaneval, mbpp, run_completions
from farss.sandbox import Limits, probe, require

_SPEC = importlib.util.spec_from_file_location("tricks", Path(__file__).with_name("tricks.py"))
assert _SPEC is not None and _SPEC.loader is not None
tricks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tricks)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

LIMITS = Limits(cpu_seconds=5, wall_seconds=15.0)
BRIEF = Limits(cpu_seconds=2, wall_seconds=3.0)
WORKERS = 2


def outcomes(problem, table, limits=LIMITS):
    """Name -> sample of every program in a table."""
    found = probe()
    try:
        require(found)
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    samples = run_completions(
        [problem] * len(table),
        list(table.values()),
        limits=limits,
        workers=WORKERS,
        protections=found,
        announce=lambda _: None,
    )
    return dict(zip(table, samples, strict=True))


MBPP, HUMANEVAL = mbpp([tricks.MBPP_ROW])[0], humaneval([tricks.HUMANEVAL_ROW])[0]


def test_there_are_many_tricks():
    assert len(tricks.MBPP_TRICKS) + len(tricks.HUMANEVAL_TRICKS) >= 50


@pytest.mark.case("a wrong program does not count as right")
@pytest.mark.parametrize(
    ("problem", "table"), [(MBPP, tricks.MBPP_TRICKS), (HUMANEVAL, tricks.HUMANEVAL_TRICKS)], ids=["mbpp", "humaneval"]
)
def test_no_trick_counts_as_right(problem, table):
    assert [name for name, sample in outcomes(problem, table, BRIEF).items() if sample.passed] == []


@pytest.mark.case("right programs under a main guard, in a fence, or with a space less")
@pytest.mark.parametrize(
    ("problem", "table"), [(MBPP, tricks.MBPP_RIGHT), (HUMANEVAL, tricks.HUMANEVAL_RIGHT)], ids=["mbpp", "humaneval"]
)
def test_right_programs_pass(problem, table):
    assert {name: sample.error for name, sample in outcomes(problem, table).items() if not sample.passed} == {}


def test_what_only_the_program_could_judge_is_named():
    table = {name: tricks.MBPP_TRICKS[name] for name in ("equal to everything", "anything at all")}
    for sample in outcomes(MBPP, table).values():
        assert sample.status == "failed" and "object of the program's own type" in (sample.unjudged or ""), sample


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("assert Box(3).size == 3\nbox = Box(2)\nbox.size = 9\nassert twice(box) == 18", ("Box", "twice")),
        ("assert len(many()) == 3 and [n for n in many()] == [1, 2, 3] and many()[1] == 2", ("many",)),
        ("assert make(2)(3) == 6", ("make",)),
        (
            "try:\n    fails()\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False",
            ("fails",),
        ),
        ("assert list(counting(3)) == [0, 1, 2] and set(counting(2)) == {0, 1}", ("counting",)),
        (
            "assert table() == {'a': [1.5, None], (1, 2): {3}} and big() == 7**4000 and text() == '\\ud800\\n'",
            ("table", "big", "text"),
        ),
        ("rows = [[0] * 2] * 2\nassert fill(rows) == [[1, 1], [1, 1]] and sum(2, 3) == 5", ("fill", "sum")),
        (
            "import math\nassert math.isclose(half(1), 0.5) and when().year == 2020 and share() == share()",
            ("half", "when", "share"),
        ),
    ],
)
def test_values_go_to_the_program_and_back(tests, names):
    from farss.sandbox import Examination, run_programs

    program = (
        "import datetime, fractions\n"
        "class Box:\n    def __init__(self, size): self.size = size\n"
        "class Many(list): pass\n"
        "def twice(box): return 2 * box.size\n"
        "def many(): return Many([1, 2, 3])\n"
        "def make(n): return lambda m: n * m\n"
        "def fails(): raise ValueError('no')\n"
        "def counting(n):\n    yield from range(n)\n"
        "def table(): return {'a': [1.5, None], (1, 2): {3}}\n"
        "def big(): return 7**4000\n"
        "def text(): return '\\ud800\\n'\n"
        "def fill(rows):\n    rows[0][0] = rows[1][1] = 1\n    return rows\n"  # two names for one row stay that
        "def sum(a, b): return a + b\n"
        "def half(n): return n / 2\n"
        "def when(): return datetime.date(2020, 1, 1)\n"
        "def share(): return fractions.Fraction(1, 3)\n"
    )
    [outcome] = run_programs([program], LIMITS, announce=lambda _: None, examinations=[Examination(tests, names)])
    assert outcome.passed, outcome
