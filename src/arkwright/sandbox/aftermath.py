"""What a step with every capability may have left that nobody could remove: immutable files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from arkwright.layer.rooted import DirStack
from arkwright.linux import inode_flags
from arkwright.linux.worker import Worker
from arkwright.sandbox.spec import Bind, StepSpec

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def made_removable(spec: StepSpec, root_path: str, worker: Worker) -> Iterator[None]:
    """After the body, clear the flags of everything that an insecure step of root's could write."""
    try:
        yield
    finally:
        if spec.security == "insecure" and not worker.rootless:
            places = [mount.source for mount in spec.mounts if isinstance(mount, Bind) and not mount.readonly]
            for path in (root_path, *places):
                clear_flags(os.path.realpath(path))


def clear_flags(path: str) -> None:
    """Clear the flags of a file, or of a directory and all below it; what may not be opened is left."""
    with contextlib.suppress(OSError):
        parent_fd = os.open(os.path.dirname(path), _DIRECTORY)
        try:
            inode_flags.clear(parent_fd, os.path.basename(path))
        finally:
            os.close(parent_fd)
        if os.path.isdir(path):
            _clear_below(os.open(path, _DIRECTORY))


def _clear_below(top_fd: int) -> None:
    stack = DirStack(top_fd, widen=False)
    try:
        waiting = [_cleared(top_fd)]
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                stack.pop()
            else:
                name = waiting[-1].pop()
                with contextlib.suppress(OSError):
                    waiting.append(_cleared(stack.push(name)))
    finally:
        stack.close()


def _cleared(directory_fd: int) -> list[str]:
    """Clear the flags of what is in a directory; the names of the directories in there."""
    found = []
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
                    inode_flags.clear(directory_fd, entry.name)
            if entry.is_dir(follow_symlinks=False):
                found.append(entry.name)
    return found
