"""The registry of methods, one file each."""

from __future__ import annotations

import difflib

from farss.errors import ConfigError
from farss.methods.adalora import ADALORA
from farss.methods.all_high import ALL_HIGH
from farss.methods.base import Evidence, Method, SpectralMethod
from farss.methods.compat import published_batches, published_code_config
from farss.methods.corda_ipm import CORDA_IPM
from farss.methods.corda_kpm import CORDA_KPM
from farss.methods.dora import DORA
from farss.methods.eva import EVA
from farss.methods.farss import FARSS
from farss.methods.farss_init import FARSS_INIT
from farss.methods.fixed_rank import FIXED_RANK
from farss.methods.fora import FORA
from farss.methods.full import FULL
from farss.methods.kasa import KASA
from farss.methods.lora import LORA
from farss.methods.lora_ga import LORA_GA
from farss.methods.lora_null import LORA_NULL
from farss.methods.lora_null_v2 import LORA_NULL_V2
from farss.methods.milora import MILORA
from farss.methods.olora import OLORA
from farss.methods.pissa import PISSA
from farss.methods.pissa_niter import PISSA_NITER
from farss.methods.rslora import RSLORA

__all__ = [
    "METHODS",
    "Evidence",
    "Method",
    "SpectralMethod",
    "get_method",
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


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise ConfigError(
            f"unknown method `{name}`",
            expected=" | ".join(METHODS),
            do=f"did you mean `{near[0]}`?" if near else None,
        )
    return METHODS[name]
