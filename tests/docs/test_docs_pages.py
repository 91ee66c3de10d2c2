"""The documentation: its links lead somewhere, its commands exist, its generated page is current."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from arkwright.cli.main import program
from arkwright.cli.reference import reference

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(path for path in REPOSITORY.glob("*.md")),
    *sorted(path for path in (REPOSITORY / "docs").rglob("*.md") if path.parent.name != "errors"),
    REPOSITORY / "docs" / "reference" / "errors" / "README.md",
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```$", re.M | re.S)
# The commands of a shell line stand at its start, after `$ ` or after a pipe.
COMMAND = re.compile(r"(?:^|\| )(?:\$ )?arkwright ([^|#\n]+)", re.M)


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        if page.name == "cli.md":
            continue
        for block in BLOCK.findall(page.read_text()):
            for line in COMMAND.findall(block):
                yield page.name, shlex.split(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_commands_and_options_exist() -> None:
    root = click.Context(program, info_name="arkwright", **program.context_settings)
    unknown = []
    for page, words in _commands():
        command = program.get_command(root, words[0])
        if command is None:
            unknown.append(f"{page}: {words[0]}")
            continue
        parent = click.Context(command, parent=root)
        if isinstance(command, click.Group) and len(words) > 1:
            inner = command.get_command(parent, words[1])
            if inner is None:
                unknown.append(f"{page}: {words[0]} {words[1]}")
                continue
            command = inner
        known = {
            name
            for option in command.get_params(click.Context(command, parent=parent))
            for name in (*option.opts, *option.secondary_opts)
        }
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        options = [word.partition("=")[0] for word in own if word.startswith("--")]
        unknown += [f"{page}: {words[0]} {option}" for option in options if option not in known]
    assert unknown == []


def test_the_walk_sees_the_commands() -> None:
    commands = {words[0] for _, words in _commands()}
    assert {"bootstrap", "build", "run", "push", "pull", "save", "load"} <= commands


def test_command_line_reference_is_current() -> None:
    page = REPOSITORY / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference(), "run ./dev docs"


def test_decisions_are_numbered_without_gaps() -> None:
    paths = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in paths]
    assert numbers == list(range(1, len(paths) + 1))
    for number, path in zip(numbers, paths, strict=True):
        assert path.read_text().startswith(f"# {number}. ")


def test_scrubbed_files_are_those_of_the_program() -> None:
    from arkwright.layer.profile import SCRUB_DEFAULT

    text = (REPOSITORY / "docs" / "reference" / "layers.md").read_text()
    section = text.partition("## Scrubbed files")[2].partition("\n## ")[0]
    assert re.findall(r"^- `([^`]+)`", section, re.M) == list(SCRUB_DEFAULT)
