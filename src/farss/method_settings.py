"""Settings that a method owns: a group of `init` that nothing else reads, found through the registry of methods."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from farss.settings import Settings

REGISTRY = "farss.methods.groups"
"""The module that knows the groups of all methods; methods stand above settings, so it is asked when one is needed."""


class MethodSettings(Settings):
    """A group of `init` settings; a frozen dataclass whose fields all have defaults.

    `group` is its name in recipes: of a method in another package, the method's name.
    """

    group: ClassVar[str]


def registry() -> Any:
    """The module `farss.methods.groups`."""
    return importlib.import_module(REGISTRY)
