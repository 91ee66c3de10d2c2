"""The recipes for podman, with the real podman."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from podman_container import Podman
from tiny_context import make_tiny_context

from building import MakeBuilder

PROFILE = Path(__file__).parents[2] / "contrib/arkwright-seccomp.json"
BUILD = ("build", "--progress=plain", "--metadata-file=/scratch/metadata.json", "/scratch/context")


@pytest.fixture
def podman(scratch: Path) -> Podman:
    found = Podman(scratch)
    make_tiny_context(found.scratch / "context")
    return found


def tiers(podman: Podman) -> list[str]:
    return list(json.loads((podman.scratch / "metadata.json").read_text())["arkwright.tiers"])


def image(podman: Podman) -> str:
    return str(json.loads((podman.scratch / "metadata.json").read_text())["containerimage.digest"])


@pytest.mark.parametrize(
    ("options", "tier"),
    [
        ((), "chroot+userns"),
        (("--security-opt=no-new-privileges",), "chroot+userns"),
        (("--security-opt=unmask=ALL",), "crun+userns"),
        (("--security-opt=unmask=ALL", f"--security-opt=seccomp={PROFILE}"), "crun+userns"),
        (("--privileged",), "crun"),
    ],
    ids=["as it is", "no new privileges", "unmasked", "unmasked with the filter", "privileged"],
)
def test_root_in_podman(
    options: tuple[str, ...], tier: str, podman: Podman, make_builder: MakeBuilder
) -> None:
    """RUN works, in the tier that the documentation promises, and gives the digest of a host."""
    built = podman.arkwright(*BUILD, options=options)
    assert built.returncode == 0, built.stderr
    assert tiers(podman) == [tier]
    assert image(podman) == make_builder("root").build(podman.scratch / "context").digest


def test_a_user_in_podman_without_capabilities(podman: Podman) -> None:
    """As a pod under `restricted` on a cluster that runs podman's filter, which admits user namespaces."""
    podman.scratch.chmod(0o777)
    options = ("--user=1000:1000", "--cap-drop=all", "--security-opt=no-new-privileges")
    (podman.scratch / "context/Dockerfile").write_text("FROM scratch\nCOPY root /\nRUN echo x > /x\n")
    built = podman.arkwright(*BUILD, options=options)
    assert built.returncode == 0, built.stderr
    assert tiers(podman) == ["chroot+userns"]
