"""What one run of the command line knows about itself."""

from __future__ import annotations

import os
import sys
from typing import IO


class Invocation:
    """Passed to every command as click's object. `journal_path` is set when a build begins, so
    that a report of a fault can name it."""

    def __init__(self) -> None:
        self.root_path = ""
        self.journal_path = ""

    def store_root(self, chosen: str | None) -> str:
        """The store to use: the command's `--root`, the program's, else the default."""
        if chosen or self.root_path:
            return os.path.abspath(chosen or self.root_path)
        from arkwright.store.location import default_root

        return default_root()


def debugging() -> bool:
    """Whether ARKWRIGHT_DEBUG asks for tracebacks."""
    return os.environ.get("ARKWRIGHT_DEBUG", "") not in ("", "0")


def wants_color(stream: IO[str] | None = None) -> bool:
    """Whether to colour what goes to `stream` (standard error by default): a capable terminal, and
    NO_COLOR (no-color.org) not set."""
    stream = sys.stderr if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()
