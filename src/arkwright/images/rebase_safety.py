"""Whether an image can change its base: what must be alike in the old base and the new one.

The layers above were made by programs of the old base, for its libraries, and with its files. So the
operating system, the architecture, the release of the distribution and the C library must be the same (a
newer C library is compatible, an older one is not), and no file may have been changed on both sides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import msgspec

from arkwright.images.layer_trees import changes
from arkwright.images.mutate import Image, normal_platform, platform_name
from arkwright.layer import files
from arkwright.layer.diff import same
from arkwright.layer.entry import Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tree import Contents, entry_at, walk
from arkwright.layer.virtual_nodes import VirtualTree

_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_LIMIT = 1 << 16
_GLIBC = re.compile(r"(?:.*/)?(?:libc\.so\.6|libc-2\.[0-9]+\.so)")
_MUSL = re.compile(r"(?:.*/)?(?:ld-musl-[^/]+\.so\.1|libc\.musl-[^/]+\.so\.1)")
_GLIBC_VERSION = re.compile(rb"stable release version ([0-9]+(?:\.[0-9]+)+)")
_MUSL_VERSION = re.compile(rb"\0([01]\.[0-9]{1,2}\.[0-9]{1,3})(?:-git[^\0]*)?\0")
_OVERLAP = 64


class BaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the layers above a base rely on. `distribution` and `release` are ID and VERSION_ID of
    os-release(5); `libc` is `glibc`, `musl` or empty, its version empty when unknown."""

    platform: str
    distribution: str = ""
    release: str = ""
    libc: str = ""
    libc_version: str = ""


def base_facts(image: Image, tree: VirtualTree) -> BaseFacts:
    """Look at a base image's config and tree."""
    with Root(tree.path) as root:
        fields = _os_release(root)
        libc, version = _libc(root)
    return BaseFacts(
        platform=platform_name(msgspec.to_builtins(normal_platform(image.config))),
        distribution=fields.get("ID", ""),
        # Rolling releases and those in the making have no number.
        release=fields.get("VERSION_ID") or fields.get("VERSION_CODENAME", ""),
        libc=libc,
        libc_version=version,
    )


def differences(old: BaseFacts, new: BaseFacts) -> list[str]:
    """Why the new base cannot take the old one's place, as sentences."""
    found = []
    if old.platform != new.platform:
        found.append(f"the old base is for {old.platform}, the new one for {new.platform}")
    if (old.distribution, old.release) != (new.distribution, new.release):
        one, other = _release(old), _release(new)
        found.append(f"the old base is {one}, the new one {other}")
    if old.libc and old.libc != new.libc:
        found.append(f"the old base has {old.libc}, the new one {new.libc or 'no C library'}")
    elif old.libc and _numbers(new.libc_version) < _numbers(old.libc_version):
        found.append(f"{old.libc} would go down from {old.libc_version} to {new.libc_version or 'unknown'}")
    return found


def conflicts(old: VirtualTree, new: VirtualTree, image: VirtualTree) -> list[str]:
    """Paths that the layers above the old base changed and that the new base changed too, and not to
    the same. Times do not count: the trees must be made without."""
    ours = dict(_changed(old, image))
    theirs = dict(_changed(old, new))
    found = {path for path in ours.keys() & theirs.keys() if not _alike(ours[path], theirs[path], image, new)}
    # What is a directory on one side only takes the place of all that the other one has below it.
    gone_here = {path for path, entry in ours.items() if entry.type != "dir"}
    gone_there = {path for path, entry in theirs.items() if entry.type != "dir"}
    found |= {path for path in ours if _below(path, gone_there)}
    found |= {path for path in theirs if _below(path, gone_here)}
    return sorted(found, key=os.fsencode)


def _release(facts: BaseFacts) -> str:
    return f"{facts.distribution} {facts.release}".strip() or "of no known distribution"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def _os_release(root: Root) -> dict[str, str]:
    for path in _OS_RELEASE:
        try:
            fd = root.open_file(root.resolve(path))
        except OSError:
            continue
        with files.fdopen(fd, "rb") as stream:
            text = stream.read(_LIMIT).decode(errors="replace")
        lines = (line.strip().partition("=") for line in text.splitlines() if not line.startswith("#"))
        return {name: value.strip().strip("\"'") for name, equals, value in lines if equals}
    return {}


def _libc(root: Root) -> tuple[str, str]:
    """The C library and its version, which its file states."""
    musl = ""
    for entry, _ in walk(root, xattrs=False):
        if entry.type not in ("file", "symlink"):
            continue
        if _GLIBC.fullmatch(entry.path):
            return "glibc", _stated(root, entry.path, _GLIBC_VERSION)
        if not musl and _MUSL.fullmatch(entry.path):
            musl = entry.path
    return ("musl", _stated(root, musl, _MUSL_VERSION)) if musl else ("", "")


def _stated(root: Root, path: str, pattern: re.Pattern[bytes]) -> str:
    try:
        fd = root.open_file(root.resolve(path))
    except OSError:
        return ""
    with files.fdopen(fd, "rb") as stream:
        held = b""
        while data := stream.read(_LIMIT):
            match = pattern.search(held + data)
            if match:
                return match[1].decode()
            held = data[-_OVERLAP:]
    return ""


def _changed(lower: VirtualTree, upper: VirtualTree) -> Iterator[tuple[str, Entry]]:
    """The entries of the difference that are more than an ancestor of one, or linked to one."""
    with Root(lower.path) as below, Root(upper.path) as above:
        for change in changes(lower, upper):
            entry = change.entry
            if entry.type == "whiteout":
                yield entry.path, entry
                continue
            one, other = _at(below, entry.path), _at(above, entry.path)
            if one is None or other is None:
                yield entry.path, entry
            elif not same(one, other, partial(_open, below, entry.path), partial(_open, above, entry.path)):
                yield entry.path, other[0]


def _alike(ours: Entry, theirs: Entry, image: VirtualTree, new: VirtualTree) -> bool:
    if ours.type == theirs.type == "whiteout":
        return True
    with Root(image.path) as one_root, Root(new.path) as other_root:
        one, other = _at(one_root, ours.path), _at(other_root, theirs.path)
        if one is None or other is None:
            return False
        return same(one, other, partial(_open, one_root, ours.path), partial(_open, other_root, theirs.path))


def _open(root: Root, path: str) -> BinaryIO:
    contents = Contents(root)
    try:
        return contents.open(path)
    finally:
        contents.close()


def _at(root: Root, path: str) -> tuple[Entry, os.stat_result] | None:
    try:
        fd = root.open_canonical(path.rpartition("/")[0])
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return entry_at(fd, path.rpartition("/")[2] or ".", path)
    finally:
        files.close(fd)


def _below(path: str, gone: set[str]) -> bool:
    while path:
        path = path.rpartition("/")[0]
        if path in gone:
            return True
    return False
