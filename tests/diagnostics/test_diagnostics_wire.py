"""Types that threads decode are made ready at import: the program's own code, and what happens without it."""

from __future__ import annotations

import ast
from pathlib import Path

import arkwright

SOURCE = Path(arkwright.__file__).parent
# Packages whose code runs on threads. Of `cache`, what only clean-up, history and settings read is not.
THREADED = ("cache", "net", "oci", "ops", "registry", "sandbox", "snapshot", "sources", "store")
SINGLE = {"AnyEvent", "Held", "Download", "_Declared", "Growth", "State", "Use"}


def test_types_that_threads_decode_are_ready() -> None:
    decoded: dict[str, str] = {}
    made_ready: set[str] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        local = {
            node.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.ClassDef)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name == "ready":
                made_ready |= {ast.unparse(one) for one in node.args}
            elif name in ("msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.convert"):
                kinds = {ast.unparse(one.value) for one in node.keywords if one.arg == "type"}
                kinds |= {ast.unparse(one) for one in node.args[1:2]}
                if path.relative_to(SOURCE).parts[0] in THREADED:
                    decoded.update({kind: str(path) for kind in kinds - local if "[" not in kind})
    assert decoded
    missing = {kind: where for kind, where in decoded.items() if kind not in made_ready | SINGLE}
    assert missing == {}, "see diagnostics.wire"
