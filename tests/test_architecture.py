"""The house rules that a machine can check: floors, heavy imports, file length, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "farss"
FLOORS = {
    "errors": 0,
    "amounts": 0,
    "foreign": 0,
    "patterns": 0,
    "printable": 0,
    "reading": 0,
    "bounded": 0,
    "yaml_text": 0,
    "config": 0,
    "data_settings": 0,
    "method_settings": 0,
    "settings": 0,
    "train_settings": 0,
    "storage": 0,
    "plugins": 0,
    "processes": 0,
    "sandbox": 0,
    "maths": 1,
    "model": 2,
    "datasets": 2,
    "statistics": 3,
    "adapters": 4,
    "training": 4,
    "evaluation": 4,
    "pruning": 4,
    "methods": 5,
    "report": 6,
    "experiment": 6,
    "cli": 6,
}
HEAVY = {"accelerate", "datasets", "lm_eval", "peft", "transformers", "trl"}
LIGHT_FLOORS = (0, 1)
ENTRANCES = {"__init__", "__main__"}  # of the package itself: they name every floor
MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import statement's target; `deferred` when it runs only inside a function or for a type checker."""

    module: str
    line: int
    deferred: bool


def imports(tree: ast.AST, package: str, deferred: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, deferred)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, deferred)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            yield from imports(node, package, deferred or inside)


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def parse(root: Path, file: Path) -> tuple[str, ast.Module, str]:
    """The room, the tree and the dotted package of a source file."""
    parts = file.relative_to(root).parts
    return room_of(parts), ast.parse(file.read_text(encoding="utf-8")), ".".join(("farss", *parts[:-1]))


def sources(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def floor_violations(root: Path) -> list[str]:
    found = []
    for file in sources(root):
        room, tree, package = parse(root, file)
        if room in ENTRANCES:
            continue
        if room not in FLOORS:
            found.append(f"{file.relative_to(root)}: room `{room}` is on no floor")
            continue
        for item in imports(tree, package):
            names = item.module.split(".")
            if names[0] != "farss" or len(names) < 2:
                continue
            if FLOORS.get(names[1], 0 if names[1] == "__version__" else 99) > FLOORS[room]:
                found.append(f"{file.relative_to(root)}:{item.line}: {room} imports {item.module} from a higher floor")
    return found


def heavy_violations(root: Path) -> list[str]:
    found = []
    for file in sources(root):
        room, tree, package = parse(root, file)
        if room not in ENTRANCES and FLOORS.get(room) not in LIGHT_FLOORS:
            continue
        for item in imports(tree, package):
            if item.module.split(".")[0] in HEAVY and not item.deferred:
                found.append(f"{file.relative_to(root)}:{item.line}: {item.module} is imported with the module")
    return found


def length_violations(root: Path) -> list[str]:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sources(root)}
    return [f"{file.relative_to(root)}: {n} lines" for file, n in lengths.items() if n > MOST_LINES]


def docstring_violations(root: Path) -> list[str]:
    found = []

    def visit(body: list[ast.stmt], file: Path, owner: str) -> None:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            told = any(ast.unparse(mark).split(".")[-1] in ("overload", "setter") for mark in node.decorator_list)
            if ast.get_docstring(node) is None and not told:
                found.append(f"{file.relative_to(root)}:{node.lineno}: {owner}{node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                visit(node.body, file, f"{owner}{node.name}.")

    for file in sources(root):
        visit(parse(root, file)[1].body, file, "")
    return found


def sandbox_violations(root: Path) -> list[str]:
    """What the sandbox knows of ours beside the errors."""
    found = []
    for file in sources(root):
        room, tree, package = parse(root, file)
        ours = [item for item in imports(tree, package) if item.module.startswith("farss.") and room == "sandbox"]
        found += [
            f"{file.relative_to(root)}:{item.line}: the sandbox imports {item.module}"
            for item in ours
            if item.module.split(".")[1] not in ("errors", "sandbox")
        ]
    return found


CHECKS = [floor_violations, heavy_violations, length_violations, docstring_violations, sandbox_violations]


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_rules_hold(check):
    assert check(SOURCE) == []


PLANTED = {
    "upward import": ("maths/scores.py", "from farss.model.plan import Plan\n", floor_violations),
    "upward import in a function": ("maths/a.py", "def _f():\n    import farss.cli\n", floor_violations),
    "upward import of a room": ("maths/a.py", "from farss import model\n", floor_violations),
    "relative upward import": ("maths/a.py", "from ..model import plan\n", floor_violations),
    "sideways from base": ("errors.py", "from farss.maths import ranks\n", floor_violations),
    "room on no floor": ("attic/a.py", "", floor_violations),
    "heavy import": ("maths/a.py", "import peft.tuners\n", heavy_violations),
    "heavy import under try": (
        "storage.py",
        "try:\n    from datasets import x\nexcept OSError:\n    x = 1\n",
        heavy_violations,
    ),
    "heavy import in a class": ("config.py", "class A:\n    import trl\n", heavy_violations),
    "heavy import of the package": ("__init__.py", "import transformers\n", heavy_violations),
    "sandbox that knows more": ("sandbox/a.py", "from farss.storage import x\n", sandbox_violations),
    "long file": ("maths/a.py", "x = 1\n" * (MOST_LINES + 1), length_violations),
    "bare function": ("maths/a.py", "def f():\n    return 1\n", docstring_violations),
    "bare method": ("maths/a.py", "class A:\n    '''A.'''\n    def f(self):\n        return 1\n", docstring_violations),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name, tmp_path):
    path, text, check = PLANTED[name]
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert len(check(tmp_path)) == 1, f"{name} was not found"


ALLOWED = {
    "downward import": ("methods/a.py", "from farss.maths.scores import x\nfrom ..model import plan\n"),
    "own floor": ("report/a.py", "from farss.cli import x\nfrom farss import __version__\n"),
    "our datasets are not the package": ("datasets/a.py", "from farss.datasets import x\n"),
    "deferred heavy import": ("maths/a.py", "def _f():\n    import peft\n"),
    "heavy import for types": ("maths/a.py", "if TYPE_CHECKING:\n    import peft\n"),
    "heavy import upstairs": ("training/a.py", "import peft\n"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_not_reported(name, tmp_path):
    path, text = ALLOWED[name]
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert [problem for check in CHECKS for problem in check(tmp_path)] == []


def test_importing_the_package_loads_nothing_heavy():
    heavy = sorted(HEAVY | {"torch"})
    script = f"import sys, farss; farss.Recipe; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_listed():
    import farss

    assert set(farss.__all__) == set(farss._HOMES)
    assert set(farss.__all__) <= set(dir(farss))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        farss.nothing  # noqa: B018
