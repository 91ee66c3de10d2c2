"""A context that brings its own root: one busybox, so that copies of trees are small."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

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
    "stat",
    "true",
)


def make_tiny_context(context: Path) -> None:
    """Write it, with a Dockerfile that changes owners, modes and links, and mounts."""
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs-busybox: a static busybox (package busybox-static)")
    for name in ("root/bin", "root/tmp"):
        (context / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", context / "root/bin/busybox")
    for name in _APPLETS:
        (context / "root/bin" / name).symlink_to("busybox")
    (context / "root/tmp").chmod(0o1777)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "f").write_text("text")
