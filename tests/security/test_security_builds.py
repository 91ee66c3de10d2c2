"""Contexts, images and steps that try to reach what is outside of their build."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from arkwright.oci.layout import Layout
from building import Builder, Context, MakeBuilder, processes_with

MARK = "the canary sings"


@pytest.fixture
def canary(scratch: Path) -> Iterator[Path]:
    """A directory that every attack aims at; it must be as it was."""
    top = scratch / "canary"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text(MARK)
    (top / "sub/other").write_text(MARK)
    subprocess.run(["chmod", "-R", "a+rwX", str(top)], check=True)
    before = state(top)
    yield top
    assert state(top) == before


def state(top: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found.append((str(path), status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, digest))
    return found


def result(builder: Builder, root: Path, *args: str) -> dict[str, bytes]:
    """Regular files of the result."""
    out = builder.home / "out.tar"
    builder.run("build", "-o", f"type=tar,dest={out}", *args, str(root))
    with tarfile.open(out) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]


def test_a_context_cannot_be_left(builder: Builder, context: Context, canary: Path) -> None:
    for number, source in enumerate(
        (f"../../../../../../{canary}/file", f"{canary}/file", "abs/file", "up/file", "file-link")
    ):
        root = context({"Dockerfile": f"FROM scratch\nCOPY {source} /f\n"}, f"context-{number}")
        (root / "abs").symlink_to(canary)
        (root / "up").symlink_to(f"../../../../../../..{canary}")
        (root / "file-link").symlink_to(canary / "file")
        done = builder.run("build", str(root), status=1)
        assert "error[copy-source-missing]" in done.err
        assert MARK not in done.out + done.err


def test_an_images_links_lead_nowhere_outside(builder: Builder, context: Context, canary: Path) -> None:
    text = """FROM scratch AS links
COPY links /
FROM links
COPY f /abs/written
COPY f /up/written
ADD f.tar /abs/
WORKDIR /abs/work
COPY --from=links /abs/ /copied/
"""
    root = context({"Dockerfile": text.replace("COPY --from=links /abs/ /copied/\n", ""), "f": "x"})
    (root / "links").mkdir()
    (root / "links/abs").symlink_to(canary)
    (root / "links/up").symlink_to(f"../../../../../../../..{canary}")
    with tarfile.open(root / "f.tar", "w") as tar:
        tar.add(root / "f", "f")
    files = result(builder, root)
    inside = str(canary).lstrip("/")
    assert files[f"{inside}/written"] == b"x"
    assert files[f"{inside}/f"] == b"x"
    (root / "Dockerfile").write_text(text.replace("COPY f", "COPY --link f").split("WORKDIR")[0])
    assert result(builder, root)["abs/written"] == b"x"
    (root / "Dockerfile").write_text(
        "FROM scratch AS links\nCOPY links /\nFROM scratch\nCOPY --from=links /abs/file /f\n"
    )
    assert "error[copy-source-missing]" in builder.run("build", str(root), status=1).err


@contextmanager
def swapping(root: Path, *names: str) -> Iterator[None]:
    """Another process that exchanges each NAME with NAME2 all the time."""
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for name in names:
                with suppress(OSError):  # an export may have its own there for a moment
                    os.rename(root / name, root / "away")
                    os.rename(root / f"{name}2", root / name)
                    os.rename(root / "away", root / f"{name}2")

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("instruction", ["COPY . /c", "ADD f d /c/"])
def test_a_path_that_is_swapped_during_builds(
    instruction: str, builder: Builder, context: Context, canary: Path
) -> None:
    """A file and a directory of the context that are links to the canary at every other moment."""
    root = context({"Dockerfile": f"FROM scratch\n{instruction}\n", "f": "plain", "d/file": "plain"})
    for name in (".", "d", "f", "d/file"):
        os.chown(root / name, builder.uid, builder.uid)
    (root / "f2").symlink_to(canary / "file")
    (root / "d2").symlink_to(canary)
    out = builder.home / "out.tar"
    with swapping(root, "f", "d"):
        for _ in range(5):
            out.unlink(missing_ok=True)
            command = builder.command("build", "--no-cache", "-o", f"type=tar,dest={out}", str(root))
            done = subprocess.run(
                command, env=builder.env, cwd=builder.home, capture_output=True, check=False, timeout=60
            )
            assert done.returncode in (0, 1), done.stderr.decode()
            if done.returncode == 0:
                with tarfile.open(out) as tar:
                    contents = [tar.extractfile(member).read() for member in tar if member.isreg()]  # type: ignore[union-attr]
                assert MARK.encode() not in b"".join(contents)


def test_an_unpacked_archive_whose_path_is_swapped(builder: Builder, context: Context, canary: Path) -> None:
    """ADD of an archive that is at every other moment a link to one outside of the context."""
    root = context({"Dockerfile": "FROM scratch\nADD a.tar /c\n", "mark": MARK})
    for path, data in ((root / "a.tar", b"plain"), (builder.scratch / "outside.tar", MARK.encode())):
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("f")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (root / "a.tar2").symlink_to(builder.scratch / "outside.tar")
    for name in (".", "a.tar"):
        os.chown(root / name, builder.uid, builder.uid)
    out = builder.home / "out.tar"
    with swapping(root, "a.tar"):
        for _ in range(5):
            out.unlink(missing_ok=True)
            command = builder.command("build", "--no-cache", "-o", f"type=tar,dest={out}", str(root))
            done = subprocess.run(
                command, env=builder.env, cwd=builder.home, capture_output=True, check=False, timeout=60
            )
            assert done.returncode in (0, 1), done.stderr.decode()
            if done.returncode == 0:
                assert MARK.encode() not in out.read_bytes()


def test_an_export_whose_directory_is_swapped(builder: Builder, context: Context, canary: Path) -> None:
    """What is written into a directory stays in it, though directories in there become links."""
    files = {f"d/{number}": "written" for number in range(300)} | {"d/file": "written", "d/sub/other": "x"}
    root = context({"Dockerfile": "FROM scratch\nCOPY d /d\n", **files})
    out = builder.home / "out"
    (out / "d").mkdir(parents=True)
    (out / "d2").symlink_to(canary)
    for path in (canary, *canary.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    before = state(canary)
    for path in (out, out / "d"):
        os.chown(path, builder.uid, builder.uid)
    with swapping(out, "d"):
        for _ in range(5):
            command = builder.command("build", "-o", str(out), str(root))
            done = subprocess.run(
                command, env=builder.env, cwd=builder.home, capture_output=True, check=False, timeout=60
            )
            assert done.returncode in (0, 1), done.stderr.decode()
            assert b"internal error" not in done.stderr
    assert state(canary) == before


def layout_with(path: Path, members: list[tarfile.TarInfo]) -> None:
    """An OCI layout, tag `evil`, whose only layer holds these members."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"overwritten") if member.isreg() else None)
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    diff_id = "sha256:" + hashlib.sha256(sink.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    kind = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2, "mediaType": f"{kind}manifest.v1+json",
        "config": {"mediaType": f"{kind}config.v1+json", **add(msgspec.json.encode(config))},
        "layers": [{"mediaType": f"{kind}layer.v1.tar+gzip", **add(gzip.compress(sink.getvalue()))}],
    }  # fmt: skip
    entry = {
        "mediaType": f"{kind}manifest.v1+json", **add(msgspec.json.encode(manifest)),
        "annotations": {"org.opencontainers.image.ref.name": "evil"},
    }  # fmt: skip
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_bytes(msgspec.json.encode({"schemaVersion": 2, "manifests": [entry]}))
    assert Layout.open(str(path)).find("evil")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o777
    info.size = len(b"overwritten") if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize("attack", ["dots", "absolute", "link", "hardlink", "whiteout"])
def test_a_base_image_that_breaks_out(
    attack: str, builder: Builder, context: Context, canary: Path, scratch: Path
) -> None:
    deep = "../" * 12 + str(canary).lstrip("/")
    members = {
        "dots": [member(f"{deep}/file")],
        "absolute": [member(f"{canary}/file")],
        "link": [member("l", tarfile.SYMTYPE, str(canary)), member("l/file")],
        "hardlink": [member("h", tarfile.LNKTYPE, f"{deep}/file"), member("h")],
        "whiteout": [member("l", tarfile.SYMTYPE, str(canary)), member("l/.wh.file")],
    }[attack]
    layout = scratch / "evil"
    layout.mkdir()
    layout_with(layout, members)
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    root = context({"Dockerfile": "FROM evil\nCOPY f /f\n", "f": "x"})
    out = builder.home / "out.tar"
    command = builder.command(
        "build",
        "--build-context",
        f"evil=oci-layout://{layout}:evil",
        "-o",
        f"type=tar,dest={out}",
        str(root),
    )
    done = subprocess.run(
        command, env=builder.env, cwd=builder.home, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (0, 1), done.stderr
    assert MARK not in done.stdout + done.stderr
    if done.returncode == 0:
        assert MARK.encode() not in out.read_bytes()


STEPS = {
    "resolv.conf becomes a link to a host path": "rm -f /etc/resolv.conf 2>/dev/null; umount /etc/resolv.conf 2>/dev/null; ln -sf {canary}/file /etc/resolv.conf 2>/dev/null; true",
    "etc is moved": "mkdir /new && mv /etc /old 2>/dev/null; ln -s {canary} /etc 2>/dev/null; true",
    "the root is closed": "chmod 000 /",
    "proc and sys are written": "echo x > /proc/sys/kernel/core_pattern 2>/dev/null; echo x > /proc/sysrq-trigger 2>/dev/null; true",
    "mounts": "mkdir /m; mount -t tmpfs none /m 2>/dev/null && exit 1; mount --bind /proc/1/root /m 2>/dev/null && exit 1; true",
    "devices": "mknod /disk b 8 0 2>/dev/null && head -c1 /disk 2>/dev/null && exit 1; true",
    "links in place of mount points": "mkdir -p /run; ln -s {canary} /run/secrets; ln -s {canary} /mnt/ctx 2>/dev/null; true",
}


@pytest.mark.parametrize("attack", STEPS.values(), ids=STEPS.keys())
def test_a_step_that_attacks(attack: str, builder: Builder, context: Context, canary: Path) -> None:
    """The step, steps after it and the export leave the host alone, and the build goes on working."""
    text = f"""FROM busybox
RUN {attack.format(canary=canary)}
RUN --mount=type=bind,target=/mnt/ctx --mount=type=tmpfs,target=/run/x true
COPY f /etc/f
WORKDIR /etc/deeper
"""
    root = context({"Dockerfile": text, "f": "x"})
    out = builder.home / "out.tar"
    command = builder.command("build", "-o", f"type=tar,dest={out}", str(root))
    done = subprocess.run(
        command, env=builder.env, cwd=builder.home, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (0, 1), done.stderr
    assert "internal error" not in done.stderr
    assert builder.run("build", str(context({"Dockerfile": "FROM busybox\nRUN true\n"}, "after")))
    assert {path.name for path in builder.scratch.iterdir()} <= {
        "canary", "context", "after", builder.store.name, builder.home.name,
    }  # fmt: skip


def test_a_daemon_that_a_step_leaves_is_gone(builder: Builder, context: Context) -> None:
    marker = f"4{os.getpid():07d}"
    text = f"FROM busybox\nRUN (setsid sh -c 'trap \"\" HUP TERM; sleep {marker}' </dev/null >/dev/null 2>&1 &) ; echo left\n"
    builder.run("build", "--no-cache", str(context({"Dockerfile": text})))
    assert processes_with(f"sleep {marker}") == []
    assert processes_with(f"sleep\0{marker}") == []


def test_a_named_pipe_instead_of_a_source_does_not_hang(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    root = context({"Dockerfile": "FROM scratch\nADD pipe /p\nCOPY pipe /q\n"})
    os.mkfifo(root / "pipe")
    builder.run("build", str(root))
