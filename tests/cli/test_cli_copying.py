"""The commands that move images, by the real program, as every kind of user."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from building import Builder

IDENTITIES = ["root", "subids", "single", "sealed"]


@pytest.fixture(params=IDENTITIES)
def loaded(request: pytest.FixtureRequest, scratch: Path, busybox_layout: Path) -> Builder:
    """A builder that knows busybox, of every identity: no command here needs a namespace."""
    builder = Builder(scratch, request.param)
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    return builder


def digest_of(builder: Builder, name: str = "busybox") -> str:
    images = json.loads(builder.run("images", "--json").out)
    return next(one["digest"] for one in images if f"/{name}:" in one["name"])


def test_everything_without_rights(loaded: Builder) -> None:
    """Each command once, there and back, as a user who may do nothing."""
    digest = digest_of(loaded)
    places = ("oci:lay:app", "oci-archive:a.tar:app", "docker-archive:d.tar:app:1", "dir:d", "again:1")
    done = loaded.run("copy", "busybox", *places)
    assert done.out.splitlines() == [f"{place} {digest}" for place in places]
    for number, place in enumerate(places):
        assert digest in loaded.run("copy", place, f"back-{number}").out
    assert loaded.run("pull", "-q", "oci:lay:app").out.strip() == digest
    assert loaded.run("push", "-q", "busybox", "dir:pushed").out.strip() == digest
    assert loaded.run("tag", "oci:lay:app", "tagged").out == ""
    assert digest_of(loaded, "tagged") == digest
    zstd = loaded.run(
        "copy", "-q", "--dest-compress", "zstd", "--format", "oci", "busybox", "zstd"
    ).out.strip()
    assert zstd != digest
    assert loaded.run("copy", "-q", "--dest-compress", "gzip", "zstd", "gzip").out.strip() == digest
    loaded.run("save", "-o", "oci:saved", "busybox", "zstd")
    assert loaded.run("load", "-q", "-i", "oci:saved").out.split() == [digest, zstd]
    assert loaded.run("load", "-i", "oci:saved:zstd").out.split() == ["docker.io/library/zstd:latest", zstd]
    assert loaded.run("load", "-i", "dir:d").out.split() == [digest]


def test_export_is_incremental(scratch: Path, busybox_layout: Path) -> None:
    loaded = Builder(scratch, "sealed")
    loaded.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    digest = digest_of(loaded)
    first = loaded.run("export", "--oci-layout", "shared", "busybox")
    assert (first.out, first.err) == (f"busybox:latest {digest}\n", "3 blobs written\n")
    before = {
        path.name: path.stat().st_ino for path in (loaded.home / "shared" / "blobs" / "sha256").iterdir()
    }
    zstd = loaded.run("copy", "-q", "--dest-compress", "zstd", "busybox", "zstd").out.strip()
    assert loaded.run("export", "--oci-layout", "shared", "--all").err == "2 blobs written\n"
    after = {
        path.name: path.stat().st_ino for path in (loaded.home / "shared" / "blobs" / "sha256").iterdir()
    }
    assert before.items() <= after.items()
    listed = loaded.run("ls-tags", "oci:shared").out.split()
    assert listed == ["docker.io/library/busybox:latest", "docker.io/library/zstd:latest"]
    # A name that moved leaves what only it needed; what is pruned is no more than that.
    loaded.run("tag", "busybox", "zstd")
    pruned = loaded.run("export", "--oci-layout", "shared", "--prune", "--grace", "0", "zstd")
    assert pruned.err == "0 blobs written, 2 deleted\n"
    assert not (loaded.home / "shared" / "blobs" / "sha256" / zstd.partition(":")[2]).exists()
    assert loaded.run("copy", "-q", "oci:shared:zstd", "back").out.strip() == digest
    loaded.run("export", "--oci-layout", "shared", status=2)


def test_what_is_shared_is_read_by_others_without_writing(scratch: Path, busybox_layout: Path) -> None:
    """Another user, who may not write there, and whose file system is read-only for them."""
    owner, reader = Builder(scratch, "root"), Builder(scratch, "sealed")
    owner.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    shared = scratch / "shared"
    owner.run("export", "--oci-layout", str(shared), "busybox")
    assert {path.stat().st_mode & 0o444 for path in shared.rglob("*")} == {0o444}
    assert digest_of(owner) in reader.run("copy", f"oci:{shared}:busybox", "busybox").out


def test_an_error_is_told_once(scratch: Path) -> None:
    """By the command, and not by its progress too."""
    said = Builder(scratch, "root").run("copy", "nosuch:1", "other:1", status=1).err
    assert said.count("no image nosuch:1") == 1 and said.count("error[unknown-image]") == 1
    assert "#1 ERROR\n" in said


def test_export_to_a_directory_of_something_else(scratch: Path, busybox_layout: Path) -> None:
    builder = Builder(scratch, "root")
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    (builder.home / "mine").mkdir()
    (builder.home / "mine" / "file").write_text("x")
    said = builder.run("export", "--oci-layout", "mine", "busybox", status=1).err
    assert "error[not-an-oci-layout]" in said
    assert os.listdir(builder.home / "mine") == ["file"]


def test_exports_at_the_same_time_lose_no_name(scratch: Path, busybox_layout: Path) -> None:
    builder = Builder(scratch, "root")
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    names = [f"name-{number}" for number in range(4)]
    builder.run("tag", "busybox", *names)
    started = [builder.start("export", "--oci-layout", "shared", name) for name in names]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    listed = builder.run("ls-tags", "oci:shared").out.split()
    assert listed == [f"docker.io/library/{name}:latest" for name in names]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a oci:b:c # why\n\n# nothing\n d  docker://e oci:f\n",
         ["a oci:b:c", "d docker://e", "d oci:f"]),
        (b"- [a, 'oci:b:c']\n- d docker://e\n- {from: d, to: [oci:f], platform: linux/arm64}\n",
         ["a oci:b:c", "d docker://e", "d oci:f"]),
        (b'[["a", "oci:b:c"]]', ["a oci:b:c"]),
        (b"", []),
    ],
)  # fmt: skip
def test_a_list_without_copying(run, text: bytes, shown: list[str], tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(text)
    result = run("sync", "--dry-run", str(tmp_path / "list"))
    assert (result.exit_code, result.stdout.splitlines()) == (0, shown)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"alone\n", "invalid-sync-list"),
        (b"a oci:\n", "invalid-place"),
        (b"- {from: a}\n", "invalid-sync-list"),
        (b"- {from: a, to: b, by: c}\n", "invalid-sync-list"),
        (b"- [a, 1]\n", "invalid-sync-list"),
        (b"- !!python/object/apply:os.system [id]\n", "invalid-sync-list"),
        (b"[a\n", "invalid-sync-list"),
        (b"\xff\xfe", "invalid-sync-list"),
        (b"- {from: a, to: b, platform: x/y/z/w}\n", "invalid-platform"),
    ],
)
def test_a_list_that_is_none(run, text: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(text)
    result = run("sync", str(tmp_path / "list"))
    assert (result.exit_code, result.stderr.split(":")[0]) == (1, f"error[{code}]")


def test_a_list_goes_on_after_a_failure(scratch: Path, busybox_layout: Path) -> None:
    builder = Builder(scratch, "single")
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    digest = digest_of(builder)
    done = builder.run("sync", "-", input=b"nothing oci:a\nbusybox oci:b:1 oci:c:1\nbusybox /:\n", status=1)
    assert "error[invalid-reference]" in done.err
    done = builder.run("sync", "-", input=b"nothing oci:a\nbusybox oci:b:1 oci:c:1\nnone:2 oci:d\n", status=1)
    assert done.out.splitlines() == [f"oci:b:1 {digest}", f"oci:c:1 {digest}"]
    assert done.err.count("error[unknown-image]") == 2
    assert "while copying nothing to oci:a" in done.err


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        (("copy", "--platform", "amd64", "--all", "a", "b"), 2, "conflicting-options"),
        (("copy", "a"), 2, "invalid-usage"),
        (("copy", "--preserve-digests", "--format", "docker", "a", "b"), 1, "digest-not-preserved"),
        (("copy", "ocii:./a/b", "b"), 1, "unknown-transport"),
        (("push", "oci:a"), 2, "invalid-usage"),
        (("save", "--format", "docker-archive", "-o", "oci:x", "a"), 2, "conflicting-options"),
        (("save", "-o", "oci:x:tag", "a"), 2, "invalid-option-value"),
        (("tag", "a", "oci:b"), 1, "invalid-place"),
        (("ls-tags", "dir:a"), 1, "invalid-place"),
        (("delete", "docker://a"), 1, "invalid-place"),
        (("load", "-i", "nowhere.tar"), 1, "unreadable-file"),
        (("copy", "oci-archive:nowhere.tar", "a"), 1, "unreadable-file"),
    ],
)
def test_refusals(run, args: tuple[str, ...], status: int, code: str) -> None:
    result = run(*args)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error[")]
    assert (result.exit_code, errors[0].split(":")[0]) == (status, f"error[{code}]")


def test_a_copy_to_standard_output(scratch: Path, busybox_layout: Path) -> None:
    builder = Builder(scratch, "single")
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    made = subprocess.run(
        builder.command("save", "--format", "oci-archive", "busybox"), env=builder.env, cwd=builder.home,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert digest_of(builder) in builder.run("copy", "oci-archive:-", "x", input=made).out
    for args in (("copy", "x", "oci-archive:-"), ("push", "x", "oci-archive:-")):
        again = subprocess.run(
            builder.command(*args), env=builder.env, cwd=builder.home, capture_output=True, check=True
        )
        assert digest_of(builder).encode() in again.stderr
        assert digest_of(builder) in builder.run("load", "-q", input=again.stdout).out
