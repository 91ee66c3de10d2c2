"""No time that no cache key covers decides what a layer holds."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder

COPIED = "FROM busybox\nCOPY a /out/a\nARG WHO=one\nRUN echo $WHO > /who\nCOPY a /out/a\n"
ADDED = (
    "FROM busybox\nADD packed.tar /out/\nARG WHO=one\nRUN echo $WHO > /who\nADD packed.tar /out/\n"
    "COPY --chmod=600 a /last\n"
)


def packed() -> bytes:
    """An archive whose file has a time of its own."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("dir/file")
        member.size, member.mtime = 4, 1_234_567_890
        tar.addfile(member, io.BytesIO(b"text"))
    return data.getvalue()


def loaded(make_builder: MakeBuilder, identity: str, layout: Path, *names: str) -> list[Builder]:
    builders = [make_builder(identity, name) for name in names]
    for one in builders:
        one.run("load", "-i", str(layout.parent / "busybox.tar"))
    return builders


@pytest.mark.parametrize("identity", ["root", "subids"])
@pytest.mark.parametrize("rule", ["constant", "clamp"])
def test_a_copy_of_what_was_touched_meanwhile(
    rule: str, identity: str, make_builder: MakeBuilder, context: Context, busybox_layout: Path
) -> None:
    path = context({"a": "the same", "Dockerfile": COPIED})
    options = (f"--timestamps={rule}", "--build-arg", "SOURCE_DATE_EPOCH=1700000000")
    builder, clean = loaded(make_builder, identity, busybox_layout, "store", "clean")
    builder.build(path, *options)
    os.utime(path / "a", (1, 1))
    again = builder.build(path, "--build-arg", "WHO=two", *options)
    assert again.digest == clean.build(path, "--build-arg", "WHO=two", *options).digest


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_what_came_from_a_remote_cache_and_is_unpacked_again(
    identity: str, make_builder: MakeBuilder, context: Context, busybox_layout: Path
) -> None:
    path = context({"a": "a", "packed.tar": packed(), "Dockerfile": ADDED})
    first, second, clean = loaded(make_builder, identity, busybox_layout, "first", "second", "clean")
    cache = f"{first.home}/cache"
    first.build(path, "--cache-to", f"type=local,dest={cache},mode=max")
    again = second.build(path, "--cache-from", f"type=local,src={cache}", "--build-arg", "WHO=two")
    assert not [name for name in again.ran if "ADD" in name and "2/6" in name]
    assert again.digest == clean.build(path, "--build-arg", "WHO=two").digest
