"""The reference of the command line, generated from the commands themselves.

`python -m arkwright.cli.reference docs/reference/cli.md` writes it; `./dev docs` runs that.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from arkwright.cli.main import program
from arkwright.cli.table import SECTIONS

_HEAD = """# The command line

Generated from the commands by `./dev docs`; do not edit.

Every option can be given in the environment: `ARKWRIGHT_<COMMAND>_<OPTION>`. `--switch` may be written
`--switch=true` or `--switch=false`.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    parts = [_HEAD]
    root = click.Context(program, info_name="arkwright", **program.context_settings)
    parts.append("## arkwright\n\n" + "\n".join(_body(program, root)))
    for title, entries in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in entries:
            command = program.get_command(root, name)
            assert command is not None
            ctx = click.Context(command, info_name=name, parent=root)
            parts.append(f"### arkwright {name}\n\n" + "\n".join(_body(command, ctx)))
            parts += _inner(command, ctx)
    return "\n".join(parts)


def _inner(group: click.Command, parent: click.Context) -> Iterator[str]:
    """The commands of a command."""
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        ctx = click.Context(command, info_name=name, parent=parent)
        yield f"#### {ctx.command_path}\n\n" + "\n".join(_body(command, ctx))


def _body(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f"```\n{' '.join([ctx.command_path, *command.collect_usage_pieces(ctx)])}\n```\n"
    yield " ".join(_paragraphs(command.help or "")) + "\n"
    rows = [
        record
        for option in command.get_params(ctx)
        if isinstance(option, click.Option) and (record := option.get_help_record(ctx))
    ]
    yield "| Option | Meaning |\n| --- | --- |"
    for spelled, help_text in rows:
        yield f"| `{_cell(spelled)}` | {_cell(help_text)} |"
    yield ""
    if command.epilog:
        yield f"```\n{inspect.cleandoc(command.epilog).replace(chr(8), '').strip()}\n```\n"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def write_reference(path: str) -> None:
    """Write the page."""
    Path(path).write_text(reference())


if __name__ == "__main__":
    write_reference(sys.argv[1])
