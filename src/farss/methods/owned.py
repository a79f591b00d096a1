"""The settings that a method owns, and what its plans record of all settings."""

from __future__ import annotations

from typing import Any

from farss.config import FarssConfig
from farss.method_settings import MethodSettings, registry


def settings_of_method(method: object) -> tuple[type[MethodSettings], ...]:
    """The groups of `init` that a method owns, alone or with methods like it: its `settings`, if it has any."""
    return getattr(method, "settings", ())


def plan_settings(method: object, config: FarssConfig) -> dict[str, Any]:
    """What a plan records of the settings that it was made with: those of farss, and what the method owns beside."""
    known = [*config.shared_keys(), *registry().own_groups()]
    farss = {name: value for name, value in config.to_mapping().items() if name in known}
    return farss | {kind.group: config.of(kind).to_mapping() for kind in settings_of_method(method)}
