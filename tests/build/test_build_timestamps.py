"""The rules of `--timestamps`: what the times of files, of the config and of the history are."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from building import Builder, Built, Context, MakeBuilder

CONSTANT = 946684800
EPOCH = 1_600_000_000
OLD = 1_000_000_000  # before the epoch
FILE = """\
FROM busybox
COPY file /copied
ADD old.tar /unpacked/
RUN mkdir /made && touch /made/new && touch -d @1000000000 /made/old && rm /bin/ed && test /made/new -nt /copied
"""


@pytest.fixture
def sources(context: Context) -> Path:
    root = context({"Dockerfile": FILE, "file": "content"})
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("inside")
        member.mtime = OLD
        tar.addfile(member)
    (root / "old.tar").write_bytes(data.getvalue())
    os.utime(root / "file", (OLD, OLD))
    return root


def image(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The config of an OCI archive, and the times of the entries of all layers but the base's."""
    with tarfile.open(path) as archive:

        def read(digest: str) -> bytes:
            found = archive.extractfile("blobs/" + digest.replace(":", "/"))
            assert found is not None
            return found.read()

        index = archive.extractfile("index.json")
        assert index is not None
        manifest = json.loads(read(json.loads(index.read())["manifests"][0]["digest"]))
        config = json.loads(read(manifest["config"]["digest"]))
        times: dict[str, float] = {}
        for layer in manifest["layers"][1:]:
            with tarfile.open(fileobj=io.BytesIO(read(layer["digest"]))) as tar:
                times |= {member.name: member.mtime for member in tar}
    return config, times


def build(builder: Builder, context: Path, *args: str) -> tuple[Built, dict[str, Any], dict[str, float]]:
    dest = builder.home / "image.tar"
    built = builder.build(context, "-o", f"type=oci,dest={dest}", *args)
    return built, *image(dest)


def stated(rule: str, epoch: int = EPOCH) -> tuple[str, ...]:
    return "--timestamps", rule, "--source-date-epoch", str(epoch)


def created(config: dict[str, Any]) -> set[str]:
    """Of the config and of this build's part of the history."""
    return {config["created"], *(one["created"] for one in config["history"][-3:])}


def rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_the_default_is_one_constant_for_files_and_the_epoch_for_the_config(
    make_builder: MakeBuilder, sources: Path
) -> None:
    _, config, times = build(make_builder("root"), sources, "--source-date-epoch", str(EPOCH))
    assert set(times.values()) == {CONSTANT}
    assert created(config) == {rfc3339(EPOCH)}


def test_source_gives_the_epoch_to_every_file_and_runs_nothing_again(
    builder: Builder, make_builder: MakeBuilder, sources: Path
) -> None:
    build(builder, sources)
    built, config, times = build(builder, sources, *stated("source"))
    assert built.ran == []
    assert set(times.values()) == {EPOCH}
    assert created(config) == {rfc3339(EPOCH)}
    assert built.digest == build(make_builder("root", "fresh"), sources, *stated("source"))[0].digest
    # What is kept is the plain layer.
    assert set(build(builder, sources)[2].values()) == {CONSTANT}


def test_clamp_moves_what_is_later_and_what_comes_from_the_context(builder: Builder, sources: Path) -> None:
    _, config, times = build(builder, sources, *stated("clamp"))
    assert times["made/old"] == times["unpacked/inside"] == OLD
    assert times["made/new"] == times["made/"[:-1]] == times["bin/.wh.ed"] == EPOCH
    assert times["copied"] == EPOCH, "the times of a context are of one checkout"
    assert created(config) == {rfc3339(EPOCH)}


def test_clamp_from_a_warm_cache_is_what_a_clean_build_gives(
    make_builder: MakeBuilder, sources: Path
) -> None:
    builder = make_builder("subids")
    build(builder, sources)
    earlier = build(builder, sources, *stated("clamp", EPOCH - 1000))[0]
    warm = build(builder, sources, *stated("clamp"))[0]
    again = build(builder, sources, *stated("clamp"))[0]
    os.utime(sources / "file", (OLD + 5, OLD + 5))
    cold = build(make_builder("root", "fresh"), sources, *stated("clamp"))[0]
    assert warm.digest == cold.digest == again.digest != earlier.digest
    assert warm.ran and not again.ran


def test_clamp_without_steps_is_the_same(make_builder: MakeBuilder, sources: Path) -> None:
    (sources / "Dockerfile").write_text("FROM busybox\nCOPY file /copied\nADD old.tar /unpacked/\n")
    root = build(make_builder("root"), sources, *stated("clamp"))
    assert root[2]["copied"] == EPOCH and root[2]["unpacked/inside"] == OLD
    assert root[0].digest == build(make_builder("subids"), sources, *stated("clamp"))[0].digest


def test_keep_leaves_every_time(builder: Builder, sources: Path) -> None:
    before = time.time()
    _, config, times = build(builder, sources, "--timestamps=keep")
    assert times["copied"] == times["made/old"] == times["unpacked/inside"] == OLD
    assert times["made/new"] >= before - 2
    assert min(created(config)) >= rfc3339(before - 2)
    _, config, _ = build(builder, sources, *stated("keep"))
    assert created(config) == {rfc3339(EPOCH)}


def test_a_tar_of_the_files_follows_the_rule(make_builder: MakeBuilder, sources: Path) -> None:
    builder = make_builder("root")
    dest = builder.home / "files.tar"
    for rule, wanted in (("constant", CONSTANT), ("source", EPOCH), ("clamp", OLD), ("keep", OLD)):
        builder.run("build", "-o", f"type=tar,dest={dest}", *stated(rule), str(sources))
        with tarfile.open(dest) as tar:
            assert tar.getmember("made/old").mtime == wanted, rule


def test_the_environment_names_the_rule(make_builder: MakeBuilder, sources: Path) -> None:
    builder = make_builder("root")
    builder.env |= {"ARKWRIGHT_TIMESTAMPS": "source", "SOURCE_DATE_EPOCH": str(EPOCH)}
    assert set(build(builder, sources)[2].values()) == {EPOCH}


def test_an_epoch_to_come_is_told(make_builder: MakeBuilder, sources: Path) -> None:
    later = int(time.time()) + 1_000_000
    done = make_builder("root").run("build", *stated("clamp", later), str(sources))
    assert "epoch-in-future" in done.err


def test_an_inline_cache_would_not_say_what_its_layers_are(make_builder: MakeBuilder, sources: Path) -> None:
    done = make_builder("root").run(
        "build", "--cache-to", "type=inline", *stated("source"), str(sources), status=2
    )
    assert "conflicting-options" in done.err
