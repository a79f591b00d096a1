"""What `import farss` offers: the library's own calls, and the verbs as functions that leave what the verbs leave."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import farss

VERBS = ("init", "train", "evaluate", "audit", "compare", "run")


@pytest.mark.parametrize("name", farss.__all__)
def test_every_name_is_there_and_explained(name):
    found = getattr(farss, name)
    assert callable(found) and inspect.getdoc(found) and name in dir(farss)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_what_it_takes_and_raises(name):
    text = inspect.getdoc(getattr(farss, name)) or ""
    assert "Args:" in text and "Raises:" in text


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        farss.nothing_of_this_name  # noqa: B018


def test_importing_waits_for_nothing_heavy():
    code = "import sys, farss; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
