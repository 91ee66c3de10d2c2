"""Faults put into the Dockerfile front end, one at a time, for the cases to find.

A mutant is one small change of the syntax tree of `src/arkwright/frontends/dockerfile`: a condition
swapped or negated, a branch or an element dropped, a constant off by one. Which fifty are taken is
decided by a hash of a seed and of where the change is (module, function, kind, count), so that the
choice hardly moves when the front end changes.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from conformance_cases import Case
from conformance_play import Arkwright
from conformance_site import CaseSite

import arkwright

SEED = "arkwright-1"
COUNT = 50
PACKAGE = Path(arkwright.__file__).parent
FRONTEND = Path("frontends/dockerfile")
# Only words for people are in these.
_LEFT_OUT = frozenset({"__init__.py", "suggest.py", "findings.py", "rules.py"})
_WORDS = frozenset({"hint", "message", "details", "note"})
_SWAPS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


class Mutant(msgspec.Struct, frozen=True):
    """A change: its name, the module, and how many-eth node of the module's walk is changed."""

    name: str
    module: str
    index: int
    kind: str
    line: int


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """The kinds of change that fit a node, and what makes them."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "compare", _swap_compare
    elif isinstance(node, ast.BoolOp):
        yield "and-or", _swap_bool
    elif isinstance(node, ast.If):
        yield "negate", _negate
        if not node.orelse:
            yield "drop-branch", _drop_branch
    elif isinstance(node, ast.IfExp):
        yield "negate", _negate
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "drop-not", lambda node: node.operand  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield "constant", _other_constant
    elif isinstance(node, ast.Set | ast.Dict) and len(_elements(node)) > 1:
        yield "drop-element", _drop_element


def _swap_compare(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Compare)
    node.ops = [_SWAPS[type(node.ops[0])]()]
    return node


def _swap_bool(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    return node


def _negate(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.If | ast.IfExp)
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    return node


def _drop_branch(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.If)
    node.body = [ast.Pass()]
    return node


def _other_constant(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Constant)
    value = node.value
    return ast.Constant(not value if isinstance(value, bool) else value + 1)  # type: ignore[operator]


def _elements(node: ast.AST) -> list[ast.expr]:
    return node.values if isinstance(node, ast.Dict) else node.elts  # type: ignore[attr-defined, no-any-return]


def _drop_element(node: ast.AST) -> ast.AST:
    """The last one but one: neither end is special."""
    if isinstance(node, ast.Dict):
        del node.keys[-2]
    del _elements(node)[-2]
    return node


def _walk(tree: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST, str, int | None]]:
    """Nodes that may be changed, depth first: function, node, parent, field, place in the field."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST, ast.AST, str, int | None]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "keywords") and not (
                field == "keywords" and isinstance(node, ast.Call)
            ):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(child, ast.AST) and not _only_words(child):
                    yield function, child, node, field, place
                    yield from visit(child, function)

    return visit(tree, "")


def _only_words(node: ast.AST) -> bool:
    """Messages for people, and blocks for the type checker."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg in _WORDS):
        return True
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def all_mutants(package: Path = PACKAGE) -> list[Mutant]:
    """Every change that could be made."""
    paths = sorted((package / FRONTEND).glob("*.py"))
    return [mutant for path in paths if path.name not in _LEFT_OUT for mutant in _of_module(path)]


def _of_module(path: Path) -> Iterator[Mutant]:
    counts: dict[str, int] = {}
    for index, (function, node, *_) in enumerate(_walk(ast.parse(path.read_bytes()))):
        for kind, _ in _changes(node):
            place = f"{path.stem}.{function}".rstrip(".") + f":{kind}"
            counts[place] = counts.get(place, 0) + 1
            yield Mutant(f"{place}:{counts[place]}", path.name, index, kind, getattr(node, "lineno", 0))


def chosen(count: int = COUNT, seed: str = SEED) -> list[Mutant]:
    """The seeded choice, without those that are known to change nothing."""
    left_out = remembered("equivalent")
    mutants = [mutant for mutant in all_mutants() if mutant.name not in left_out]
    return sorted(mutants, key=lambda mutant: _hash(seed, mutant.name))[:count]


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def remembered(table: str) -> Mapping[str, str]:
    """`killers` (which case found a mutant last time) or `equivalent` (why one changes nothing)."""
    path = Path(__file__).with_name("mutants.toml")
    found = tomllib.loads(path.read_text()).get(table, {}) if path.exists() else {}
    assert isinstance(found, dict)
    return found


def source_of(mutant: Mutant, package: Path = PACKAGE) -> str:
    """The changed module's text."""
    # The file may have changed since the mutant was found: its name holds, its place need not.
    mutant = next(
        found for found in _of_module(package / FRONTEND / mutant.module) if found.name == mutant.name
    )
    tree = ast.parse((package / FRONTEND / mutant.module).read_bytes())
    _, node, parent, field, place = list(_walk(tree))[mutant.index]
    change = dict(_changes(node))[mutant.kind](copy.deepcopy(node))
    if place is None:
        setattr(parent, field, change)
    else:
        getattr(parent, field)[place] = change
    return ast.unparse(ast.fix_missing_locations(tree))


def write_mutant(mutant: Mutant, folder: Path) -> None:
    """A copy of the package with one change, in `folder/arkwright`; compiled files come along."""
    subprocess.run(["cp", "-a", str(PACKAGE), str(folder / "arkwright")], check=True)
    target = folder / "arkwright" / FRONTEND / mutant.module
    text = source_of(mutant)
    target.write_text(text)
    for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*"):
        stale.unlink()
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def killer(mutant: Mutant, player: Arkwright, cases: Sequence[Case], site: CaseSite, first: str = "") -> str:
    """The id of a case that a mutant fails and the program passes; empty if it lives."""
    folder = player.scratch / "mutant"
    folder.mkdir()
    try:
        write_mutant(mutant, folder)
        changed = player.with_package(folder)
        hint = first or remembered("killers").get(mutant.name, "")
        order = sorted(cases, key=lambda case: (case.id != hint, _hash(mutant.name, case.id)))
        for case in order:
            if _fails(changed, case, site) and not player.differences(case, site):
                return case.id
        return ""
    finally:
        shutil.rmtree(folder)


def _fails(player: Arkwright, case: Case, site: CaseSite) -> bool:
    try:
        return bool(player.differences(case, site))
    except (subprocess.TimeoutExpired, AssertionError):
        return True
