"""The house as ARCHITECTURE has it: who may import what, how modules are named and how long they get."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from house_codes import REPOSITORY, SOURCE, modules

# What may import it, as paths of packages or modules beneath src/arkwright.
ONLY_IN = {
    "ctypes": ("linux",),
    "rich": ("cli/tty.py",),
    "click": ("cli",),
    "http.client": ("net",),
    "urllib.request": ("net",),
    "ssl": ("net",),
    "sqlite3": ("store/metadata.py",),
    "subprocess": (
        "sandbox",
        "sources/git",
        "net/credentials.py",
        "linux",
        "bootstrap",
        "images/transports.py",
        "verify/rebuild.py",
    ),
}
NOWHERE = ("requests", "urllib3", "httpx", "aiohttp", "tarfile", "pickle")
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc", "core", "manager"}
MAX_LINES = 500


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _is(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _within(path: Path, places: tuple[str, ...]) -> bool:
    return any(path == SOURCE / place or SOURCE / place in path.parents for place in places)


@cache
def _every_import() -> tuple[tuple[Path, str, int], ...]:
    return tuple((path, module, line) for path, tree in modules().items() for module, line in _imports(tree))


def _importers(name: str) -> list[tuple[Path, int]]:
    return [(path, line) for path, module, line in _every_import() if _is(module, name)]


@pytest.mark.parametrize("name", ONLY_IN)
def test_library_stays_in_its_room(name: str) -> None:
    importers = _importers(name)
    strangers = [
        f"{path.relative_to(SOURCE)}:{line}" for path, line in importers if not _within(path, ONLY_IN[name])
    ]
    assert strangers == []


@pytest.mark.parametrize("name", ["ctypes", "rich", "click", "http.client", "ssl", "sqlite3", "subprocess"])
def test_the_walk_sees_the_library_where_it_is(name: str) -> None:
    assert _importers(name)


@pytest.mark.parametrize("name", NOWHERE)
def test_library_is_used_nowhere(name: str) -> None:
    assert _importers(name) == []


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip("needs-import-linter: pip install import-linter")
    done = subprocess.run(
        [program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_an_upward_import_breaks_the_contracts(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip("needs-import-linter: pip install import-linter")
    shutil.copytree(SOURCE, tmp_path / "arkwright", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with (tmp_path / "arkwright" / "events" / "stream.py").open("a") as stream:
        stream.write("\nimport arkwright.store.store\n")
    # lint-imports puts the working directory first on the path: the copy is what it reads.
    done = subprocess.run([program, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "arkwright.events.stream -> arkwright.store.store" in done.stdout


def test_modules_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length >= MAX_LINES} == {}


def test_no_module_is_named_for_nothing() -> None:
    names = {part for path in SOURCE.rglob("*.py") for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert names & FORBIDDEN_NAMES == set()


def test_tests_have_unique_names_and_no_packages() -> None:
    paths = sorted((REPOSITORY / "tests").rglob("*.py"))
    names = [path.name for path in paths if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
    assert "__init__.py" not in names


def test_src_parses_with_the_oldest_python() -> None:
    for path in SOURCE.rglob("*.py"):
        ast.parse(path.read_text(), str(path), feature_version=(3, 11))
