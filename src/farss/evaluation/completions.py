"""A model's completion as the text of a program: taken out of its fence, cut where it ends."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Sequence

FENCE = "```"
_FENCE_LINE = re.compile(r"^```[ \t]*([\w+#.-]*)[ \t]*\r?$", re.MULTILINE)


def cut(completion: str, stop: Sequence[str]) -> str:
    """The completion up to the first stop text."""
    ends = [found for found in (completion.find(text) for text in stop) if found >= 0]
    return completion[: min(ends)] if ends else completion


def program_text(completion: str, before: str, stop: Sequence[str], wanted: Iterable[str]) -> str:
    """What a completion contributes to a program.

    A block of code in a Markdown fence is taken whole, without what is said around it; anything else is cut at the
    first stop text, and at a fence that closes one opened in the prompt.

    Args:
        completion: what the model wrote.
        before: program text that it continues.
        stop: where completions outside a fence end.
        wanted: names that the program has to define, by which one of several blocks is chosen.
    """
    text = completion.removeprefix("\ufeff")
    blocks = _blocks(text, before)
    if not blocks:
        closing = _FENCE_LINE.search(text)
        return _with_lost_space(before, cut(text[: closing.start()] if closing else text, stop))
    names = set(wanted)
    return next((block for block in blocks if names & defined(block)), blocks[0])


def defined(source: str) -> set[str]:
    """The names that a program's top level gives to functions, classes and values; none of a broken one."""
    found: set[str] = set()
    for statement in _statements(source):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            found |= _names(ast.walk(statement), ast.Store)
    return found


def used(source: str) -> set[str]:
    """The names that a program uses and does not bind anywhere itself, Python's own among them."""
    nodes = [node for statement in _statements(source) for node in ast.walk(statement)]
    bound = _names(nodes, ast.Store) | {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    bound |= {name for node in nodes for name in _imported(node)}
    return _names(nodes, ast.Load) - bound


def asked_of_the_program(tests: str, reference: str) -> tuple[tuple[str, ...], str]:
    """What tests use of a program, and the imports they need besides.

    Args:
        tests: statements.
        reference: a right program; a name that it defines is the program's even where Python has one like it.

    Returns:
        The names, ascending, and import statements taken from the reference.
    """
    names, own = used(tests), defined(reference)
    imports = [
        ast.unparse(statement) for statement in _statements(reference) if names & set(_imported(statement)) - own
    ]
    brought = {name for statement in _statements("\n".join(imports)) for name in _imported(statement)}
    return tuple(sorted((names & own) | (names - brought - set(dir(builtins))))), "\n".join(imports)


def _with_lost_space(before: str, text: str) -> str:
    """The text, with the space in front that some tokenizers drop where only that makes it a program."""
    lost = text.startswith(" ") and not _statements(before + text) and _statements(f"{before} {text}")
    return f" {text}" if lost else text


def opening_fence(completion: str) -> str | None:
    """The beginning of a completion up to the end of the fence that it opens; None if it does not begin with one."""
    first = _FENCE_LINE.search(f"{completion}\n")
    return None if first is None or completion[: first.start()].strip() else completion[: first.end()]


def _blocks(text: str, before: str) -> list[str]:
    """The texts in fences; none where the first fence closes what the prompt has opened."""
    fences = list(_FENCE_LINE.finditer(text))
    if not fences:
        return []
    outside = text[: fences[0].start()]
    if not fences[0][1] and outside.strip() and _statements(before + outside):
        return []
    blocks = []
    for number in range(0, len(fences), 2):
        ends = fences[number + 1].start() if number + 1 < len(fences) else len(text)
        blocks.append(text[fences[number].end() : ends].removeprefix("\n"))
    return blocks


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what a model writes need not be a program
        return []


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0]


def _names(nodes: Iterable[ast.AST], context: type[ast.expr_context]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
