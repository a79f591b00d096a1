"""YAML of the user read with limits: a few lines of it can stand for gigabytes, and a key may come twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import yaml

from farss.reading import DEPTH, TOO_DEEP, Document, Refused, encodable
from farss.reading import DIGITS as MOST_DIGITS

MOST_VALUES = 20_000
"""Values of a document, those that aliases repeat counted each time."""


def parse_yaml(text: str, document: Document, where: object) -> Any:
    """The value that a YAML text stands for; only plain scalars, lists and mappings.

    Args:
        text: one document.
        document: what messages call it, and whose class of errors is raised.
        where: file or flag it comes from.

    Raises:
        FarssError: if it is not YAML, is nested too deeply, stands for too many values, or holds a key twice, a number
            of too many digits or a lone surrogate.
    """
    name = document.name
    try:
        value = yaml.load(text, _Loader)  # a safe loader, with limits
        _check_size(value)
        if not encodable(value):
            raise Refused("it holds half of a character", "a lone surrogate")
    except Refused as refused:
        what = f"the {name} cannot be used: {refused.what}"
        raise document.error(what, where=where, expected=refused.expected, got=refused.got) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise document.error(f"the {name} is not valid YAML", where=where, got=str(error)) from None
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with limits where it has none."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEPTH:
            raise TOO_DEEP
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        _check_keys(node)
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise _too_many()

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise Refused(f"a number has more than {MOST_DIGITS} digits", f"{len(node.value):,} digits")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in seen:
            raise Refused("a key comes twice", f"`{key.value}`, line {key.start_mark.line + 1}")
        seen.add(key.value)


def _check_size(value: object) -> None:
    """Walk a value as something that prints it would, but no further than the limits; an alias may hold itself."""
    left = MOST_VALUES
    level: list[object] = [value]
    for _ in range(DEPTH + 1):
        left -= len(level)
        if left < 0:
            raise _too_many()
        level = list(islice(chain.from_iterable(map(_parts, level)), MOST_VALUES + 1))
        if not level:
            return
    raise TOO_DEEP


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, (list, tuple, set)):
        yield from value


def _too_many() -> Refused:
    return Refused("it stands for too many values", expected=f"at most {MOST_VALUES:,}")
