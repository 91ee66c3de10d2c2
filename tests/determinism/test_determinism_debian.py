"""A Debian image with many packages is the same two days later, for another user, on one core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import Builder
from example_builds import BUILD_S, host_settings

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
PACKAGES = (
    "python3", "python3-venv", "nginx-light", "default-jre-headless", "git", "curl", "ca-certificates", "vim-tiny", "less",
    "jq", "sqlite3", "perl", "gcc", "libc6-dev", "make", "postgresql-client", "redis-tools", "rsync", "openssh-client",
    "gnupg", "fontconfig", "man-db", "file",
)  # fmt: skip
# What differs without the last two lines of the RUN, and nothing else: the key store of Java, whose entries have times, and
# the indexes of manual pages (docs/explanation/reproducibility.md).
# Only the packages' scripts see the other clock: the runtime and the kernel go on as ever. The clock is read from a
# mount, so that nothing in the image tells which it was.
DOCKERFILE = f"""\
FROM debian:bookworm
ARG DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \\
    --mount=type=bind,from=clock,target=/clock \\
    export LD_PRELOAD=/clock/libfaketime.so.1 FAKETIME_TIMESTAMP_FILE=/clock/now FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 && \\
    apt-get -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false update && \\
    apt-get -o APT::Sandbox::User=root install -y --no-install-recommends {" ".join(PACKAGES)} && \\
    rm -rf /var/cache/man/* /etc/ssl/certs/java/cacerts && \\
    FAKETIME='2024-01-01 00:00:00' update-ca-certificates --fresh
"""


@pytest.fixture(scope="module")
def library() -> Path:
    """libfaketime."""
    if not os.environ.get("ARKWRIGHT_SOAK"):
        pytest.skip("soak: two installations of 23 packages from the network")
    found = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("needs-libfaketime: the package libfaketime is not installed")
    return found[0]


@pytest.fixture(scope="module")
def debian() -> Iterator[Path]:
    """An archive of the base, in a place that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="arkwright-debian-"))
    folder.chmod(0o755)
    builder = Builder(folder, "root")
    done = subprocess.run(
        builder.command("bootstrap", "--quiet", "debian:bookworm"), env=builder.env, capture_output=True, text=True,
        timeout=BUILD_S, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"needs-network: no base image could be made: {done.stderr[-300:]}")
    path = builder.scratch / "debian.tar"
    builder.run("save", "--format", "oci-archive", "-o", str(path), "debian:bookworm", timeout_s=BUILD_S)
    path.chmod(0o644)
    yield path
    shutil.rmtree(folder)


def test_twenty_packages_two_days_apart(library: Path, debian: Path, scratch: Path) -> None:
    found = {}
    for identity, now in (("root", "+0"), ("subids", "+2d")):
        builder = Builder(scratch, identity)
        settings = host_settings()
        arguments = [
            item for name in settings if name.lower().endswith("_proxy") for item in ("--build-arg", name)
        ]
        builder.env.update(settings)
        if identity == "subids" and shutil.which("taskset"):
            builder.prefix = ["taskset", "-c", "0", *builder.prefix]
        builder.run("load", "-i", str(debian), timeout_s=BUILD_S)
        root, clock = scratch / f"context of {identity}", scratch / f"clock-{identity}"
        for folder in (root, clock):
            folder.mkdir()
        (root / "Dockerfile").write_text(DOCKERFILE)
        shutil.copy(library, clock)
        (clock / "now").write_text(now)
        subprocess.run(["chmod", "-R", "a+rX", str(root), str(clock)], check=True)
        built = builder.build(
            root,
            "--build-context",
            f"clock={clock}",
            "-t",
            "twenty",
            *arguments,
            "-o",
            "type=image",
            timeout_s=BUILD_S,
        )
        told = json.loads(builder.run("inspect", "twenty").out)
        found[identity] = (built.digest, [layer["diff_id"] for layer in told["layers"]])
        if identity == "root":
            builder.run(
                "save",
                "--format",
                "oci-archive",
                "-o",
                str(scratch / "first.tar"),
                "twenty",
                timeout_s=BUILD_S,
            )
            (scratch / "first.tar").chmod(0o644)
    user = Builder(scratch, "subids")
    user.run("load", "-i", str(scratch / "first.tar"), timeout_s=BUILD_S)
    if found["root"] != found["subids"]:
        done = subprocess.run(
            user.command("diff", "--times", found["root"][0], found["subids"][0]), env=user.env, capture_output=True,
            text=True, timeout=BUILD_S, check=False, cwd=user.home,
        )  # fmt: skip
        pytest.fail(f"what differs:\n{done.stdout[:20000]}\n{done.stderr}")
