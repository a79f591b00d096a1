from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farss.training.allocator import LIBRARIES, preferred_preload, preloaded_environment

linux = pytest.mark.skipif(sys.platform != "linux", reason="allocators are preloaded on Linux only")


@linux
def test_the_most_preferred_library_is_found(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    shutil.copy(sys.executable, first / LIBRARIES[-1])
    assert preferred_preload([first, second]) == first / LIBRARIES[-1]
    shutil.copy(sys.executable, second / LIBRARIES[0])
    assert preferred_preload([first, second]) == second / LIBRARIES[0]


@linux
def test_a_library_for_another_processor_is_passed_over(tmp_path):
    image = bytearray(Path(sys.executable).read_bytes()[:64])
    image[18] ^= 0xFF
    (tmp_path / LIBRARIES[0]).write_bytes(bytes(image))
    (tmp_path / LIBRARIES[1]).write_text("not a library")
    assert preferred_preload([tmp_path]) is None


def test_the_environment_keeps_what_was_preloaded_before(tmp_path):
    library = tmp_path / LIBRARIES[0]
    assert preloaded_environment({"A": "1"}, library) == {"A": "1", "LD_PRELOAD": str(library)}
    assert preloaded_environment({"LD_PRELOAD": "other.so"}, library) == {"LD_PRELOAD": f"{library}:other.so"}
    assert preloaded_environment({"LD_PRELOAD": "/x/libjemalloc.so.2"}, library) is None


@linux
@pytest.mark.skipif(preferred_preload() is None, reason="no such allocator is installed")
def test_a_command_restarts_itself_once_with_its_arguments():
    script = (
        "import os, sys; from farss.training.allocator import restart_with_preload; restart_with_preload();"
        "maps = open('/proc/self/maps').read();"
        f"print(sys.argv[1:], sum(name.split('.')[0] in maps for name in {LIBRARIES!r}) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, "x", "y z"], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["['x', 'y z'] True False"], done.stderr
