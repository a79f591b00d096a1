"""Recipes of every hostile kind end with a short message; none reaches a model."""

from __future__ import annotations

import os

import pytest

from farss.config import Recipe
from farss.errors import ConfigError


def aliases(levels: int, width: int, leaf: str) -> str:
    text, before = "", leaf
    for level in range(levels):
        text += f"  - &n{level} [{', '.join([before] * width)}]\n"
        before = f"*n{level}"
    return text


TEXTS = {
    "deep list": "name: " + "[" * 5_000 + "]" * 5_000,
    "deep mapping": "name: " + "{a: " * 2_000 + "1" + "}" * 2_000,
    "deep blocks": "".join(f"{' ' * i}a:\n" for i in range(500)),
    "deep sequences": "- " * 3_000 + "a",
    "deep under a key": "eval:\n  seed: " + "[" * 45 + "]" * 45,
    "digits": "eval:\n  knowledge_rows: " + "9" * 5_000,
    "hexadecimal digits": "eval:\n  knowledge_rows: 0x" + "f" * 9_000,
    "beyond 64 bits": "init:\n  rank: " + "9" * 40,
    "beyond 64 bits, negative": "eval:\n  seed: -" + "9" * 40,
    "sexagesimal": "eval:\n  seed: 1" + ":59" * 3_000,
    "infinite rate": "train:\n  learning_rate: .inf",
    "rate beyond floats": "train:\n  learning_rate: 1.0e+999",
    "no number": "train:\n  weight_decay: .nan",
    "infinite scale": "eval:\n  frontier_scales: [.inf]",
    "twice": "eval:\n  seed: 1\n  seed: 2\n",
    "twice at the top": "name: a\neval: {}\nname: b\n",
    "alias bomb": "name:\n" + aliases(9, 9, "lol"),
    "small alias bomb": "name:\n" + aliases(4, 40, "lol"),
    "alias bomb in a key of ours": "methods:\n" + aliases(8, 10, "lora"),
    "alias bomb under an unknown key": "nonsense:\n" + aliases(9, 9, "lol"),
    "merge bomb": "a: &a {x: 1}\nb: &b {<<: [" + "*a, " * 200 + "*a]}\nc: {<<: [" + "*b, " * 200 + "*b]}\n",
    "alias of itself": "name: &a [*a]",
    "unknown alias": "name: *nothing",
    "escapes in a key": '"\\e[2J\\e]0;owned\\a": 1',
    "escapes in a value": 'init: {budget: "\\e[2J\\x9b31m\\u202e"}',
    "escapes in broken YAML": 'name: "\x1b[2J',
    "long key": "k" * 50_000 + ": 1",
    "long value": f"init: {{budget: {'v' * 50_000}}}",
    "long name": f"model: {{name: {'n' * 50_000}}}",
    "NUL in a name": 'model: {name: "a\\0b"}',
    "code": "name: !!python/object/apply:os.system [id]",
    "code by a name": "name: !!python/name:os.system",
    "binary": "name: !!binary aGVsbG8=",
    "date": "name: 2020-01-01",
    "impossible date": "name: 2020-13-99",
    "key that cannot be one": "? [a, b]\n: 1",
    "two documents": "name: a\n---\nname: b\n",
    "a list": "- 1\n- 2\n",
    "a text": "only words",
    "a number for a mapping": "eval: 5",
    "null for a mapping": "eval: null",
    "a null leaf": "eval: {seed: null}",
    "half a character": 'name: "\\uD800"',
    "tabs": "eval:\n\tseed: 1",
    "colons": "a: b: c",
}
BYTES = {
    "not UTF-8": b"name: \xff\xfe",
    "UTF-16": "name: a".encode("utf-16"),
    "NUL bytes": b"name: a\0b",
    "too large": b"# " + b"x" * 200_000,
    "gzip": b"\x1f\x8b\x08\x00rest",
}


@pytest.mark.case("hostile recipes end in tracebacks, hangs and messages without end")
@pytest.mark.parametrize("name", [*TEXTS, *BYTES])
def test_hostile_recipes_are_refused(refused, tmp_path, name):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(BYTES[name] if name in BYTES else TEXTS[name].encode("utf-8"))
    said = refused("eval", "--recipe", path, "--tasks", "facts", "--model", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "no configuration" not in said  # the model was never looked at


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_recipes_that_are_no_files_are_refused(refused, tmp_path, make):
    make(tmp_path / "recipe.yaml")
    for verb in (("run",), ("eval", "--tasks", "facts", "--recipe")):
        refused(*verb, tmp_path / "recipe.yaml", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "value", ["[" * 5_000, "9" * 5_000, "&a [*a]", "{a: 1, a: 2}", "!!python/name:os.system", ".nan", "'\x1b[2J'"]
)
def test_hostile_values_of_set_are_refused(refused, tmp_path, value):
    refused("run", "--set", f"train.learning_rate={value}", "--out", tmp_path / "out")
    refused("run", "--set", f"{value}=1", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("init.rank", 2**70, "too large"),
        ("train.learning_rate", float("inf"), "finite"),
        ("eval.frontier_scales", [float("nan")], "finite"),
        ("name", "a\0b", "can name nothing"),
        ("name", "\ud800", "can name nothing"),
        ("data.task", "x" * 5_000, "can name nothing"),
    ],
)
def test_values_beyond_all_bounds_are_refused(key, value, said):
    with pytest.raises(ConfigError, match=said):
        Recipe().override({key: value})


@pytest.mark.parametrize("word", ["a\0b", "b" * 300, "c/" * 3_000, "\udcff"])
def test_names_that_can_be_of_nothing_are_refused(refused, plain, tmp_path, word):
    refused("eval", "--model", plain, "--tasks", "facts", "--out", word)
    refused("eval", "--model", plain, "--tasks", "facts", "--adapter", word, "--out", tmp_path / "out")
    refused("merge-stats", word, "--out", tmp_path / "out")
    refused("compare", word, "--out", tmp_path / "out")
    refused("export", "--adapter", word, "--out", tmp_path / "out")
    refused("init", "--model", plain, "--plan", word, "--out", tmp_path / "out")
    refused("train", "--init", word, "--out", tmp_path / "out")
