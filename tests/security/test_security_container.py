"""Builds in containers as engines and clusters start them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from container import Container

from building import Builder, MakeBuilder

PROFILE = Path(__file__).parents[2] / "contrib/arkwright-seccomp.json"

DOCKERFILE = """FROM scratch
COPY --chown=0:0 root /
RUN mkdir -p /d/e && echo hi > /d/e/f && chown 5:6 /d/e/f && chmod 4755 /d/e/f && ln /d/e/f /d/hard
RUN --mount=type=cache,target=/cc echo x >> /cc/n && cp /cc/n /cached
RUN --mount=type=bind,target=/src cp /src/f /copied && test ! -e /src/none
USER 1000:1000
RUN id -u > /tmp/id && umask >> /tmp/id
USER 0
RUN rm -r /d/e && date > /dev/null && test "$(cat /dev/null)" = ""
COPY f /f
"""


_APPLETS = (
    "sh",
    "mkdir",
    "echo",
    "chown",
    "chmod",
    "ln",
    "cp",
    "id",
    "rm",
    "date",
    "cat",
    "test",
    "ls",
    "true",
)


@pytest.fixture
def container(scratch: Path) -> Container:
    """With a context that brings its own root: one busybox, so that copies of trees are small."""
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs-busybox: a static busybox (package busybox-static)")
    found = Container(scratch)
    context = found.scratch / "context"
    for name in ("root/bin", "root/tmp"):
        (context / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", context / "root/bin/busybox")
    for name in _APPLETS:
        (context / "root/bin" / name).symlink_to("busybox")
    (context / "root/tmp").chmod(0o1777)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "f").write_text("text")
    return found


def with_namespaces() -> dict[str, Any]:
    """The filter that is shipped, in the form of the runtime specification."""
    profile = json.loads(PROFILE.read_text())
    del profile["archMap"]
    return dict(profile)


def digest(container: Container) -> dict[str, object]:
    return json.loads((container.scratch / "metadata.json").read_text())


def native(make_builder: MakeBuilder, container: Container) -> str:
    builder: Builder = make_builder("root")
    return builder.build(container.scratch / "context").digest


def test_default_capabilities_build_by_chroot(container: Container, make_builder: MakeBuilder) -> None:
    """As `docker run` starts a container: RUN works, and gives what it gives to root on a host."""
    built = container.arkwright(
        "build", "--progress=plain", "--metadata-file=/scratch/metadata.json", "/scratch/context"
    )
    assert built.returncode == 0, built.stderr
    assert "isolated by chroot only" in built.stderr
    found = digest(container)
    assert found["arkwright.tiers"] == ["chroot"]
    assert found["containerimage.digest"] == native(make_builder, container)


def test_default_capabilities_and_user_namespaces(container: Container, make_builder: MakeBuilder) -> None:
    """As podman's profile has it: namespaces are allowed, a new /proc is not, as files of it are masked."""
    built = container.arkwright(
        "build", "--progress=plain", "--metadata-file=/scratch/metadata.json", "/scratch/context",
        seccomp=with_namespaces(),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    found = digest(container)
    assert found["arkwright.tiers"] == ["chroot+userns"]
    assert found["containerimage.digest"] == native(make_builder, container)


RESTRICTED: dict[str, Any] = {"uid": 1000, "capabilities": False}


def test_restricted_says_what_is_missing(container: Container) -> None:
    """As Pod Security `restricted` with the runtime's filter: neither namespaces nor capabilities."""
    container.scratch.chmod(0o777)
    built = container.arkwright("build", "/scratch/context", **RESTRICTED)
    assert built.returncode == 4
    assert "error[no-user-namespace]" in built.stderr
    doctor = container.arkwright("doctor", "--format=json", **RESTRICTED)
    assert doctor.returncode == 4, doctor.stderr
    found = json.loads(doctor.stdout)
    assert found["isolation"]["tier"] == ""
    assert found["isolation"]["fix"]


def test_restricted_with_the_filter(container: Container) -> None:
    """The same with the shipped filter: a user namespace with one id."""
    container.scratch.chmod(0o777)
    text = "FROM scratch\nCOPY root /\nRUN date > /dev/null && cat /proc/self/status > /status && ls /sys > /list\n"
    (container.scratch / "context/Dockerfile").write_text(text)
    built = container.arkwright(
        "build", "--metadata-file=/scratch/metadata.json", "/scratch/context", seccomp=with_namespaces(),
        **RESTRICTED,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert digest(container)["arkwright.tiers"] == ["chroot+userns"]
    doctor = container.arkwright("doctor", "--format=json", seccomp=with_namespaces(), **RESTRICTED)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert json.loads(doctor.stdout)["isolation"]["snapshots"] == "copy"


def test_what_is_forced_and_missing(container: Container) -> None:
    built = container.arkwright("build", "--isolation=crun", "/scratch/context")
    assert built.returncode == 4
    assert "error[no-user-namespace]" in built.stderr
