"""For random graphs and random edits, an incremental build gives the image of a clean one, bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import Graph

from building import Builder, MakeBuilder
from stores import mounted

SAMPLE, FULL = (1, 4), (25, 12)

# How a store comes to know what earlier builds made, by name: called with the store that built, its
# context and arguments before each edit, and what makes a new store; gives the store that builds next.
Prefix = Callable[[Builder, Path, list[str], Callable[[str], Builder]], Builder]


def _imported(builder: Builder, root: Path, args: list[str], make: Callable[[str], Builder]) -> Builder:
    """Another machine builds next, and knows what this one published."""
    spec = f"dest={builder.home}/cache,mode=max"
    process = builder.start("build", "--cache-to", f"type=local,{spec}", *args, str(root))
    assert process.communicate(timeout=120)[1].count("warning[cache") == 0
    generation = int(builder.env.get("GENERATION", "0")) + 1
    following = make(f"machine-{generation}")
    following.env["GENERATION"] = str(generation)
    following.env["ARKWRIGHT_BUILD_CACHE_FROM"] = f"type=local,src={following.home}/cache"
    return following


def _mixed(builder: Builder, root: Path, args: list[str], make: Callable[[str], Builder]) -> Builder:
    """Some steps run here, on what came from elsewhere, and the other way round."""
    turn = int(builder.env.get("TURN", "0")) + 1
    following = builder if turn % 2 else _imported(builder, root, args, make)
    following.env["TURN"] = str(turn)
    return following


PREFIXES: dict[str, Prefix] = {
    "local": lambda builder, root, args, make: builder,
    "imported": _imported,
    "mixed": _mixed,
}


SOAK = bool(os.environ.get("ARKWRIGHT_SOAK"))
PLACES = [(identity, kind) for identity in ("root", "subids") for kind in ("tmpfs", "ext4")]
SOME_PLACES = [("root", "host"), ("root", "tmpfs"), ("subids", "ext4")]


@pytest.mark.soak
@pytest.mark.parametrize(("identity", "file_system"), PLACES if SOAK else SOME_PLACES)
def test_incremental_builds_equal_clean_builds(
    identity: str, file_system: str, make_builder: MakeBuilder, busybox_layout: Path, scratch: Path
) -> None:
    examples, edits = FULL if SOAK else SAMPLE
    seed = os.environ.get("ARKWRIGHT_SEED", "1")
    judge = make_builder("root", "clean")
    archive = busybox_layout.parent / "busybox.tar"
    for number in range(examples):
        place = scratch / f"stores-{number}"
        place.mkdir()
        with mounted(file_system, place, size_mb=512):
            name = f"{seed} {identity} {file_system} {number}"
            graph = Graph(random.Random(name), scratch / f"graph-{number}")
            lives = [_Life(prefix, place, identity, archive) for prefix in PREFIXES]
            _edit_and_build(name, graph, edits, judge, lives)
        judge.run("prune", "--all", "--timeout", "30s")


class _Life:
    """The stores that build a graph one after the other, in a directory of their own in `place`."""

    def __init__(self, prefix: str, place: Path, identity: str, archive: Path) -> None:
        self.prefix = prefix
        self._place, self._identity, self._archive = place / prefix, identity, archive
        self._place.mkdir()
        self._builder = self._make("store")

    def _make(self, store: str) -> Builder:
        builder = Builder(self._place, self._identity, store)
        builder.run("load", "-i", str(self._archive))
        return builder

    def build(self, graph: Graph) -> str:
        """Build with what is known by now, and get ready for the next edit."""
        digest = _digest(self._builder, graph.root, *graph.args)
        self._builder = PREFIXES[self.prefix](self._builder, graph.root, graph.args, self._make)
        return digest

    def check(self) -> None:
        self._builder.run("fsck", "--timeout", "30s")


def _edit_and_build(name: str, graph: Graph, edits: int, judge: Builder, lives: list[_Life]) -> None:
    """One clean build stands against those on every kind of prefix."""
    made: list[str] = []
    for _ in range(edits):
        clean = _digest(judge, graph.root, "--no-cache", *graph.args)
        for life in lives:
            assert life.build(graph) == clean, f"{name}, {life.prefix}, after {made}\n{graph.text}"
        made.append(graph.edit())
    for life in lives:
        life.check()


def _digest(builder: Builder, root: Path, *args: str) -> str:
    """The image; "failed" where an edit made a build that cannot succeed: of several steps that fail
    side by side, either may be the first."""
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    process = builder.start("build", "--progress", "quiet", *args, str(root))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 or (process.returncode == 1 and "error[" in err), err
    return out.strip() or "failed"
