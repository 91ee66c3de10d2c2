"""Tools of the host that make base images, and what apt's configuration there says."""

from __future__ import annotations

import os
import shutil
import subprocess

from arkwright.diagnostics.errors import HostUnsupported

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_TIMEOUT_S = 30


def find_tool(name: str, package: str) -> str:
    """The path of a program. Raises `HostUnsupported` `missing-tool` with the line that installs it."""
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    if path is None:
        fix = f"apt-get install {package}"
        raise HostUnsupported.of(
            "missing-tool",
            f"{name} is not installed",
            hint=f"as root: {fix}",
            details={"probe": name, "fix": fix},
        )
    return path


def apt_settings(*keys: str) -> list[tuple[str, str]]:
    """Values of apt.conf(5) settings that this host sets, in the order of `keys`."""
    apt_config = shutil.which("apt-config")
    if apt_config is None:
        return []
    pairs = [item for number, key in enumerate(keys) for item in (f"V{number}", key)]
    try:
        said = subprocess.run(
            [apt_config, "shell", *pairs], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return [
        (key, found[f"V{number}"].strip("'\"")) for number, key in enumerate(keys) if f"V{number}" in found
    ]


def proxy_environment() -> dict[str, str]:
    """Proxy variables of the caller, and where there is none what apt is configured to use."""
    found = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    for scheme, value in apt_settings("Acquire::http::Proxy", "Acquire::https::Proxy"):
        found.setdefault(scheme.split("::")[1] + "_proxy", value)
    return found
