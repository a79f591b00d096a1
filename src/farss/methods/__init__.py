"""The registry of methods, one file each; other packages add theirs by entry point (`plugins`)."""

from __future__ import annotations

from farss.errors import ConfigError, did_you_mean
from farss.method_settings import MethodSettings
from farss.methods import plugins
from farss.methods.adalora.method import ADALORA
from farss.methods.all_high import ALL_HIGH
from farss.methods.base import Evidence, Method, SpectralMethod
from farss.methods.compat import published_batches, published_code_config
from farss.methods.corda_ipm import CORDA_IPM
from farss.methods.corda_kpm import CORDA_KPM
from farss.methods.dora.method import DORA
from farss.methods.eva import EVA
from farss.methods.farss import FARSS
from farss.methods.farss_init import FARSS_INIT
from farss.methods.fixed_rank import FIXED_RANK
from farss.methods.fora.method import FORA
from farss.methods.full import FULL
from farss.methods.kasa.method import KASA
from farss.methods.look import Look, look_of
from farss.methods.lora import LORA
from farss.methods.lora_ga import LORA_GA
from farss.methods.lora_null import LORA_NULL
from farss.methods.lora_null_v2 import LORA_NULL_V2
from farss.methods.milora import MILORA
from farss.methods.olora import OLORA
from farss.methods.pissa import PISSA
from farss.methods.pissa_niter import PISSA_NITER
from farss.methods.rslora import RSLORA
from farss.plugins import package_of

__all__ = [
    "METHODS",
    "Evidence",
    "Look",
    "Method",
    "MethodSettings",
    "SpectralMethod",
    "all_methods",
    "get_method",
    "look_of",
    "package_of_method",
    "published_batches",
    "published_code_config",
]

_ALL: tuple[Method, ...] = (
    FARSS,
    FARSS_INIT,
    ALL_HIGH,
    FIXED_RANK,
    PISSA,
    PISSA_NITER,
    MILORA,
    OLORA,
    CORDA_KPM,
    CORDA_IPM,
    LORA_NULL,
    LORA_NULL_V2,
    EVA,
    LORA_GA,
    LORA,
    RSLORA,
    DORA,
    KASA,
    ADALORA,
    FORA,
    FULL,
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""Those of farss itself."""


def all_methods() -> dict[str, Method]:
    """Every method by name, those of other packages last; these are loaded now.

    Raises:
        ConfigError: if a package's method cannot be loaded, or two packages have methods of one name.
    """
    return {name: get_method(name) for name in dict.fromkeys([*METHODS, *sorted(plugins.entry_points())])}


def package_of_method(name: str) -> str | None:
    """Name and version of the other package a method comes from; None for those of farss itself."""
    entries = plugins.entry_points().get(name, ())
    return package_of(entries[0]) if entries and name not in METHODS else None


def get_method(name: str) -> Method:
    """The method of this name, of farss itself or of another installed package.

    Raises:
        ConfigError: if there is none, naming the nearest; or if another package's cannot be loaded, or has a name that
            is taken.
    """
    plugins.check_name(name, builtin=name in METHODS)
    if name in METHODS:
        return METHODS[name]
    if name in plugins.entry_points():
        return plugins.load(name)
    known = [*METHODS, *plugins.entry_points()]
    raise ConfigError(f"unknown method `{name}`", expected=" | ".join(known), do=did_you_mean(name, known))
