"""The script that measures the speed of scoring runs, and notes what the scorer reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_script_measures_every_case(scripts, tiny_llama, tiny_tokenizer, tmp_path):
    folder, out = tmp_path / "model", tmp_path / "eval.json"
    tiny_llama.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    options = [
        "--rows",
        "4",
        "--repeats",
        "2",
        "--dtype",
        "float32",
        "--task",
        "word_problems",
    ]
    command = [sys.executable, str(scripts / "eval.py"), "--model", str(folder), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert list(report["cases"]) == ["alone", "shared", "responses"]
    for found in report["cases"].values():
        assert all(speed > 0 for speed in found["tokens_per_second"].values())
        assert 0 <= found["padding_share"] < 1 and found["predicted"] > 0
        assert found["ratio"]["forward"] > 0
    # The same questions are asked, but the examples are read once.
    assert report["cases"]["shared"]["tokens"] < report["cases"]["alone"]["tokens"]
    assert report["cases"]["shared"]["predicted"] == report["cases"]["alone"]["predicted"]
