"""Methods of other packages: found by their entry points, loaded when they are asked for."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

from farss.config import FarssConfig
from farss.method_settings import MethodSettings
from farss.methods.base import Method
from farss.methods.look import Look
from farss.methods.start_settings import StartConfig
from farss.methods.statistics import OWN, SPECTRUM, brought
from farss.plugins import FILE_NAME, NAME_RULE, Entries, Group
from farss.statistics.kinds import Statistic
from farss.training.aids import TrainingAid

GROUP = "farss.methods"
"""The group of entry points: name of the method = module:object."""


@functools.cache
def entry_points() -> Entries:
    """The entry points of installed packages by method name, none of them loaded; read once per process."""
    return _group().entries()


def check_name(name: str, builtin: bool) -> None:
    """Refuse a method name that more than one package gives.

    Args:
        name: of the method.
        builtin: whether farss itself has a method of this name.

    Raises:
        ConfigError: naming the packages.
    """
    _group().check_name(name, entry_points(), builtin)


@functools.cache
def load(name: str) -> Method:
    """The method of another package.

    Args:
        name: a name of `entry_points`.

    Raises:
        ConfigError: if the package's module cannot be imported, or what it has is no method of this name.
    """
    (entry,) = entry_points()[name]
    return cast(Method, _group().load(name, entry))


def _group() -> Group:
    expected = "an object like farss.methods.Method: name, summary, needs, trains, plan"
    return Group(GROUP, "method", expected, _mistakes)


def _mistakes(method: Any, name: str) -> list[str]:
    """What keeps an object from being a method of this name."""
    if isinstance(method, type):
        return [f"the class {method.__name__} itself, not an object of it"]
    missing = [key for key in ("name", "summary", "needs", "trains", "plan") if not hasattr(method, key)]
    if missing:
        return [f"no `{key}`" for key in missing]
    found = []
    if method.name != name:
        found.append(f"its name is {method.name!r}")
    if not FILE_NAME.fullmatch(name):
        found.append(NAME_RULE)
    if not isinstance(method.summary, str) or not callable(method.plan):
        found.append("`summary` is no text, or `plan` cannot be called")
    if not isinstance(getattr(method, "look", None), Look | None):
        found.append(f"its `look` is {method.look!r}, not a farss.methods.Look")
    found += _mistakes_in_settings(getattr(method, "settings", ()), name)
    aids = getattr(method, "aids", ())
    if not isinstance(aids, tuple) or not all(
        isinstance(kind, type) and issubclass(kind, TrainingAid) for kind in aids
    ):
        found.append(f"its `aids` is {aids!r}, not a tuple of classes of farss.training.aids.TrainingAid")
    if method.trains not in ("adapter", "weights"):
        found.append(f"it trains {method.trains!r}, neither adapter nor weights")
    return [*found, *_mistakes_in_needs(method)]


def _mistakes_in_needs(method: Any) -> list[str]:
    """What keeps a method of another package from being given what it needs."""
    own = brought(method)
    if not isinstance(own, tuple) or not all(isinstance(one, Statistic) for one in own):
        return [f"its `statistics` is {own!r}, not a tuple of farss.statistics.kinds.Statistic"]
    found = []
    for one in own:
        if one.name in OWN or one.name == SPECTRUM:
            found.append(f"farss has a statistic `{one.name}`")
        elif not FILE_NAME.fullmatch(one.name):
            found.append(f"its statistic is called {one.name!r}; {NAME_RULE}")
    known = sorted({*OWN, SPECTRUM, *(one.name for one in own)})
    if not isinstance(method.needs, frozenset) or not method.needs <= set(known):
        found.append(f"`needs` is {method.needs!r}, not a frozenset of {', '.join(known)}")
    return found


def _mistakes_in_settings(groups: Any, name: str) -> list[str]:
    """What keeps groups of settings from being those of a method of this name in another package."""
    if not isinstance(groups, tuple) or not all(isinstance(kind, type) for kind in groups):
        return [f"its `settings` is {groups!r}, not a tuple of classes"]
    found = []
    for kind in groups:
        if not issubclass(kind, MethodSettings) or not dataclasses.is_dataclass(kind):
            found.append(f"{kind.__name__} is no dataclass of farss.methods.MethodSettings")
        elif kind is not StartConfig and getattr(kind, "group", None) != name:
            found.append(f"the group of {kind.__name__} is not {name!r}")
        elif any(f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(kind)):
            found.append(f"a setting of {kind.__name__} has no default")
    if groups and name in FarssConfig.shared_keys():
        found.append("`init` has a setting of that name")
    return found
