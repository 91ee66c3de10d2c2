"""The worlds in which builds are done again: place, time zone, umask, locale, user, cores, times of the context."""

from __future__ import annotations

import os
import pwd
import shutil
import sys

import msgspec

from arkwright.diagnostics.errors import UsageError

# What steps are never told, and the program itself may need on this host.
_PASSED_ON = (
    "PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSH_AUTH_SOCK",
    "CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "GIT_SSH_COMMAND",
)  # fmt: skip
_MANY_IDS = 65_536


class Variation(msgspec.Struct, frozen=True, kw_only=True):
    """One world. `uid` is that of the process; `cpus` how many it may use, 0 for all; `moved_times` gives the
    files of contexts other times."""

    name: str
    umask: int = 0o022
    env: dict[str, str] = {}
    uid: int = 0
    cpus: int = 0
    jobs: int = 0
    moved_times: bool = False

    def describe(self) -> dict[str, str]:
        """What is different, for people and reports."""
        return {
            "directory": self.name,
            "umask": f"{self.umask:04o}",
            "locale": self.env.get("LC_ALL", ""),
            "time zone": self.env.get("TZ", ""),
            "user": str(self.uid),
            "cores": str(self.cpus or os.cpu_count() or 1),
            "context times": "others" if self.moved_times else "as they are",
        }


def plain(name: str = "first") -> Variation:
    """A world as most builds have it."""
    return Variation(name=name, env={"LC_ALL": "C.UTF-8", "TZ": "UTC"}, uid=os.geteuid())


def strange(uid: int, name: str = "a second place with/another-name") -> Variation:
    """A world in which everything is different that can be."""
    return Variation(
        name=name, umask=0o077, env={"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"},
        uid=uid, cpus=1, jobs=3, moved_times=True,
    )  # fmt: skip


def environment(variation: Variation, home_path: str) -> dict[str, str]:
    """The environment of the process, and nothing else of ours."""
    found = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    return {**found, **variation.env, "HOME": home_path, "ARKWRIGHT_GC": "off"}


def other_user(name: str = "") -> int:
    """Who builds when root verifies: the named user, else the first who has subordinate ids; root when there
    is none or this is not root. Raises `UsageError` `invalid-option-value`."""
    if name:
        uid = _uid(name)
        if uid is None or os.geteuid() not in (0, uid):
            why = "there is no such user" if uid is None else "only root can build as another user"
            raise UsageError.of("invalid-option-value", f"--user {name}: {why}")
        return uid
    if os.geteuid() != 0 or not shutil.which("newuidmap"):
        return os.geteuid()
    try:
        with open("/etc/subuid", encoding="utf-8", errors="replace") as file:
            ranges = [line.strip().split(":") for line in file]
    except OSError:
        return 0
    for fields in ranges:
        if len(fields) == 3 and fields[2].isdecimal() and int(fields[2]) >= _MANY_IDS:
            uid = _uid(fields[0])
            if uid:
                return uid
    return 0


def reads_the_program(uid: int) -> bool:
    """Whether a user can run this program: a clone in root's home is closed to all others."""
    paths = [sys.executable, os.path.dirname(os.path.abspath(__file__))]
    return uid == os.geteuid() or all(_is_open(os.path.realpath(path)) for path in paths)


def _is_open(path: str) -> bool:
    """Whether everybody may read a file, and go there."""
    if not os.stat(path).st_mode & 0o004:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwuid(int(name)).pw_uid if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except (KeyError, OverflowError):
        return None
