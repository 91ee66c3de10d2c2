"""Builds in containers as engines and clusters start them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from container import Container
from tiny_context import make_tiny_context

from building import Builder, MakeBuilder

PROFILE = Path(__file__).parents[2] / "contrib/arkwright-seccomp.json"


@pytest.fixture
def container(scratch: Path) -> Container:
    found = Container(scratch)
    make_tiny_context(found.scratch / "context")
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


def test_the_recipe_for_docker(container: Container, make_builder: MakeBuilder) -> None:
    """The shipped filter and `systempaths=unconfined`: a runtime works, in a user namespace."""
    built = container.arkwright(
        "build", "--progress=plain", "--metadata-file=/scratch/metadata.json", "/scratch/context",
        seccomp=with_namespaces(), masked=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    found = digest(container)
    assert found["arkwright.tiers"] == ["crun+userns"], built.stderr
    assert found["containerimage.digest"] == native(make_builder, container)


SECRET = """FROM scratch
COPY root /
RUN --mount=type=secret,id=s x=$(cat /run/secrets/s); test "${#x}" = 6 && cat /run/secrets/s > /dev/null
RUN ls /run/secrets/s && exit 1; true
"""


def test_secrets_as_files(container: Container) -> None:
    """With a namespace they are mounted; without, they are files on a store in memory, and pipes on a disk."""
    (container.scratch / "context/Dockerfile").write_text(SECRET)
    build = ("build", "--progress=plain", "--secret=id=s,env=S", "/scratch/context")
    env = ("S=s3cret",)
    mounted = container.arkwright(*build, seccomp=with_namespaces(), env=env)
    assert mounted.returncode == 0, mounted.stderr
    piped = container.arkwright(*build, "--no-cache", env=env)
    assert piped.returncode == 0, piped.stderr
    in_memory = container.arkwright(*build, "--no-cache", env=(*env, "ARKWRIGHT_ROOT=/tmp/store"))
    assert in_memory.returncode == 0, in_memory.stderr
    for done in (mounted, piped, in_memory):
        assert "s3cret" not in done.stdout + done.stderr
    found = [
        path for path in container.scratch.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()
    ]
    assert found == []


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
