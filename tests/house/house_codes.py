"""The error codes of the package, found in its source.

A code is the first argument of `SomeError.of` and of every function that names its first
parameter `code`; the keyword `code` of any call, and the default of a parameter `code`. A module
that passes a variable on keeps its codes in assignments to `code`, at the front of tuples, or as
the values of a table: there these count as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "arkwright"

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
_ERRORS = {"ArkwrightError", "UserError", "StepFailed", "UsageError", "Denied", "HostUnsupported"}
_ERRORS |= {"RemoteError", "Cancelled"}


def modules() -> dict[Path, ast.Module]:
    """Every module of the package, parsed."""
    return {path: ast.parse(path.read_text(), str(path)) for path in sorted(SOURCE.rglob("*.py"))}


@cache
def error_codes() -> dict[str, list[str]]:
    """Every code with the places, `path:line`, that use it."""
    trees = modules()
    takers = {name for tree in trees.values() for name in _takers(tree)}
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for code, line in _codes(tree, takers):
            found.setdefault(code, []).append(f"{path.relative_to(REPOSITORY)}:{line}")
    return found


def _takers(tree: ast.Module) -> Iterator[str]:
    """Functions of ours whose first parameter is a code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if names[:1] == ["code"]:
                yield node.name


def _codes(tree: ast.Module, takers: set[str]) -> Iterator[tuple[str, int]]:
    passes_on = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for argument in _arguments(node, takers):
                passes_on |= not isinstance(argument, ast.Constant)
                yield from _texts(argument, _CODE)
        elif isinstance(node, ast.FunctionDef):
            yield from _defaults(node)
    if passes_on:
        for node in ast.walk(tree):
            yield from _tabled(node)


def _arguments(call: ast.Call, takers: set[str]) -> Iterator[ast.expr]:
    """What a call passes as a code."""
    yield from (word.value for word in call.keywords if word.arg == "code")
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr == "of":
        takes = isinstance(function.value, ast.Name) and function.value.id in _ERRORS
    else:
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        takes = name in takers - {"of"}
    if takes and call.args:
        yield call.args[0]


def _defaults(function: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    pairs = [*zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)]
    positional = [*function.args.posonlyargs, *function.args.args]
    count = len(function.args.defaults)
    pairs += zip(positional[len(positional) - count :], function.args.defaults, strict=True)
    for argument, default in pairs:
        if argument.arg == "code" and default is not None:
            yield from _texts(default, _CODE)


def _tabled(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
        yield from _texts(node.elts[0], _KEBAB)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            if isinstance(value, ast.Constant):
                yield from _texts(value, _KEBAB)
    elif isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "code" for target in node.targets
    ):
        yield from _texts(node.value, _KEBAB)


def _texts(node: ast.expr, pattern: re.Pattern[str]) -> Iterator[tuple[str, int]]:
    """The constants that an expression can be: itself, or either side of a condition."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, pattern)
        yield from _texts(node.orelse, pattern)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value):
        yield node.value, node.lineno
