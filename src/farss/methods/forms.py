"""The adapter forms of methods, by the word of plans; those of other packages are loaded when a plan asks for one."""

from __future__ import annotations

import functools

from farss.adapters.forms import ORDINARY, AdapterForm
from farss.errors import PlanError, did_you_mean
from farss.methods import METHODS, get_method, plugins


def form_of_method(method: object) -> AdapterForm | None:
    """The form that a method brings: its `form`, if it has one."""
    return getattr(method, "form", None)


@functools.cache
def own_forms() -> dict[str, AdapterForm]:
    """The forms of farss itself and of its own methods, by name."""
    brought = [form for method in METHODS.values() if (form := form_of_method(method)) is not None]
    return {form.name: form for form in (*ORDINARY, *brought)}


def form_named(word: str, method: str) -> AdapterForm:
    """The form of this name.

    Args:
        word: `initialisation` of a plan.
        method: by which the plan was made; where the word is none of farss's, its package is asked.

    Raises:
        PlanError: if there is none.
        ConfigError: if the package that has the method cannot be loaded.
    """
    if word in own_forms():
        return own_forms()[word]
    found = form_of_method(get_method(method)) if method in plugins.entry_points() else None
    if found is None or found.name != word:
        raise PlanError(
            "there is no adapter of this form",
            where="initialisation",
            expected=f"{' | '.join(own_forms())}, or that of a method in an installed package",
            got=f"{word!r}, in a plan of {method!r}",
            do=did_you_mean(word, own_forms()) or "install the package that the method came from",
        )
    return found
