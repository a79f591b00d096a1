"""The same tiny models as the adapter tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("adapter_kit", Path(__file__).parents[1] / "adapters" / "conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
_shared = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_shared)

kit, llama, model = _shared.kit, _shared.llama, _shared.model
