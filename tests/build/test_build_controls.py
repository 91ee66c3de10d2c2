"""Arguments and options that steer the builder, end to end."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_build_contexts import git, repository, tree_of  # noqa: F401 - a fixture

from building import Builder, Context, MakeBuilder
from file_site import FileSite

ECHO = "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n"


def archive_of(root: Path) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        tar.add(root, ".")
    return sink.getvalue()


@pytest.fixture
def root_builder(make_builder: MakeBuilder) -> Builder:
    return make_builder("root")


@pytest.fixture
def site() -> Iterator[FileSite]:
    with FileSite() as made:
        yield made


def built(builder: Builder, *args: str, **more: Any) -> tuple[str, str]:
    """When the image says that it was made, and what the step saw."""
    builder.run("build", "-t", "e", *args, **more)
    created = msgspec.json.decode(builder.run("inspect", "e").out)["config"]["created"]
    return created, builder.run("run", "e", "cat", "/epoch").out.strip()


def test_the_forms_of_the_epoch(root_builder: Builder, context: Context, site: FileSite) -> None:
    stage = f"FROM scratch AS fetched\nADD {site.url}/f /\n"
    root = context({"Dockerfile": stage + ECHO, "f": "x"})
    site.files = {"/c.tar": archive_of(root), "/f": b"x"}
    moment = ("2001-09-09T01:46:40Z", "1000000000")
    argument = "SOURCE_DATE_EPOCH="
    constant = ("2000-01-01T00:00:00Z", "946684800")
    assert built(root_builder, str(root)) == constant
    assert built(root_builder, "--build-arg", argument + "1000000000", str(root)) == moment
    assert built(root_builder, "--build-arg", argument + "fetched", str(root)) == moment
    assert built(root_builder, "--build-arg", argument + "context", f"{site.url}/c.tar") == moment
    named = ("--build-context", f"src={site.url}/f", "--build-arg", argument + "src")
    assert built(root_builder, *named, str(root)) == moment
    assert built(root_builder, "--build-arg", argument, str(root)) == (constant[0], "")
    option = ("--source-date-epoch", "1000000000", "--build-arg", argument + "5")
    assert built(root_builder, *option, str(root)) == moment
    done = root_builder.run("build", "--build-arg", argument + "context", str(root))
    assert "warning[epoch-without-time]" in done.err
    done = root_builder.run("build", "--build-arg", argument + "yesterday", str(root), status=1)
    assert "error[invalid-epoch]" in done.err
    root_builder.env["SOURCE_DATE_EPOCH"] = "1000000000"
    assert built(root_builder, str(root)) == moment
    assert built(root_builder, "--build-arg", argument + "946684800", str(root)) == constant


def test_the_epoch_of_an_archive_is_that_of_its_newest_entry(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": ECHO, "old": "x"})
    for name, time in (("old", 1_100_000_000), ("Dockerfile", 1_200_000_000), (".", 1_000_000_000)):
        os.utime(root / name, (time, time))
    args = ("--build-arg", "SOURCE_DATE_EPOCH=context", "-")
    assert built(root_builder, *args, input=archive_of(root)) == ("2008-01-10T21:20:00Z", "1200000000")


def test_an_index_around_one_platform(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "x"})
    for value, media_type in (("1", "index"), ("false", "manifest")):
        root_builder.run("build", "-t", "i", "--build-arg", f"BUILDKIT_MULTI_PLATFORM={value}", str(root))
        found = msgspec.json.decode(root_builder.run("inspect", "i").out)
        assert found["media_type"] == f"application/vnd.oci.image.{media_type}.v1+json"


TIMES = (
    "FROM busybox\nCOPY . /c\nRUN stat -c '%Y %a %n' /c /c/f /c/sub /c/sub/f > /times; ls -a /c >> /times\n"
)


def test_a_git_context(builder: Builder, repository: Path, context: Context) -> None:  # noqa: F811
    (repository / "Dockerfile").write_text(TIMES)
    (repository / "f").chmod(0o755)
    git(repository, "commit", "-qam", "three")
    # git reads only what belongs to the user who runs it (safe.directory in git-config(1)).
    subprocess.run(["chown", "-R", str(builder.uid), str(repository)], check=True)
    url = f"file://{repository}/.git"

    def times(*args: str, umask: int = 0o077) -> list[str]:
        out = builder.home / "out.tar"
        # Times are in no key: a cached step would show those that it saw.
        builder.run("build", "--no-cache", "-o", f"type=tar,dest={out}", *args, umask=umask)
        tar = ["tar", "-xOf", str(out), "times"]
        return subprocess.run(tar, capture_output=True, text=True, check=True).stdout.split("\n")

    # Modes are those of a checkout at umask 022, whoever builds.
    plain = times(url)
    assert [line.split()[1:] for line in plain[:4]] == [
        ["755", "/c"], ["755", "/c/f"], ["755", "/c/sub"], ["644", "/c/sub/f"],
    ]  # fmt: skip
    assert ".git" not in plain
    assert not any(line.startswith("1700000000") for line in plain)
    for args in ((url + "?mtime=commit",), (url, "--build-arg", "SOURCE_DATE_EPOCH=context")):
        assert all(line.startswith("1700000000 ") for line in times(*args)[1:4])
    url_wins = times(url + "?mtime=checkout", "--build-arg", "SOURCE_DATE_EPOCH=7")
    assert not any(line.startswith("1700000000") for line in url_wins)
    keep = ("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    assert ".git" in times(url, *keep)
    assert ".git" not in times(url + "?keep-git-dir=false", *keep)
    done = builder.run("build", url, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=maybe", status=1)
    assert "error[invalid-control-argument]" in done.err


SSH = """\
FROM busybox
RUN --mount=type=ssh,required --mount=type=ssh,id=two,required \
    test -S $SSH_AUTH_SOCK && test -S /run/buildkit/ssh_agent.1 && echo yes > /out
"""


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs-openssh: keys and an agent")
def test_keys_of_ssh(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": SSH})
    for name, passphrase in (("one", ""), ("two", ""), ("locked", "hidden-word")):
        path = builder.home / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)
        os.chown(path, builder.uid, builder.uid)
    keys = ("--ssh", f"default={builder.home}/one,{builder.home}/two", "--ssh", f"two={builder.home}/two")
    tree = tree_of(builder, *keys, str(root))
    found = tree.seen("out")
    assert found is not None
    assert found.text == "yes\n"
    # Which keys are given is no part of a step's key.
    assert not builder.build(
        root, "--ssh", f"default={builder.home}/two", "--ssh", f"two={builder.home}/one"
    ).ran
    done = builder.run("build", "--ssh", f"default={builder.home}/locked", str(root), status=1)
    assert "error[ssh-key-unusable]" in done.err
    assert "hidden-word" not in done.err


def test_options_of_other_builders(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    harmless = ("--rm", "--force-rm=true", "--compress", "--disable-content-trust=false", "-D")
    done = root_builder.run(
        "build", *harmless, "--isolation", "default", "--allow", "network.host", str(root)
    )
    assert done.err.count("warning[option-without-effect]") == 5
    for refused in (("--builder", "x"), ("--detach",), ("--invoke", "sh"), ("--allow", "device=x")):
        assert "error[not-built-yet]" in root_builder.run("build", *refused, str(root), status=2).err
    assert (
        "error[invalid-option-value]" in root_builder.run("build", "--allow", "all", str(root), status=2).err
    )
    target = ("--build-context", "x=target:base")
    assert "error[not-built-yet]" in root_builder.run("build", *target, str(root), status=2).err


def test_a_step_without_its_sandbox_needs_leave(root_builder: Builder, context: Context) -> None:
    root = context(
        {"Dockerfile": "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status > /out\n"}
    )
    done = root_builder.run("build", str(root), status=3)
    assert "error[entitlement-missing]" in done.err
    assert "Dockerfile:2:" in done.err
    root_builder.run("build", "--allow", "security.insecure", str(root))
