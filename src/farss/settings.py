"""How a tree of settings is read, checked, overridden and written; what the settings are is in `farss.config`."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal, Self, Union, get_args, get_origin

from farss.errors import ConfigError


class Settings:
    """Base of every node of the recipe tree: reading, checking, overriding and writing."""

    @classmethod
    def from_mapping(cls, mapping: object, where: str = "recipe") -> Self:
        """The node described by `mapping`, every key known and every value of its declared type.

        Raises:
            ConfigError: naming the key, and the nearest known one if the key is unknown.
        """
        if not isinstance(mapping, dict):
            raise ConfigError("settings must be a mapping", where=where, expected="key: value pairs", got=repr(mapping))
        hints = typing.get_type_hints(cls)
        known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {}
        for key, value in mapping.items():
            if key not in known:
                raise _unknown_key(key, list(known), where)
            values[key] = _coerce(value, known[key], f"{where}.{key}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """The node as plain dictionaries, lists and scalars; `from_mapping` reads it back equal."""
        return _plain(self)

    def override(self, assignments: dict[str, Any]) -> Self:
        """A copy with dotted keys replaced, for example `{"train.learning_rate": 1e-3}`.

        Raises:
            ConfigError: for an unknown key or a value of the wrong type.
        """
        tree = self.to_mapping()
        for dotted, value in assignments.items():
            node, *rest = tree, *dotted.split(".")
            for key in rest[:-1]:
                if key not in node:
                    raise _unknown_key(key, list(node), dotted)
                if not isinstance(node[key], dict):
                    raise ConfigError("a dotted key goes through a setting that has no parts", where=dotted)
                node = node[key]
            if rest[-1] not in node:
                raise _unknown_key(rest[-1], list(node), dotted)
            node[rest[-1]] = value
        return type(self).from_mapping(tree)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of this node."""
        return _schema(cls)


def _unknown_key(key: object, known: list[str], where: str) -> ConfigError:
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
    return ConfigError(f"unknown key `{key}`", where=where, do=hint)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _coerce(value: object, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [a for a in args if a is not type(None)]
        return _coerce(value, inner[0], where)
    if origin is Literal:
        if value not in args:
            near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
            raise ConfigError(
                "value is not one of the named choices",
                where=where,
                expected=" | ".join(map(str, args)),
                got=repr(value),
                do=f"did you mean `{near[0]}`?" if near else None,
            )
        return value
    if origin is tuple:
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            raise ConfigError("a list is needed", where=where, expected="[...]", got=repr(value))
        return tuple(_coerce(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Settings):
        return value if isinstance(value, hint) else hint.from_mapping(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads `2e-5` as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is Any or (type(value) is hint):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError("wrong type", where=where, expected=name, got=f"{value!r} ({type(value).__name__})")


def _schema(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Settings):
        hints = typing.get_type_hints(hint)
        names = [f.name for f in dataclasses.fields(hint)]  # type: ignore[arg-type]
        properties = {name: _schema(hints[name]) for name in names}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(a) for a in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0])}
    return {
        str: {"type": "string"},
        int: {"type": "integer"},
        float: {"type": "number"},
        bool: {"type": "boolean"},
        type(None): {"type": "null"},
    }.get(hint, {})


def require(condition: bool, what: str, **details: object) -> None:
    """Refuse a setting.

    Args:
        condition: what has to hold.
        what: the mistake, in one sentence.
        details: of `ConfigError`.

    Raises:
        ConfigError: if it does not hold.
    """
    if not condition:
        raise ConfigError(what, **details)  # type: ignore[arg-type]
