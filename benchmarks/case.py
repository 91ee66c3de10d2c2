"""What a case is: contexts made once, a first build, and then work that is measured turn by turn."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.contestants import Contestant
from benchmarks.measure import Work
from benchmarks.site import Site

MIB = 1 << 20


class Case:
    """One case, at a scale: 1 is the size that the results are of.

    The order for each contestant: `start` (not measured), then for each turn `before` (not measured),
    `work` (measured), `after`. `token` is different for every turn and contestant.
    """

    group: ClassVar[str] = ""
    id: str = ""
    text: str = ""
    needs: ClassVar[tuple[str, ...]] = ()
    bases: ClassVar[tuple[str, ...]] = ("busybox",)
    most_turns: int = 1000
    needed_bytes: int = 0

    def __init__(self, site: Site, scale: float) -> None:
        self.site, self.scale = site, scale
        self.path = site.scratch / "case"
        self.context = self.path / "context"

    def of(self, number: float) -> int:
        """A size at this scale, at least 1."""
        return max(1, round(number * self.scale))

    def sizes(self) -> dict[str, int]:
        """The sizes that matter, for the record."""
        return {}

    def missing(self) -> list[str]:
        """Programs that the case needs and that are not here."""
        return [name for name in self.needs if shutil.which(name) is None]

    def archives(self) -> Mapping[str, Path]:
        return {name: self.site.base(name) for name in self.bases}

    def setup(self) -> None:
        """Make what all contestants build from."""

    def teardown(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def start(self, one: Contestant) -> Work | None:
        """What a contestant does once, before the turns, not measured."""
        return None

    def before(self, one: Contestant, token: str) -> None:
        """What happens before each measured run."""

    def work(self, one: Contestant, token: str) -> Work | None:
        """What is measured; None if this contestant cannot."""
        raise NotImplementedError

    def after(self, one: Contestant) -> None:
        """What happens after each measured run."""


def edit(context: Path, name: str, token: str) -> None:
    """Change one file's content, but not its length."""
    (context / name).write_text(f"{token:>64}\n")
