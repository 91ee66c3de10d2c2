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
from stores import FILE_SYSTEMS, mounted

SAMPLE, FULL = (1, 4), (25, 12)

# How a store comes to know what earlier builds made, by name: called with the store that built, its
# context and arguments before each edit; gives the store that builds next.
Prefix = Callable[[Builder, Path, list[str], MakeBuilder], Builder]


def _imported(builder: Builder, root: Path, args: list[str], make_builder: MakeBuilder) -> Builder:
    """Another machine builds next, and knows what this one published."""
    spec = f"dest={builder.home}/cache,mode=max"
    process = builder.start("build", "--cache-to", f"type=local,{spec}", *args, str(root))
    assert process.communicate(timeout=120)[1].count("warning[cache") == 0
    generation = int(builder.env.get("GENERATION", "0")) + 1
    following = make_builder(builder.identity, f"machine-{generation}-{root.name}")
    following.env["GENERATION"] = str(generation)
    following.env["ARKWRIGHT_BUILD_CACHE_FROM"] = f"type=local,src={following.home}/cache"
    return following


def _mixed(builder: Builder, root: Path, args: list[str], make_builder: MakeBuilder) -> Builder:
    """Some steps run here, on what came from elsewhere, and the other way round."""
    turn = int(builder.env.get("TURN", "0")) + 1
    following = builder if turn % 2 else _imported(builder, root, args, make_builder)
    following.env["TURN"] = str(turn)
    return following


PREFIXES: dict[str, Prefix] = {
    "local": lambda builder, root, args, make_builder: builder,
    "imported": _imported,
    "mixed": _mixed,
}


SOAK = bool(os.environ.get("ARKWRIGHT_SOAK"))
PLACES = [(identity, kind) for identity in ("root", "subids") for kind in FILE_SYSTEMS]
SOME_PLACES = [("root", "host"), ("root", "tmpfs"), ("subids", "ext4")]


@pytest.mark.soak
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("identity", "file_system"), PLACES if SOAK else SOME_PLACES)
def test_incremental_builds_equal_clean_builds(
    identity: str, file_system: str, prefix: str, make_builder: MakeBuilder, scratch: Path
) -> None:
    examples, edits = FULL if SOAK else SAMPLE
    seed = os.environ.get("ARKWRIGHT_SEED", "1")
    with mounted(file_system, Builder(scratch, identity).store, size_mb=1024 if SOAK else 256):
        builder, judge = make_builder(identity), make_builder("root", "clean")
        for number in range(examples):
            name = f"{seed} {identity} {file_system} {prefix} {number}"
            graph = Graph(random.Random(name), scratch / f"graph-{number}")
            made: list[str] = []
            for _ in range(edits):
                incremental = _digest(builder, graph.root, *graph.args)
                clean = _digest(judge, graph.root, "--no-cache", *graph.args)
                assert incremental == clean, f"{name}, after {made}\n{graph.text}"
                builder = PREFIXES[prefix](builder, graph.root, graph.args, make_builder)
                made.append(graph.edit())
            for one in (builder, judge):
                one.run("prune", "--all", "--timeout", "30s")
        builder.run("fsck", "--timeout", "30s")


def _digest(builder: Builder, root: Path, *args: str) -> str:
    """The image; the first line of the error where an edit made a build that cannot succeed."""
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    process = builder.start("build", "--progress", "quiet", *args, str(root))
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), err
    return out.strip() or err.splitlines()[0]
