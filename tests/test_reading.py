"""Files are read with limits, and what is beyond them is refused by name, quickly and shortly."""

from __future__ import annotations

import os
import time

import pytest

from farss.errors import AdapterError, ConfigError, FarssError
from farss.foreign import foreign
from farss.patterns import full_matches
from farss.reading import DEPTH, Document, check_depth, encodable, open_ordinary, stays_inside
from farss.yaml_text import parse_yaml

NOTE = Document("note", ConfigError, most_bytes=200_000)


def refused(act, *arguments, within: float = 3.0) -> str:
    started = time.perf_counter()
    with pytest.raises(FarssError) as caught:
        act(*arguments)
    assert time.perf_counter() - started < within
    assert len(str(caught.value)) < 2_000
    return str(caught.value)


JSON = {
    "brackets": ('{"a": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deeply"),
    "a little too deep": ("[" * (DEPTH + 2) + "]" * (DEPTH + 2), "nested too deeply"),
    "objects": ('{"a": ' * 300 + "1" + "}" * 300, "nested too deeply"),
    "digits": ('{"a": ' + "9" * 5_000 + "}", "digits"),
    "negative digits": ('{"a": -' + "9" * 500 + "}", "digits"),
    "twice": ('{"a": {"b": 1, "b": 2}}', "a key comes twice"),
    "NaN": ('{"a": NaN}', "NaN"),
    "infinite": ('{"a": [-Infinity]}', "NaN or infinite"),
    "half a character": ('{"a": ["\\ud83d"]}', "half of a character"),
    "half in a key": ('{"\\uDE00": 1}', "half of a character"),
    "cut": ('{"a": [1,', "not valid JSON"),
    "empty": ("", "not valid JSON"),
}


@pytest.mark.case("deep, huge and doubtful JSON ends in a traceback or a hang")
@pytest.mark.parametrize("name", JSON)
def test_json_beyond_the_limits_is_refused(name):
    text, told = JSON[name]
    assert told in refused(NOTE.parse_json, text, "there")


def test_json_within_the_limits_is_read():
    assert NOTE.parse_json('{"a": [1, -2.5e3, "\\ud83d\\ude00", null]}', "x") == {"a": [1, -2500.0, "😀", None]}
    assert Document("note", ConfigError, finite=False).parse_json("[Infinity]", "x") == [float("inf")]
    wide = [[1] for _ in range(1_000)]
    check_depth(wide)
    assert NOTE.parse_json(str(wide), "x") == wide


def test_yaml_beyond_the_limits_is_refused():
    bomb = "name:\n" + "".join(
        f"  - &{name} [{', '.join([f'*{before}' if before else 'lol'] * 9)}]\n"
        for before, name in zip(" abcdefg".replace(" ", "\0"), "abcdefgh", strict=True)
    ).replace("*\0", "lol")
    merges = "a: &a {x: 1}\n" + "".join(
        f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 60)}]}}\n"
        for before, name in zip("abcd", "bcde", strict=True)
    )
    for text, told in (
        (bomb, "too many values"),
        (merges, "cannot be used"),
        ("&a [*a]", "nested too deeply"),
        ("a: " + "[" * 3_000, "nested too deeply"),
        ("a: " + "9" * 5_000, "digits"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "a key comes twice"),
        ("a: 2020-99-99", "not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ('a: "\\ud800"', ""),
    ):
        assert told in refused(parse_yaml, text, NOTE, "there"), text[:50]


def test_yaml_within_the_limits_is_read():
    text = "a: &rates [1.0e-4, 2.0e-4]\nb: {c: *rates, d: *rates}\ne: {<<: {x: 1}, x: 2}\n"
    assert parse_yaml(text, NOTE, "x") == {
        "a": [1e-4, 2e-4],
        "b": {"c": [1e-4, 2e-4], "d": [1e-4, 2e-4]},
        "e": {"x": 2},
    }


@pytest.mark.case("a pipe given as a file hangs")
def test_only_ordinary_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "missing", "a\0b", "n" * 5_000):
        told = refused(NOTE.read_text, name)
        assert "cannot be read" in told or "does not exist" in told
    (tmp_path / "large").write_bytes(b" " * 200_001)
    assert "larger" in refused(NOTE.read_text, tmp_path / "large")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{}")
    assert "UTF-8" in refused(NOTE.read_text, tmp_path / "bytes")
    (tmp_path / "marked").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "link").symlink_to("marked")
    assert NOTE.read_object(tmp_path / "link") == {"a": 1}
    (tmp_path / "list").write_text("[]")
    assert "must be a JSON object" in refused(NOTE.read_object, tmp_path / "list")
    with open_ordinary(tmp_path / "marked") as file:
        assert file.read(1) == b"\xef"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "..", "", "a\0b", "C:x", "a\\..\\b", 5, None, "n" * 2_000]
)
def test_names_that_lead_out_of_their_folder(name):
    assert not stays_inside(name)


def test_names_that_stay():
    assert all(map(stays_inside, ("model-00001-of-00002.safetensors", "sub/file", "a..b", "übung")))
    assert encodable({"a": ["ü", 1]}) and not encodable({"a": ("\udfff",)})


NAMES = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in range(20) for kind in "qkvo"]


@pytest.mark.case("regular expressions of a foreign adapter run for ever")
@pytest.mark.parametrize("pattern", ["(.*.*)*(a|a)*!$", "^(([a-z._0-9]+)+)+!$", "(([a-z._0-9]+)+)+!"])
def test_patterns_that_never_end_are_refused(pattern):
    assert "takes too long" in refused(lambda: full_matches([pattern], NAMES, error=AdapterError, where="x"), within=15)


def test_patterns_match_as_python_does():
    both = full_matches([r".*\.[01]\..*(q|v)_proj", NAMES[0]], NAMES, error=AdapterError, where="x")
    assert [len(found) for found in both] == [4, 1]
    assert full_matches([NAMES[3]], NAMES, error=AdapterError, where="x") == [[NAMES[3]]]
    for wrong in ("(", "a{99999999999}", "(" * 5_000):
        assert "not a regular expression" in refused(
            lambda text=wrong: full_matches([text], NAMES, error=AdapterError, where="x")
        )


class PanicException(BaseException):
    """As the tokenizers library has one."""


@pytest.mark.parametrize("raised", [KeyError("a"), Exception("untagged"), PanicException("x"), RecursionError()])
def test_what_a_library_raises_becomes_ours(raised):
    def act():
        with foreign(AdapterError, "it cannot be loaded", where="folder", do="make it anew"):
            raise raised

    told = refused(act)
    assert "it cannot be loaded" in told and type(raised).__name__ in told


@pytest.mark.parametrize("raised", [ConfigError("ours"), KeyboardInterrupt(), SystemExit(1)])
def test_what_is_not_a_librarys_passes(raised):
    with pytest.raises(type(raised)) as caught, foreign(AdapterError, "it cannot be loaded", where="folder"):
        raise raised
    assert caught.value is raised
