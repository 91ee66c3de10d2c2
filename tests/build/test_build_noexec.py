"""Builds whose uncached part has no RUN: no worker, no privilege, the very same images."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import Builder, Built, Context, MakeBuilder
from file_site import FileSite
from loopback_server import LoopbackRegistry

NO_EXEC = ["no-exec"]

TEXT = """\
FROM busybox AS one
COPY --chown=5:6 --chmod=4751 tool /tools/
COPY . /all/
WORKDIR /new/dir
FROM scratch AS two
ADD layer.tar /unpacked/
ADD --chown=7:8 layer.tar /owned/
FROM busybox
COPY --from=one /tools /all /bin/
COPY --from=two / /two/
COPY --link --from=one /all/sub /linked/deep/
COPY --chown=daemon:mail sub /etc/
COPY <<EOF /text
written here
EOF
WORKDIR /work
ENV A=b
USER daemon
"""


def archive() -> bytes:
    """A tar with what an ordinary user cannot make."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, more in [
            ("d", tarfile.DIRTYPE, 0o2770, {"uid": 11, "gid": 12}),
            ("d/null", tarfile.CHRTYPE, 0o666, {"devmajor": 1, "devminor": 3}),
            ("d/disk", tarfile.BLKTYPE, 0o660, {"devmajor": 8, "devminor": 1, "gid": 6}),
            ("d/pipe", tarfile.FIFOTYPE, 0o600, {"uid": 35_000}),
            ("d/link", tarfile.SYMTYPE, 0o777, {"linkname": "../secret", "uid": 3, "gid": 4}),
            ("secret", tarfile.REGTYPE, 0o000, {"uid": 65534}),
            ("setid", tarfile.REGTYPE, 0o6755, {"gid": 42}),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, 1_234_567_890
            for key, value in more.items():
                setattr(info, key, value)
            data = name.encode() if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            if name == "setid":
                info.pax_headers = {
                    "SCHILY.xattr.user.note": "kept",
                    # cap_net_raw+ep, revision 2
                    "SCHILY.xattr.security.capability": "\1\0\0\2\0 \0\0" + "\0" * 12,
                }
            if name == "d/link":
                info.pax_headers = {"SCHILY.xattr.user.note": "links cannot have it"}
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("again")
        info.type, info.linkname = tarfile.LNKTYPE, "setid"
        tar.addfile(info)
    return target.getvalue()


@pytest.fixture
def sources(context: Context) -> Path:
    files = {"Dockerfile": TEXT, "tool": "#!/bin/sh\n", "sub/one": "1", "sub/two": "2" * 70_000}
    root = context({**files, "layer.tar": archive()})
    os.link(root / "sub/one", root / "sub/linked")
    os.symlink("../tool", root / "sub/tool")
    return root


def in_worker(builder: Builder, context: Context) -> None:
    """From now on the store has an unpacked base, and the worker goes on with it."""
    builder.build(context({"Dockerfile": "FROM busybox\nRUN true\n"}, "warm"))


def tiers(built: Built) -> list[str]:
    found: list[str] = built.fields.get("arkwright.tiers", [])
    return found


@pytest.mark.parametrize("identity", ["root", "subids", "single", "sealed"])
def test_everyone_makes_the_image_that_root_makes(
    make_builder: MakeBuilder, context: Context, sources: Path, identity: str
) -> None:
    builder = make_builder(identity)
    built = builder.build(sources)
    assert tiers(built) == NO_EXEC
    reference = make_builder("root", "reference")
    in_worker(reference, context)
    natively = reference.build(sources)
    assert tiers(natively) != NO_EXEC
    assert built.digest == natively.digest
    again = builder.build(sources)
    assert (again.digest, again.ran) == (built.digest, [])
    (sources / "sub/one").write_text("other")
    assert builder.build(sources).digest == reference.build(sources).digest


def test_nothing_of_linux_and_no_process_is_needed(make_builder: MakeBuilder, sources: Path) -> None:
    builder = make_builder("single")
    command = builder.command("build", str(sources))
    command[command.index("-m") : command.index("-m")] = ["-X", "importtime"]
    done = subprocess.run(
        command, cwd=builder.home, env=builder.env, capture_output=True, text=True, check=True
    )
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line
    }
    assert "arkwright.snapshot.virtual" in imported
    assert not {name for name in imported if name.startswith("arkwright.linux")}
    assert not imported & {"subprocess", "ctypes", "arkwright.sandbox.runtime", "arkwright.snapshot.overlay"}


def test_outputs_have_owners_where_they_can(make_builder: MakeBuilder, scratch: Path, sources: Path) -> None:
    tars = []
    for identity in ("root", "sealed"):
        builder = make_builder(identity)
        for form in ("tar", "oci", "docker"):
            target = builder.home / f"out.{form}"
            builder.run("build", "-t", "x", "-o", f"type={form},dest={target}", str(sources))
            tars.append((form, target.read_bytes()))
        out = builder.home / "out"
        builder.run("build", "-o", f"type=local,dest={out}", str(sources))
        owner = (out / "two/owned/setid").stat()
        wanted = (7, 8) if identity == "root" else (builder.uid, builder.uid)
        assert (owner.st_uid, owner.st_gid) == wanted
        assert (out / "text").read_text() == "written here\n"
        assert (out / "two/unpacked/d/null").exists() == (identity == "root")
    assert tars[:3] == tars[3:]
    with tarfile.open(fileobj=io.BytesIO(tars[0][1])) as tar:
        null, link = tar.getmember("two/unpacked/d/null"), tar.getmember("two/unpacked/d/link")
        pax = tar.getmember("two/unpacked/again").pax_headers
    assert "SCHILY.xattr.security.capability" in pax
    assert "SCHILY.xattr.user.note" in pax
    assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert (link.linkname, link.uid, link.gid) == ("../secret", 3, 4)


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_step_sees_what_was_made_without_one(
    make_builder: MakeBuilder, context: Context, identity: str
) -> None:
    """Owner, mode, device, link, time: the layers are realised when the first step needs them."""
    builder = make_builder(identity)
    text = "FROM busybox\nADD layer.tar /d/\nCOPY --chown=5:6 --chmod=4751 tool /t\n"
    root = context({"Dockerfile": text, "tool": "x", "layer.tar": archive()})
    os.utime(root / "tool", (1_111_111_111, 1_111_111_111))
    first = builder.build(root)
    assert tiers(first) == NO_EXEC
    checks = [
        'test "$(stat -c %u:%g:%a:%Y /t)" = 5:6:4751:1111111111',
        'test "$(stat -c %u:%g:%a /d/d)" = 11:12:2770',
        'test "$(stat -c %h:%g /d/again)" = 2:42',
        "test \"$(stat -c %u:%N /d/d/link)\" = \"3:'/d/d/link' -> '../secret'\"",
        "test -p /d/d/pipe",
    ]
    (root / "Dockerfile").write_text(text + "".join(f"RUN {line}\n" for line in checks))
    built = builder.build(root)
    assert tiers(built) != NO_EXEC
    assert not [name for name in built.ran if "COPY" in name or "ADD" in name]
    other = make_builder(identity, "natively")
    in_worker(other, context)
    assert other.build(root).digest == built.digest


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_after_a_cached_step_the_worker_goes_on(
    make_builder: MakeBuilder, context: Context, identity: str
) -> None:
    """A step's layer is a tree on disk, of which there may be no blob."""
    builder = make_builder(identity)
    text = "FROM busybox AS one\nRUN echo made > /made; chown 9:9 /made\nFROM scratch\nCOPY --from=one /made f /\n"
    root = context({"Dockerfile": text, "f": "1"})
    root_text = text.replace(" f /", " /").replace("FROM scratch\n", "FROM scratch\nCOPY f /\n")
    (root / "Dockerfile").write_text(root_text)
    builder.build(root)
    (root / "f").write_text("2")
    again = builder.build(root)
    assert tiers(again) != NO_EXEC
    assert again.digest == make_builder(identity, "other").build(root).digest


def test_a_step_is_refused_before_anything_runs(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("sealed")
    root = context({"Dockerfile": "FROM busybox\nCOPY f /f\nRUN true\n", "f": "x"})
    done = builder.run("build", "--progress", "rawjson", str(root), status=4)
    assert "no-user-namespace" in done.err
    assert '"event":"started"' not in done.err
    builder.run("fsck")


def test_a_private_registry_gets_what_root_would_push(make_builder: MakeBuilder, sources: Path) -> None:
    with LoopbackRegistry() as registry:
        for identity in ("root", "sealed"):
            builder = make_builder(identity)
            name = f"{registry.url.partition('//')[2]}/app:{identity}"
            builder.run("build", "--tls-verify=false", "-t", name, "--push", str(sources))
        assert registry.manifests["root"] == registry.manifests["sealed"]


@pytest.fixture
def site() -> Iterator[FileSite]:
    with FileSite() as made:
        yield made


def test_files_and_repositories_from_elsewhere(
    make_builder: MakeBuilder, context: Context, scratch: Path, site: FileSite
) -> None:
    site.files = {"/f.tar": archive(), "/g": b"from a server"}
    repository = scratch / "repository"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
    (repository / "run").write_text("#!/bin/sh\n")
    (repository / "run").chmod(0o755)
    (repository / "link").symlink_to("run")
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(repository), "add", "."], check=True)
    subprocess.run(["git", "-C", str(repository), *named, "commit", "-q", "-m", "1"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(scratch)], check=True)
    text = (
        f"FROM busybox\nADD --unpack {site.url}/f.tar /f/\nADD --chown=3:4 --chmod=600 {site.url}/g /g\n"
        "COPY --from=repo --chown=daemon / /repository\n"
    )
    root = context({"Dockerfile": text})
    args = ("--build-context", f"repo=file://{repository}/.git")
    digests = []
    for identity in ("root", "sealed"):
        builder = make_builder(identity)
        subprocess.run(["chown", "-R", str(builder.uid), str(repository)], check=True)
        built = builder.build(root, *args)
        assert tiers(built) == NO_EXEC
        digests.append(built.digest)
    natively = make_builder("root", "natively")
    subprocess.run(["chown", "-R", "0", str(repository)], check=True)
    in_worker(natively, context)
    assert {*digests, natively.build(root, *args).digest} == {digests[0]}


def test_the_store_is_looked_after_without_privileges(make_builder: MakeBuilder, sources: Path) -> None:
    builder = make_builder("sealed")
    builder.run("build", "-t", "kept", str(sources))
    builder.run("fsck")
    assert "COPY" in builder.run("du").out
    builder.run("prune")
    builder.run("fsck")
    assert builder.build(sources).ran == []
    builder.run("quota", "1g")
    (sources / "tool").write_text("other")
    builder.build(sources)
    builder.run("rm", "kept")
    builder.run("prune", "--all")
    builder.run("fsck")
    assert os.listdir(builder.store / "layers") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_build_that_ends_early_leaves_a_good_store(
    make_builder: MakeBuilder, context: Context, number: signal.Signals
) -> None:
    builder = make_builder("sealed")
    files = {f"src/{n}": os.urandom(2_000_000) for n in range(30)}
    text = "FROM busybox\n" + "".join(f"COPY src /copy{n}/\n" for n in range(6))
    root = context({"Dockerfile": text, **files})
    process = builder.start("build", "--progress", "rawjson", "-t", "x", str(root))
    assert process.stderr is not None
    started = 0
    for line in process.stderr:
        started += json.loads(line)["event"] == "started" if line.startswith("{") else 0
        if started == 3:
            break
    process.send_signal(number)
    process.communicate(timeout=60)
    if number is signal.SIGINT:
        assert process.returncode == 130
    assert process.returncode != 0
    builder.run("fsck", "--timeout", "30s")
    builder.run("build", "-t", "x", str(root))
    builder.run("prune")
    assert os.listdir(builder.store / "work") == []


def test_copies_are_not_slower_than_in_the_worker(make_builder: MakeBuilder, context: Context) -> None:
    """Two thousand small files; with a margin for a busy machine."""
    files = {f"src/{n % 40}/{n}": f"{n}" * 50 for n in range(2000)}
    root = context({"Dockerfile": "FROM busybox\nCOPY src /src\n", **files})
    natively = make_builder("root", "natively")
    in_worker(natively, context)
    seconds = []
    for builder in (natively, make_builder("root")):
        best = 60.0
        for number in range(3):
            (root / "src/0/0").write_text(f"round {number}")
            began = time.monotonic()
            builder.build(root)
            best = min(best, time.monotonic() - began)
        seconds.append(best)
    assert seconds[1] < seconds[0] * 1.5 + 0.2, seconds
