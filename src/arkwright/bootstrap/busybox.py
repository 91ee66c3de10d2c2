"""The `busybox` base image: one static program, its names, and the files that a system expects.

Nothing runs as root: where the caller is root, the program is asked for its applets as nobody.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from typing import BinaryIO, cast

from arkwright.bootstrap.publish import publish
from arkwright.bootstrap.rootfs import Rootfs
from arkwright.bootstrap.tools import find_tool, proxy_environment
from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported
from arkwright.layer.entry import Entry
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import Reference
from arkwright.store.store import Store

PACKAGE = "busybox-static"
_HOST_PATHS = ("/bin/busybox", "/usr/bin/busybox")
_BIN = "bin/busybox"
_NOBODY = 65534
_TIMEOUT_S = 300
_APPLET = re.compile(r"(?:usr/)?s?bin/[A-Za-z0-9_.\[-]+")
_PT_INTERP = 3

_USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUPS = """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
audio:x:29:
www-data:x:33:
operator:x:37:
utmp:x:43:
video:x:44:
plugdev:x:46:
staff:x:50:
users:x:100:
nobody:x:65534:
"""
_NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
)
_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755, "mnt": 0o755, "proc": 0o755,
    "root": 0o700, "run": 0o755, "sbin": 0o755, "sys": 0o755, "tmp": 0o1777, "usr": 0o755,
    "usr/bin": 0o755, "usr/lib": 0o755, "usr/local": 0o755, "usr/local/bin": 0o755,
    "usr/sbin": 0o755, "var": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/spool/mail": 0o755,
    "var/tmp": 0o1777, "var/www": 0o755,
}  # fmt: skip


def bootstrap(reference: Reference, *, store: Store) -> Descriptor:
    """Make the image and name it `reference`; returns the manifest's descriptor.

    The program is the host's when it is static, else that of the package `busybox-static`, which
    apt-get(8) fetches and verifies. Raises `HostUnsupported` `missing-tool`, `no-static-busybox`.
    """
    program = _host_program() or _package_program()
    tree = Rootfs()
    for path, mode in _DIRECTORIES.items():
        tree.add_directory(path, mode=mode)
    # No passwords, and a last change on the constant day: day zero would lock the accounts.
    shadow = "".join(f"{line.split(':')[0]}:*:10957:0:99999:7:::\n" for line in _USERS.splitlines())
    for path, text, mode in (
        ("etc/passwd", _USERS, 0o644),
        ("etc/group", _GROUPS, 0o644),
        ("etc/shadow", shadow, 0o640),
        ("etc/nsswitch.conf", _NSSWITCH, 0o644),
    ):
        tree.add_file(path, text.encode(), mode=mode)
    tree.add_file(_BIN, program, mode=0o755)
    for path in _links(_applets(program)):
        tree.add_link(path, _BIN)
    return publish(
        store,
        reference,
        tree.changes(),
        cmd=("sh",),
        created_by="arkwright bootstrap busybox",
    )


def _links(applets: list[str]) -> list[str]:
    """Every applet in /bin, as in other busybox images, and where the program itself puts it."""
    names = {f"bin/{os.path.basename(path)}" for path in applets} | set(applets)
    return sorted(names - {_BIN})


def _host_program() -> bytes | None:
    for path in _HOST_PATHS:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError:
            continue
        if _is_static(data):
            return data
    return None


def _package_program() -> bytes:
    apt_get = find_tool("apt-get", "apt")
    dpkg_deb = find_tool("dpkg-deb", "dpkg")
    with tempfile.TemporaryDirectory() as directory:
        try:
            found = subprocess.run(
                [apt_get, "-q", "download", PACKAGE],
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **proxy_environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise _no_busybox((str(error),)) from error
        archives = [name for name in os.listdir(directory) if name.endswith(".deb")]
        if found.returncode or len(archives) != 1:
            raise _no_busybox(tuple((found.stderr or found.stdout).strip().splitlines()[-3:]))
        with subprocess.Popen(
            [dpkg_deb, "--fsys-tarfile", os.path.join(directory, archives[0])], stdout=subprocess.PIPE
        ) as unpacking:
            assert unpacking.stdout is not None
            data = _from_tar(cast(BinaryIO, unpacking.stdout))
    if data is None or not _is_static(data):
        raise _no_busybox((f"the package {PACKAGE} holds no static program",))
    return data


def _from_tar(tar: BinaryIO) -> bytes | None:
    found: bytes | None = None
    for entry, content in read_tar(tar):
        if _is_program(entry) and content is not None:
            found = content.read()
    return found


def _is_program(entry: Entry) -> bool:
    return entry.type == "file" and entry.path in ("bin/busybox", "usr/bin/busybox")


def _applets(program: bytes) -> list[str]:
    """What `busybox --list-full` prints, run as an unprivileged user."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "busybox")
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(
            path, stat.S_IRUSR | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH | stat.S_IRGRP | stat.S_IROTH
        )
        os.chmod(directory, 0o755)
        root = os.geteuid() == 0
        try:
            said = subprocess.run(
                [path, "--list-full"],
                user=_NOBODY if root else None,
                group=_NOBODY if root else None,
                extra_groups=[] if root else None,
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=True,
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise _no_busybox((str(error),)) from error
    return [line for line in said.splitlines() if _APPLET.fullmatch(line)]


def _is_static(data: bytes) -> bool:
    """Whether an ELF file (elf(5), 64-bit little-endian) asks for no program interpreter."""
    if data[:6] != b"\x7fELF\x02\x01":
        return False
    offset = int.from_bytes(data[32:40], "little")
    size, count = int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    kinds = {int.from_bytes(data[offset + number * size :][:4], "little") for number in range(count)}
    return _PT_INTERP not in kinds


def _no_busybox(notes: tuple[str, ...]) -> ArkwrightError:
    fix = f"apt-get install {PACKAGE}"
    return HostUnsupported.of(
        "no-static-busybox",
        "there is no static busybox here, and its package cannot be fetched",
        notes=notes,
        hint=f"as root: apt-get update && {fix}",
        details={"probe": "/bin/busybox", "fix": fix},
    )
