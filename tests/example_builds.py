"""Builds of the examples: `examples/build.sh` as one of several users, with the host's package indexes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from building import Builder, Built

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Long: a machine that does other things too, and mirrors that are slow.
BUILD_S = 840
PASSED_ON = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "PIP_INDEX_URL", "npm_config_registry",
)  # fmt: skip


def host_settings() -> dict[str, str]:
    """The package indexes of whoever runs the tests, for builders with a home of their own."""
    found = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    for name, command in (
        ("PIP_INDEX_URL", [sys.executable, "-m", "pip", "config", "get", "global.index-url"]),
        ("npm_config_registry", ["npm", "config", "get", "registry"]),
    ):
        if name not in found and shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.startswith("http"):
                found[name] = done.stdout.strip()
    return found


class Examples:
    """`examples/build.sh` as one user, in one store."""

    def __init__(self, builder: Builder, bases: Callable[[str], Path]) -> None:
        self.builder = builder
        self.builder.env.update(host_settings())
        self.builder.env["ARKWRIGHT"] = f"{sys.executable} -m arkwright"
        for parent in (EXAMPLES, *EXAMPLES.parents):
            if builder.uid and not parent.stat().st_mode & 0o001:
                pytest.skip(f"needs-readable-clone: {parent} is closed to other users")
        self._bases = bases

    def with_base(self, name: str) -> Examples:
        self.builder.run("load", "-i", str(self._bases(name)), timeout_s=BUILD_S)
        return self

    def build(self, name: str, *options: str, folder: Path = EXAMPLES) -> tuple[Built, str]:
        """Build an example, run it, have its output compared; gives what was built and what was printed. `folder` is
        where the examples are."""
        metadata = self.builder.home / "metadata.json"
        metadata.unlink(missing_ok=True)
        done = subprocess.run(
            [*self.builder.prefix, "bash", str(folder / "build.sh"), name, "--", "--metadata-file", str(metadata), *options],
            cwd=self.builder.home, env=self.builder.env, umask=0o022, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=BUILD_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"examples/build.sh {name}:\n{done.stdout}\n{done.stderr}"
        assert f"ok {name}," in done.stdout
        return Built(self.builder, msgspec.json.decode(metadata.read_bytes())), done.stdout + done.stderr


MakeExamples = Callable[..., Examples]
