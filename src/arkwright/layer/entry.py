"""Entries: what a layer says about one path, and changes: entries with a way to read content."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Literal

import msgspec

EntryType = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a layer.

    `path` is relative to the root, without leading or trailing slash and without `.` or `..`
    (the root itself is `""`); names that are not UTF-8 carry surrogate escapes. A whiteout's
    `path` is the path that it removes; an opaque entry's is the directory that it empties.
    `mode` holds the permission bits with setuid, setgid and sticky (0o7777). `link` is the
    target of a symlink as stored, or of a hard link as a `path`. Times are nanoseconds.
    `xattrs` are sorted by name and hold no `trusted.overlay.*` or `user.overlay.*`.
    """

    path: str
    type: EntryType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Change(msgspec.Struct, frozen=True):
    """An entry; `open` gives the content of a regular file, from its start, and must be closed."""

    entry: Entry
    open: Callable[[], BinaryIO] | None = None
