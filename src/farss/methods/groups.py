"""The groups of settings that methods own, by name; those of other packages are loaded when they are asked for."""

from __future__ import annotations

import functools

from farss.method_settings import MethodSettings
from farss.methods import METHODS, get_method, plugins
from farss.methods.owned import settings_of_method


@functools.cache
def own_groups() -> dict[str, type[MethodSettings]]:
    """The groups of farss's own methods, by name."""
    kinds = {kind.group: kind for method in METHODS.values() for kind in settings_of_method(method)}
    return dict(sorted(kinds.items()))


def group_names() -> list[str]:
    """The names that groups have or may have; no package is loaded to tell whether its method owns settings."""
    return [*own_groups(), *sorted(plugins.entry_points())]


def group_named(name: str) -> type[MethodSettings] | None:
    """The group of this name; None where there is none.

    Raises:
        ConfigError: if the package that has the method of this name cannot be loaded.
    """
    if name in own_groups():
        return own_groups()[name]
    found = settings_of_method(get_method(name)) if name in plugins.entry_points() else ()
    return next((kind for kind in found if kind.group == name), None)
