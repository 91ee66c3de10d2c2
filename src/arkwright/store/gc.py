"""Throwing away: a rename on the build's path, the deletion later.

Deleting a large tree is slow (and makes ext4 slow afterwards), so `discard` only renames into
`trash/`, and `empty` deletes whenever somebody has time. What was forgotten half-made in `ingest/`
and `work/` is known by its lock: nobody holds it.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from arkwright.store.content import PARTIAL_SUFFIX
from arkwright.store.leases import LOCK_NAME, lock_in_place
from arkwright.store.metadata import Metadata
from arkwright.store.space import is_full

PARTIAL_LIFE_S = 7 * 24 * 3600
_MAX_DEPTH = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def discard(path: str, trash_path: str) -> None:
    """Rename a file or directory into the trash; no error if it is not there.

    On a full disk, where even a name may not fit, it is deleted where it is.
    """
    try:
        os.rename(path, os.path.join(trash_path, os.urandom(12).hex()))
    except FileNotFoundError:
        return
    except OSError as error:
        if not is_full(error):
            raise
        _delete_in_place(path)


def clean_ingest(ingest_path: str, trash_path: str) -> None:
    """Discard ingest files that nobody writes; partial downloads are kept for a week."""
    oldest_s = time.time() - PARTIAL_LIFE_S
    for name in os.listdir(ingest_path):
        path = os.path.join(ingest_path, name)
        with suppress(FileNotFoundError):
            if name.endswith(PARTIAL_SUFFIX) and os.lstat(path).st_mtime > oldest_s:
                continue
            _discard_unlocked(path, path, trash_path)


def clean_work(work_path: str, trash_path: str) -> None:
    """Discard work directories that nobody holds a claim on.

    Mounts need no care: they died with the worker that held the claim.
    """
    for name in os.listdir(work_path):
        path = os.path.join(work_path, name)
        _discard_unlocked(path, os.path.join(path, LOCK_NAME), trash_path)


def clean_claims(claims_path: str) -> None:
    """Remove the files of claims whose holders were killed."""
    for name in os.listdir(claims_path):
        path = os.path.join(claims_path, name)
        lock_fd = lock_in_place(path)
        if lock_fd >= 0:
            # Unlinked while locked, as a holder does.
            os.unlink(path)
            os.close(lock_fd)


def empty(trash_path: str) -> None:
    """Delete everything in the trash; safe beside others doing the same.

    What may not be deleted (files of subordinate ids, outside of the user namespace) stays for
    a later call by somebody who may.
    """
    trash_fd = os.open(trash_path, _DIRECTORY)
    refused: set[str] = set()
    try:
        while names := [name for name in os.listdir(trash_fd) if name not in refused]:
            for name in names:
                if not _delete(trash_fd, name, trash_fd, 0):
                    refused.add(name)
    finally:
        os.close(trash_fd)


def forget_buckets(metadata: Metadata, prefix: str) -> None:
    """Drop every bucket of the metadata whose name begins with `prefix` (plain ASCII)."""
    with metadata.transaction(), metadata._use() as connection:
        connection.execute("DELETE FROM records WHERE substr(bucket, 1, ?) = ?", (len(prefix), prefix))


def _discard_unlocked(path: str, lock_path: str, trash_path: str) -> None:
    try:
        lock_fd = lock_in_place(lock_path)
    except NotADirectoryError:
        discard(path, trash_path)
        return
    if lock_fd >= 0:
        discard(path, trash_path)
        os.close(lock_fd)


def _delete_in_place(path: str) -> None:
    parent_fd = os.open(os.path.dirname(path), _DIRECTORY)
    try:
        _delete(parent_fd, os.path.basename(path), parent_fd, 0)
    finally:
        os.close(parent_fd)


def _delete(parent_fd: int, name: str, trash_fd: int, depth: int) -> bool:
    """Delete one entry with everything below; whether nothing was refused."""
    try:
        return _delete_once(parent_fd, name, trash_fd, depth)
    except PermissionError:
        return _made_removable(parent_fd, name) and _delete(parent_fd, name, trash_fd, depth)
    except OSError:
        return False


def _made_removable(parent_fd: int, name: str) -> bool:
    """Clear what a step of a builder that was killed may have left; whether there was something."""
    from arkwright.linux import inode_flags

    with suppress(OSError):
        within, of_its_own = inode_flags.clear_open(parent_fd), inode_flags.clear(parent_fd, name)
        return within or of_its_own
    return False


def _delete_once(parent_fd: int, name: str, trash_fd: int, depth: int) -> bool:
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return True
        if depth >= _MAX_DEPTH:
            # Deeper than descriptors should be stacked: the caller's loop finds it at the top.
            os.rename(name, os.urandom(12).hex(), src_dir_fd=parent_fd, dst_dir_fd=trash_fd)
            return True
        emptied = _delete_children(parent_fd, name, trash_fd, depth)
        if emptied:
            os.rmdir(name, dir_fd=parent_fd)
        return emptied
    except FileNotFoundError:
        return True


def _delete_children(parent_fd: int, name: str, trash_fd: int, depth: int) -> bool:
    try:
        directory_fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        directory_fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        info = os.fstat(directory_fd)
        if info.st_mode & 0o300 != 0o300 and info.st_uid == os.geteuid():
            os.fchmod(directory_fd, 0o700)
        emptied = True
        for child in os.listdir(directory_fd):
            emptied = _delete(directory_fd, child, trash_fd, depth + 1) and emptied
        return emptied
    finally:
        os.close(directory_fd)
