"""How methods are shown: names, colours and marks of their own, also without colour and to the colour-blind."""

from __future__ import annotations

import itertools
import math

import pytest

from farss.errors import ConfigError
from farss.methods import METHODS, Look, look_of
from farss.methods.look import MARKS, look_by_name
from farss.methods.lora import Lora
from farss.report.figures.colours import LEAST_CONTRAST, contrast, readable
from farss.report.figures.marks import CORNERS

LOOKS = {name: look_of(method) for name, method in METHODS.items()}
VISIONS = {  # linear-light mixtures of what is seen without one kind of cone (Machado and others, 2009)
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
}


def seen(colour: str, vision: str) -> list[float]:
    """Cube roots of the light that is seen, whose distances are roughly even."""
    light = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
    return [min(max(sum(m * v for m, v in zip(row, light, strict=True)), 0), 1) ** (1 / 3) for row in VISIONS[vision]]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_carries_its_own_look(name):
    assert METHODS[name].look == LOOKS[name]  # type: ignore[attr-defined]  # every one of ours has it
    assert LOOKS[name].label.replace("-", "").replace(" ", "").isalnum()


@pytest.mark.parametrize("part", ["label", "colour", "mark"])
def test_no_two_methods_share_a_name_a_colour_or_a_mark(part):
    values = [getattr(look, part) for look in LOOKS.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("paper", LEAST_CONTRAST)
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_colours_stand_out_from_light_and_dark_paper(look, paper):
    assert contrast(readable(look.colour, paper), paper) >= LEAST_CONTRAST[paper]


@pytest.mark.parametrize("vision", VISIONS)
def test_the_methods_of_the_demo_differ_in_colour_for_the_usual_kinds_of_sight(vision):
    colours = [LOOKS[name].colour for name in ("full", "lora", "pissa", "milora", "farss")]
    assert all(math.dist(seen(a, vision), seen(b, vision)) > 0.1 for a, b in itertools.combinations(colours, 2))


def test_every_mark_can_be_drawn_and_no_two_have_one_outline():
    assert set(CORNERS) | {"circle"} == set(MARKS)
    outlines = [tuple((round(x, 2), round(y, 2)) for x, y in draw()) for draw in CORNERS.values()]
    assert len({frozenset(outline) for outline in outlines}) == len(outlines)
    assert all(max(abs(v) for corner in outline for v in corner) < 1.6 for outline in outlines)


def test_a_method_without_a_look_gets_one_by_its_name():
    first = look_of(Lora(name="theirs"))
    assert first == look_of(Lora(name="theirs")) == look_by_name("theirs") and first.label == "theirs"
    assert first.colour not in {look.colour for look in LOOKS.values()}
    assert look_by_name("theirs", 1) != first
    assert len({(look_by_name("theirs", i).colour, look_by_name("theirs", i).mark) for i in range(80)}) == 80
    assert len(look_by_name("n" * 90).label) <= 24


@pytest.mark.parametrize(
    ("label", "colour", "mark"),
    [
        ("", "#112233", "bar"),
        ("x" * 25, "#112233", "bar"),
        ("a\nb", "#112233", "bar"),
        ("a", "red", "bar"),
        ("a", "#112233;}", "bar"),
        ("a", "#112233", "skull"),
    ],
)
def test_a_malformed_look_is_refused(label, colour, mark):
    with pytest.raises(ConfigError):
        Look(label, colour, mark)
