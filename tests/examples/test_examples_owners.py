"""Packages with many owners and setgid files: one image, whoever builds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from building import Built
from example_builds import BUILD_S, Examples

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
from conformance_read import Found, read_oci_archive

pytestmark = pytest.mark.timeout(1800)
# What these packages make of random numbers and inode numbers: a key of their own for each
# installation, and the identity that Berkeley DB gives to a file.
RANDOM = {
    "etc/aliases.db",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/ssl-cert-snakeoil.key",
}
INSTALL = """FROM debian:bookworm
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends cron postfix"""
WITHOUT_RANDOM = f"{INSTALL} && rm {' '.join(f'/{path}' for path in sorted(RANDOM))}\n"


def _install(examples: Examples, dockerfile: str, scratch: Path) -> tuple[Built, dict[str, Found]]:
    """Build it anew; what was built, and the tree."""
    context = scratch / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    archive = examples.builder.home / "owners.tar"
    archive.unlink(missing_ok=True)
    options = ("--no-cache", "--network=host", "-o", f"type=oci,dest={archive}")
    built = examples.builder.build(context, *options, timeout_s=BUILD_S)
    found = read_oci_archive(archive).tree
    return built, {path: msgspec.structs.replace(node, inode=0) for path, node in found.items()}


@pytest.mark.soak
def test_many_owners_and_setgid_files(shared_examples: Callable[[str], Examples], scratch: Path) -> None:
    """`cron` and `postfix`, as root and as a user with subordinate ids: the same digest."""
    root, tree = _install(shared_examples("root"), WITHOUT_RANDOM, scratch)
    assert (tree["usr/bin/crontab"].mode & 0o2000, tree["usr/sbin/postdrop"].mode & 0o2000) == (0o2000,) * 2
    assert len({node.owner for node in tree.values()}) > 8
    assert {node.owner[0] for node in tree.values()} > {0}
    rootless, _ = _install(shared_examples("subids"), WITHOUT_RANDOM, scratch)
    assert rootless.fields["arkwright.tiers"] == [f"{root.fields['arkwright.tiers'][0]}+userns"]
    assert rootless.digest == root.digest


@pytest.mark.soak
@pytest.mark.skipif(not os.environ.get("ARKWRIGHT_SOAK"), reason="soak: three installations, a minute")
def test_what_differs_differs_for_root_as_well(
    shared_examples: Callable[[str], Examples], scratch: Path
) -> None:
    """Everything that a user's build has other than root's, a second one of root's has too."""
    first, second, rootless = (
        _install(shared_examples(identity), f"{INSTALL}\n", scratch)[1]
        for identity in ("root", "root", "subids")
    )
    for other in (second, rootless):
        assert other.keys() == first.keys()
        assert {path for path in first if other[path] != first[path]} == RANDOM
    for path in RANDOM:
        assert (first[path].owner, first[path].mode) == (rootless[path].owner, rootless[path].mode)
