"""Conformance cases as data: read from TOML, every key known and every value of its form.

The format is told in README.md. Whatever is wrong in a case file is told with its
file, case and key (`problems`), so that no expectation is ever dropped unseen.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from conformance_nodes import Node, read_nodes
from conformance_sections import known_section

FOLDER = Path(__file__).parent
CASES = FOLDER / "cases"
JUDGES = ("buildah", "docker")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ROW = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
# Steps that write down what the kernel calls a namespace: no two runs have the same.
OF_THE_KERNEL = ("run-network-of-the-step-beats-that-of-the-build",)
_KINDS = ("fact", "docs", "oci", "buildkit", "judge", "decision")


class Commit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A commit of a repository: files written (or taken away: "absent"), and names that it gets."""

    files: dict[str, Any] = {}
    tag: str = ""
    branch: str = ""


class Repository(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A git repository: commits in order."""

    commits: tuple[Commit, ...]


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image made by hand: `from` with a config and files of its own."""

    parent: str = msgspec.field(name="from", default="busybox")
    config: dict[str, Any] = {}
    files: dict[str, Any] = {}
    platform: str = ""
    history: bool = True


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another build of the same context in the same store; `args` None: those of the first build."""

    change: dict[str, Any] = {}
    dockerfile: str | None = None
    args: tuple[str, ...] | None = None
    cached: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    printed: tuple[str, ...] = ()
    same: bool | None = None
    error: str = ""
    tree: dict[str, Any] = {}
    config: dict[str, Any] = {}


# In JSON: at the beginning of a text, of a line in it, or behind ONBUILD.
_RUN = re.compile(r'(?i)("|\\n|ONBUILD)[ \\t]*RUN\b')


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case; the keys are told in README.md."""

    id: str
    source: str
    rows: tuple[str, ...]
    dockerfile: str = ""
    args: tuple[str, ...] = ()
    positional: str = ""
    stdin: str = ""
    env: dict[str, str] = {}
    layers: int | None = None
    printed: tuple[str, ...] = ()
    error: str = ""
    status: int = 0
    at: str = ""
    findings: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    root_only: str = ""
    platform: str = ""
    context: dict[str, Any] = {}
    side: dict[str, Any] = {}
    site: dict[str, Any] = {}
    git: dict[str, Repository] = {}
    bases: dict[str, Base] = {}
    tree: dict[str, Any] = {}
    config: dict[str, Any] = {}
    image: dict[str, Any] = {}
    judges: dict[str, str] = {}
    again: tuple[Again, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the case is about something refused, or found by a check."""
        return bool(self.error or self.findings)

    @property
    def runs_nothing(self) -> bool:
        """Whether no Dockerfile of the case, nor a trigger of a base, has a RUN."""
        places = (
            self.dockerfile,
            self.stdin,
            self.context,
            self.side,
            self.site,
            self.git,
            self.bases,
            self.again,
        )
        return not _RUN.search(msgspec.json.encode(places).decode())

    @property
    def accepted(self) -> bool:
        """Whether the case is about something that builds."""
        return not self.error and not self.findings


class Row(msgspec.Struct, frozen=True):
    """A source of an expectation: `kind` and what it names."""

    kind: str
    name: str


def parse_source(text: str) -> Row:
    """Read `kind:name`. Raises `ValueError`."""
    kind, colon, name = text.partition(":")
    if kind not in _KINDS or not colon or not name.strip():
        raise ValueError(f"source {text!r}: one of {', '.join(k + ':…' for k in _KINDS)} is needed")
    forms: Mapping[str, Callable[[str], object]] = {
        "fact": lambda name: name in facts(),
        "docs": known_section,
        "oci": lambda name: re.fullmatch(r"[a-z-]+\.md#[a-z0-9-]+", name),
        "buildkit": lambda name: re.fullmatch(r"[\w.-]+(/[\w.*-]+)+(#[\w-]+)?", name),
        "judge": lambda name: re.fullmatch(r"(buildah|docker|podman|kaniko|buildkit) \d[\w.+~-]*", name),
        "decision": _ROW.fullmatch,
    }
    if not forms[kind](name):
        where = " (they are in conformance_sections.py)" if kind == "docs" else ""
        raise ValueError(f"source {text!r}: {name!r} is no {kind}{where}")
    return Row(kind, name)


@cache
def facts() -> Mapping[str, str]:
    return _table(FOLDER / "facts.toml")


@cache
def inventory() -> Mapping[str, str]:
    return _table(FOLDER / "inventory.toml")


def _table(path: Path) -> Mapping[str, str]:
    found = tomllib.loads(path.read_text())
    for key, value in found.items():
        if not isinstance(value, str) or not _ROW.fullmatch(key):
            raise ValueError(f"{path.name}: {key!r} is not an id with a line of text")
    return found


def load_file(path: Path) -> tuple[list[Case], list[str]]:
    """The cases of one file, and what is wrong with those that are not read."""
    try:
        found = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        return [], [f"{path.name}: {error}"]
    cases = []
    problems = [f"{path.name}: only [[case]] is known, not {key!r}" for key in found if key != "case"]
    for number, fields in enumerate(found.get("case", []), 1):
        try:
            cases.append(_read(path, number, fields))
        except ValueError as error:
            problems.append(str(error))
    return cases, problems


def _read(path: Path, number: int, fields: Mapping[str, Any]) -> Case:
    place = f"{path.name}: case {fields.get('id', f'number {number}')!r}"
    try:
        case = msgspec.convert(fields, Case)
        _check(case)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
    return case


def _check(case: Case) -> None:
    if not _ID.fullmatch(case.id):
        raise ValueError("an id is words of a-z and 0-9 joined by dashes")
    parse_source(case.source)
    unknown = [row for row in case.rows if row not in inventory()]
    if unknown or not case.rows:
        raise ValueError(f"rows are ids of inventory.toml, not {unknown}")
    if not case.dockerfile and "Dockerfile" not in case.context and not (
        case.args or case.positional or "dockerfile" in case.context
    ):  # fmt: skip
        raise ValueError("there is no dockerfile")
    if case.dockerfile and "Dockerfile" in case.context:
        raise ValueError("the dockerfile is given twice")
    if case.at and not re.fullmatch(r"\d+:\d+", case.at):
        raise ValueError(f"at is line:column, not {case.at!r}")
    _check_expectations(case)
    for table, where in ((case.context, "context"), (case.side, "side"), (case.site, "site")):
        read_nodes(table, where)
    read_nodes(case.tree, "tree", result=True)
    for base in case.bases.values():
        read_nodes(base.files, "files")
    for again in case.again:
        read_nodes(again.change, "change")
        read_nodes(again.tree, "tree", result=True)
        _check_again(again)


def _check_expectations(case: Case) -> None:
    looked_at = (case.tree, case.config, case.image, case.printed, case.warnings, case.again)
    if case.error and (any(looked_at[:3]) or case.again or case.layers is not None):
        raise ValueError("a refused case has no tree, config, image, layers or again")
    if case.findings is not None:
        if "--check" not in case.args:
            raise ValueError('findings need args = ["--check"]')
        if case.tree or case.config or case.image or case.again or case.printed:
            raise ValueError("a checked case has no result")
        for line in case.findings:
            if not re.fullmatch(r"[\w-]+ (\d+|-)", line):
                raise ValueError(f"a finding is `Rule line`, not {line!r}")
    if (case.at or case.status) and not case.error:
        raise ValueError("at and status are for cases with an error")
    for judge, why in case.judges.items():
        if judge not in JUDGES:
            raise ValueError(f"judges are {', '.join(JUDGES)}, not {judge}")
        if why not in ("unknown-syntax", "not-applicable") and parse_source(why).kind not in (
            "decision",
            "fact",
        ):
            raise ValueError(f"a judge's difference is a decision, a fact or unknown-syntax, not {why!r}")


def _check_again(again: Again) -> None:
    wanted = (again.cached, again.ran, again.printed, again.error, again.tree, again.config)
    if not any(wanted) and again.same is None:
        raise ValueError("an again without any expectation")


@cache
def _survey() -> tuple[Sequence[Case], Sequence[str]]:
    found: dict[str, Case] = {}
    wrong: list[str] = []
    for path in sorted(CASES.glob("*.toml")):
        cases, problems = load_file(path)
        wrong += problems
        for case in cases:
            if case.id in found:
                wrong.append(f"{path.name}: the id {case.id!r} is there twice")
            found[case.id] = case
    return tuple(found.values()), tuple(wrong)


def load_all() -> Sequence[Case]:
    """Every case of the suite that can be read, in order of files."""
    return _survey()[0]


def problems() -> Sequence[str]:
    """What is wrong in the case files, one line each; a test asks for none."""
    return _survey()[1]


__all__ = [
    "Again",
    "Base",
    "Case",
    "Commit",
    "Node",
    "Repository",
    "load_all",
    "load_file",
    "parse_source",
    "problems",
]
