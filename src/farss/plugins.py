"""What other packages add to farss: found by their entry points, loaded when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any

from farss.errors import ConfigError, FarssError

FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""Names of what is added become names of files and folders."""
NAME_RULE = "a name is of small letters, digits, - and _"

LOAD_ERRORS = (
    ImportError,
    AttributeError,
    SyntaxError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
    OSError,
    FarssError,
)
"""What a module raises that cannot be imported here; anything else is left to be seen as it is."""

Entries = dict[str, tuple[EntryPoint, ...]]


@dataclass(frozen=True)
class Group:
    """One group of entry points.

    Attributes:
        name: of the group: packages name in it `NAME = module:object`.
        kind: what its objects are, for messages.
        expected: what an object must be like, for messages.
        mistakes: what keeps an object from being that, given it and its name; empty if nothing does.
    """

    name: str
    kind: str
    expected: str
    mistakes: Callable[[Any, str], list[str]]

    def entries(self) -> Entries:
        """The entry points of installed packages by name, none of them loaded."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in metadata.entry_points(group=self.name):
            known = found.setdefault(entry.name, [])
            if all((entry.value, package_of(entry)) != (other.value, package_of(other)) for other in known):
                known.append(entry)
        return {name: tuple(entries) for name, entries in found.items()}

    def check_name(self, name: str, entries: Entries, builtin: bool) -> None:
        """Refuse a name that more than one package gives.

        Args:
            name: of an object.
            entries: from `entries`.
            builtin: whether farss itself has one of this name.

        Raises:
            ConfigError: naming the packages.
        """
        packages = [package_of(entry) for entry in entries.get(name, ())]
        owners = ["farss itself"] * builtin + packages
        if len(owners) > 1:
            raise ConfigError(
                f"more than one package has a {self.kind} `{name}`",
                where=f"entry points of {self.name}",
                got=", ".join(owners),
                do=f"uninstall {packages[-1].partition(' ')[0]}, or ask its authors to rename the {self.kind}",
            )

    def load(self, name: str, entry: EntryPoint) -> Any:
        """The object of another package.

        Raises:
            ConfigError: if the package's module cannot be imported, or what it has is not what belongs in this group.
        """
        try:
            found = entry.load()
        except LOAD_ERRORS as error:
            raise ConfigError(
                f"the {self.kind} `{name}` of {package_of(entry)} cannot be loaded",
                where=entry.value,
                got=f"{type(error).__name__}: {error}",
                do="update or uninstall the package",
            ) from error
        mistakes = self.mistakes(found, name)
        if mistakes:
            raise ConfigError(
                f"what {package_of(entry)} has for the {self.kind} `{name}` is no {self.kind}",
                where=entry.value,
                expected=self.expected,
                got="; ".join(mistakes),
                do=f"update or uninstall the package; docs/custom-{self.kind}s.md says what a {self.kind} is",
            )
        return found


def package_of(entry: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return "a package without metadata" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
