"""ADD of archives: recognised by content, unpacked below a directory of the tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.layer import files
from arkwright.layer.apply import apply_entries
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import looks_like_tar, read_tar
from arkwright.ops.file_copy import Copier


def unpack_archive(
    source: Root, path: str, dest: Root, dest_path: str, owner: tuple[int, int] | None
) -> bool:
    """Unpack `path` below `dest_path` when it is a tar archive, compressed or not; else False.

    Names inside are resolved as in a chroot at the destination. Whiteout names are plain files
    here. The archive's own entry for `.` does not touch the destination directory.
    """
    found = source.resolve(path)
    status = source.lstat(found)
    if status is None or not stat.S_ISREG(status.st_mode) or not _is_archive(source, found):
        return False
    # Without a mode: --chmod is not for archives, nor for where they go.
    Copier(dest, dest, owner=owner).make_dirs(dest_path)
    below = dest.resolve(dest_path)
    with files.fdopen(source.open_file(found), "rb") as file, decompress(file, "auto") as tar:
        with Root(os.path.join(dest.path, below) if below else dest.path) as root:
            apply_entries(_owned(read_tar(tar, raw=True), owner), root)
    return True


def _is_archive(source: Root, path: str) -> bool:
    with files.fdopen(source.open_file(path), "rb") as file:
        try:
            with decompress(file, "auto") as tar:
                return looks_like_tar(tar.read(512))
        except ArkwrightError:
            return False


def _owned(
    entries: Iterator[tuple[Entry, BinaryIO | None]], owner: tuple[int, int] | None
) -> Iterator[tuple[Entry, BinaryIO | None]]:
    for entry, content in entries:
        if entry.path == "":
            continue
        if owner is not None:
            yield msgspec.structs.replace(entry, uid=owner[0], gid=owner[1]), content
        else:
            yield entry, content
