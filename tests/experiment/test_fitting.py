"""There is one training: whatever trains, `farss train`, a run or `farss glue`, does it by the same step."""

from __future__ import annotations

import ast
from pathlib import Path

import farss

SOURCE = Path(farss.__file__).parent


def test_one_module_calls_the_trainer():
    callers = [
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "farss.training.sft"
        if any(name.name == "train" for name in node.names)
    ]
    assert callers == ["experiment/fitting.py"]
