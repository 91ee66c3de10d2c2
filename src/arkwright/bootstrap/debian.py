"""Debian and Ubuntu base images, made by mmdebstrap(1) from the distribution's own packages.

The tree that mmdebstrap writes is normalised, so that the image is a function of the packages,
the suite, the variant and the written sources list: the clock, the user and the host's name leave
no trace. As root mmdebstrap works in place (`--mode=root`), otherwise in a user namespace
(`--mode=unshare`); both give the same bytes.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

import msgspec

from arkwright.bootstrap import apt_sources
from arkwright.bootstrap.publish import publish
from arkwright.bootstrap.rootfs import collect
from arkwright.bootstrap.tools import apt_settings, find_tool, proxy_environment
from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported, RemoteError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.layer.profile import CONSTANT_EPOCH, SCRUB_DEFAULT
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import Reference, parse_reference
from arkwright.store.store import Store

VARIANTS = ("minbase", "essential", "apt", "required", "buildd", "important", "standard", "debootstrap")
# Release numbers that people write for code names.
_RELEASES = {
    "debian": {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"},
    "ubuntu": {
        "20.04": "focal",
        "22.04": "jammy",
        "24.04": "noble",
        "25.10": "questing",
        "26.04": "resolute",
    },
}
_CODENAME = re.compile(r"[a-z][a-z0-9-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:-]*(=[A-Za-z0-9.+:~-]+)?(/[a-z0-9-]+)?")

# What depends on the clock, the host or the order of work, or is made anew on demand.
_DROPPED = (
    *(path.lstrip("/") for path in SCRUB_DEFAULT),
    "dev/*", "proc/*", "sys/*", "run/*", "tmp/*", "var/tmp/*",
    "etc/hostname", "etc/resolv.conf", "etc/hosts",
    "etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/99mmdebstrap",
    "var/lib/apt/lists/*", "var/cache/apt/archives/*", "var/lib/dpkg/lock*", "var/lib/dpkg/*-old",
    "var/cache/debconf/*-old", "var/log/bootstrap.log", "var/cache/ldconfig/*",
)  # fmt: skip
_EMPTIED = ("etc/machine-id", "var/log/btmp", "var/log/wtmp", "var/log/lastlog", "var/log/faillog")

# As in other container images: packages that are installed in a step start no service, and apt
# keeps no copy of what it installed.
_POLICY = b"#!/bin/sh\n# No service starts while an image is built.\nexit 101\n"
# In the file that Debian's images have for it, as Dockerfiles with cache mounts for apt remove that file.
_DOCKER_CLEAN = 'APT::Keep-Downloaded-Packages "false";\n'

_UNREACHABLE = re.compile(
    r"Failed to fetch|Could not resolve|Temporary failure|Could not connect|Connection (?:failed|refused)"
    r"|Unable to connect|does not have a Release file"
)

_READ_SIZE = 1 << 18

Report = Callable[[str], None]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What a name such as `debian:bookworm` asks for."""

    distribution: str
    codename: str


def bootstrap(
    name: str,
    *,
    store: Store,
    variant: str = "minbase",
    mirror: str | None = None,
    include: Sequence[str] = (),
    reference: Reference | None = None,
    report: Report | None = None,
) -> Descriptor:
    """Make the image and name it `reference`, or `docker.io/library/<name>`; returns the manifest's descriptor.

    `mirror` is a URI, a one-line `deb …` entry, or the path of a sources file; None takes the
    host's own sources for the release. `report` gets mmdebstrap's lines as they come.

    Raises `UserError` `invalid-bootstrap-name`, `unknown-variant`, `invalid-package-name`,
    `bootstrap-failed`; `HostUnsupported` `missing-tool`, `no-subordinate-ids`; `RemoteError`
    `mirror-unreachable`.
    """
    release = parse_release(name)
    if variant not in VARIANTS:
        near = nearest(variant, VARIANTS)
        raise UserError.of(
            "unknown-variant",
            f"there is no variant {variant!r}",
            hint=f"did you mean {near!r}?" if near else f"there are: {', '.join(VARIANTS)}",
        )
    for package in include:
        if not _PACKAGE.fullmatch(package):
            raise UserError.of("invalid-package-name", f"{package!r} is not a package's name")
    sources = _sources(release, mirror)
    command = _command(release, variant, tuple(include), sources)
    with tempfile.TemporaryFile(dir=_temporary_path()) as spool:
        with _Run(command, sources, report or (lambda line: None)) as run:
            tree = collect(cast(BinaryIO, run), spool, _DROPPED, _EMPTIED)
        tree.add_file("usr/sbin/policy-rc.d", _POLICY, mode=0o755)
        tree.add_file("etc/apt/apt.conf.d/docker-clean", _DOCKER_CLEAN.encode())
        tree.add_file("etc/apt/apt.conf.d/90container", _apt_conf().encode())
        tree.add_file("etc/machine-id", b"")
        if sources:
            tree.add_file(f"etc/apt/sources.list.d/{release.distribution}.sources", sources.encode())
        return publish(
            store,
            reference or parse_reference(name),
            tree.changes(),
            cmd=("bash",),
            created_by=" ".join(
                [
                    "arkwright bootstrap",
                    name,
                    f"--variant={variant}",
                    *(f"--include={item}" for item in include),
                ]
            ),
        )


def parse_release(name: str) -> Release:
    """Distribution and code name of `debian:bookworm`, `debian:12`, `ubuntu:24.04` …

    Raises `UserError` `invalid-bootstrap-name`.
    """
    distribution, _, tag = name.partition(":")
    codename = _RELEASES.get(distribution, {}).get(tag, tag)
    if distribution not in _RELEASES or not _CODENAME.fullmatch(codename):
        raise UserError.of(
            "invalid-bootstrap-name",
            f"{name!r} is not a distribution and a release",
            hint="write debian:bookworm, debian:trixie, ubuntu:noble … or busybox",
        )
    return Release(distribution=distribution, codename=codename)


def _sources(release: Release, mirror: str | None) -> str:
    """The deb822 text that goes into the image; empty for mmdebstrap's own default mirror."""
    if mirror is None:
        host = _os_release().get("VERSION_CODENAME", "")
        found = apt_sources.select(apt_sources.read_sources(), release.distribution, release.codename, host)
        return apt_sources.render(found)
    if os.path.isfile(mirror):
        with open(mirror, encoding="utf-8") as file:
            text = file.read()
        return text if text.lstrip().startswith("Types:") or "\nTypes:" in text else _one_line(text, mirror)
    if mirror.startswith("deb "):
        return _one_line(mirror, mirror)
    if "://" not in mirror:
        raise UserError.of(
            "invalid-mirror",
            f"{mirror!r} is no URI, no `deb …` line and no file",
            hint="write http://HOST/debian",
        )
    keyring = f"/usr/share/keyrings/{release.distribution}-archive-keyring.gpg"
    components = ("main",) if release.distribution == "debian" else ("main", "universe")
    source = apt_sources.AptSource(
        uris=(mirror,),
        suites=(release.codename,),
        components=components,
        signed_by=keyring if os.path.exists(keyring) else "",
    )
    return apt_sources.render([source])


def _one_line(text: str, mirror: str) -> str:
    found = list(apt_sources.parse_list(text))
    if not found:
        raise UserError.of("invalid-mirror", f"{mirror!r} holds no `deb …` entry with components")
    return apt_sources.render(found)


def _os_release() -> dict[str, str]:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            lines = [line.strip().partition("=") for line in file if "=" in line]
    except OSError:
        return {}
    return {key: value.strip("\"'") for key, _, value in lines}


def _apt_conf() -> str:
    """Settings without which the host's sources may be unusable (a mirror of old snapshots) go
    along with them."""
    settings = apt_settings("Acquire::Check-Valid-Until", "Acquire::Check-Date")
    return "".join(f'{key} "{value}";\n' for key, value in settings if value == "false")


def _command(release: Release, variant: str, include: tuple[str, ...], sources: str) -> list[str]:
    command = [find_tool("mmdebstrap", "mmdebstrap"), f"--variant={variant}", "--format=tar"]
    if os.geteuid() == 0:
        command.append("--mode=root")
    else:
        find_tool("newuidmap", "uidmap")
        _check_subordinate_ids()
        command.append("--mode=unshare")
    packages = list(include)
    if re.search(r"^URIs:.*\bhttps://", sources, re.MULTILINE):
        packages.append("ca-certificates")
    if packages:
        command.append(f"--include={','.join(packages)}")
    settings = apt_settings("Acquire::Check-Valid-Until", "Acquire::Check-Date")
    command += [f'--aptopt={key} "{value}"' for key, value in settings if value == "false"]
    return [*command, release.codename, "-", *(["-"] if sources else [])]


def _check_subordinate_ids() -> None:
    import pwd

    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path, encoding="utf-8") as file:
                found = any(line.split(":")[0] in (user, str(uid)) for line in file)
        except OSError:
            found = False
        if not found:
            fix = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            raise HostUnsupported.of(
                "no-subordinate-ids",
                f"{user} has no range in {path}, and a base image has files of several users",
                hint=f"as root: {fix}",
                details={"probe": path, "fix": fix},
            )


def _temporary_path() -> str:
    """A directory that mmdebstrap's mapped user can enter; /tmp is often small."""
    return os.environ.get("TMPDIR") or "/var/tmp"


class _Run:
    """mmdebstrap at work. Reading gives its tar, and passes on what it says meanwhile; leaving the
    context checks how it ended."""

    def __init__(self, command: list[str], sources: str, report: Report) -> None:
        self._command = command
        self._sources = sources
        self._report = report
        self._lines: list[str] = []
        self._rest = b""

    def __enter__(self) -> _Run:
        environment = {
            "PATH": os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
            "HOME": os.environ.get("HOME", "/"),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": _temporary_path(),
            "SOURCE_DATE_EPOCH": str(CONSTANT_EPOCH),
            **proxy_environment(),
        }
        with tempfile.TemporaryFile(dir=_temporary_path()) as text:
            text.write(self._sources.encode())
            text.seek(0)
            self._process = subprocess.Popen(
                _dying_with_us(self._command),
                stdin=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
            )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._tar, self._said = self._process.stdout, self._process.stderr
        os.set_blocking(self._said.fileno(), False)
        return self

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes of the tar; fewer only at its end."""
        chunks: list[bytes] = []
        left = size
        while left:
            select.select([self._tar, self._said], [], [])
            self._listen()
            if select.select([self._tar], [], [], 0)[0]:
                chunk = os.read(self._tar.fileno(), _READ_SIZE if left < 0 else min(left, _READ_SIZE))
                if not chunk:
                    break
                chunks.append(chunk)
                left -= len(chunk) if left > 0 else 0
        return b"".join(chunks)

    def _listen(self) -> None:
        while True:
            try:
                data = os.read(self._said.fileno(), _READ_SIZE)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").rpartition("\r")[2]
                self._lines.append(text)
                self._report(text)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and not issubclass(kind, ArkwrightError):
            self._process.terminate()
        # Without a reader it would wait for ever; with the pipe closed it ends and cleans up.
        self._tar.close()
        os.set_blocking(self._said.fileno(), True)
        self._listen()
        self._said.close()
        status = self._process.wait()
        # A tar that breaks off means mostly that mmdebstrap failed, and says why itself.
        if status > 0 and (kind is None or issubclass(kind, ArkwrightError)):
            raise _failure(self._lines) from error


def _dying_with_us(command: list[str]) -> list[str]:
    """The command, with a signal when this process is killed (setpriv(1) of util-linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", "--", *command] if setpriv else command


def _failure(lines: list[str]) -> ArkwrightError:
    said = [line for line in lines if line.startswith(("E:", "W:", "Err:"))] or lines
    notes = tuple(said[-6:])
    if any(_UNREACHABLE.search(line) for line in lines):
        return RemoteError.of(
            "mirror-unreachable",
            "the package mirror could not be read",
            notes=notes,
            hint="check the network and the proxy, or choose another with --mirror",
            details={
                "method": "GET", "url": "", "status": 0, "remote_code": "", "retryable": True, "attempts": 1,
            },
        )  # fmt: skip
    return UserError.of("bootstrap-failed", "mmdebstrap could not make the tree", notes=notes)
