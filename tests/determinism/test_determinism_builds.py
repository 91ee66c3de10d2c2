"""The same input gives the same image: in other places, at other times, for other users."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from building import Builder, Context

CASES = {
    "files and links": "FROM busybox\nCOPY . /c\nRUN cp -a /c /d && ln /c/f /c/hard && ln -s f /c/soft\n",
    "hard links made in any order": "FROM busybox\nRUN mkdir /l && cd /l && for n in 5 3 9 1; do echo x > a$n; ln a$n z$n; ln a$n b$n; done && rm a3\n",
    "many files in random order": "FROM busybox\nRUN mkdir /m && cd /m && for n in $(seq 1 300); do echo $RANDOM$n; done | sort -k1.3 > /dev/null; for n in $(seq 1 300 | awk 'BEGIN{srand()}{print rand(), $1}' | sort -n | cut -d' ' -f2); do echo $n > f$n; done\n",
    "times are not in the image": "FROM busybox\nRUN date > /dev/null && touch /now && touch -d 1980-01-01 /old && mkdir /dir && usleep 20000 && touch /dir/x\n",
    "deletions": "FROM busybox\nRUN mkdir -p /a/b/c && touch /a/b/c/d\nRUN rm -r /a/b && mkdir /a/b && touch /a/b/new && rm /etc/passwd\n",
    "stages side by side": "FROM busybox AS a\nRUN usleep 50000; echo a > /o\nFROM busybox AS b\nRUN echo b > /o\nFROM busybox\nCOPY --from=a /o /a\nCOPY --link --from=b /o /b\n",
    "users, modes and capabilities of names": "FROM busybox\nRUN echo 'u:x:5:6::/:/bin/sh' >> /etc/passwd\nUSER u\nWORKDIR /w\nRUN umask 027; mkdir d; echo x > d/f; chmod u+s d/f\nCOPY --chown=u:6 --chmod=u=rwX,go= . /w/c\n",
    "archives and heredocs": "FROM busybox\nADD archive.tar /t/\nCOPY <<EOT /e\ntext\nEOT\nENV B=1 A=2\nLABEL z=1 a=2\nEXPOSE 80 9\nVOLUME /v\n",
    "environment": "FROM busybox\nRUN env | sort > /env; id >> /env; pwd >> /env; umask >> /env; cat /etc/hosts | sort >> /env; hostname >> /env\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory, busybox_layout: Path) -> Iterator[list[Builder]]:
    """Two stores of root, and one of a user."""
    base = busybox_layout.parent / f"determinism-{os.getpid()}"
    base.mkdir(mode=0o755)
    made = [Builder(base, "root"), Builder(base, "root", "second"), Builder(base, "subids")]
    for builder in made:
        builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    yield made


def fill(root: Path) -> Path:
    subprocess.run(
        ["tar", "-cf", "archive.tar", "--owner=7", "--group=8", "--mtime=@1", "--sort=name", "f", "s"],
        cwd=root,
        check=True,
    )
    (root / "archive.tar").chmod(0o644)
    return root


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_equal_digests(text: str, builders: list[Builder], context: Context) -> None:
    files = {"Dockerfile": text, "f": "x", "s/a": "1", "s/b": "2", "z": ""}
    one = fill(context(files))
    other = fill(context(dict(reversed(files.items())), "somewhere/else/entirely"))
    subprocess.run(["find", str(other), "-exec", "touch", "-h", "-d", "2012-12-12", "{}", "+"], check=True)
    subprocess.run(["chown", "-R", "12:34", str(other)], check=True)
    first, second, user = builders
    second.env.update(LANG="de_DE.UTF-8", LC_ALL="C", TZ="Asia/Tokyo", USER="somebody", PWD="/tmp")
    digests = {
        first.build(one, "--jobs", "2").digest,
        first.build(other, "--no-cache", "--jobs", "1").digest,
        second.build(other, "--jobs", "1", umask=0o077).digest,
        user.build(one, "--jobs", "2", umask=0o002).digest,
    }
    assert len(digests) == 1


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_equal_layers_however_they_are_packed(text: str, builders: list[Builder], context: Context) -> None:
    root = fill(context({"Dockerfile": text, "f": "x", "s/a": "1", "s/b": "2", "z": ""}))
    found = set()
    for builder, compression in ((builders[0], "gzip"), (builders[2], "zstd"), (builders[2], "uncompressed")):
        layout = builder.home / f"layout-{compression}"
        shutil.rmtree(layout, ignore_errors=True)
        builder.build(root, "-o", f"type=oci,dest={layout},tar=false,compression={compression}")
        found.add(diff_ids(layout))
    assert len(found) == 1


def diff_ids(layout: Path) -> tuple[str, ...]:
    """Of the one image of a layout."""

    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())

    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return tuple(blob(blob(entry["digest"])["config"]["digest"])["rootfs"]["diff_ids"])


@pytest.mark.xfail(
    strict=True,
    reason="overlayfs in a user namespace gives the links of a file that was copied up different inode numbers",
)
def test_a_step_that_asks_for_inode_numbers(builders: list[Builder], context: Context) -> None:
    """`cp -a` copies a hard link to a file of a lower layer as a link for root, as a file for users."""
    root = context(
        {"Dockerfile": "FROM busybox\nCOPY f /c/f\nRUN ln /c/f /c/hard && cp -a /c /d\n", "f": "x"}
    )
    first, _, user = builders
    assert first.build(root).digest == user.build(root).digest
