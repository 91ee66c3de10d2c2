"""Where images go outside the store: files that appear only when they are whole, or standard output."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

Sink = Callable[[bytes], object]

_COPY_SIZE = 1 << 20


@contextmanager
def open_destination(dest: str) -> Iterator[Sink]:
    """A sink for the bytes of `dest`: a path, or `-` for standard output.

    A regular file is written aside, synced, and renamed when the body ends well; devices and fifos
    are written as they are. Raises `UserError` `output-is-a-terminal`, `output-not-writable`,
    and `no-space`.
    """
    if dest == "-":
        with _standard_output() as sink:
            yield sink
        return
    try:
        with space_needed(os.path.dirname(dest) or ".", dest):
            if _is_special(dest):
                with open(dest, "wb") as file:
                    yield file.write
            else:
                with _replacement(dest) as sink:
                    yield sink
    except OSError as error:
        raise not_writable(dest, error) from error


def not_writable(dest: str, error: OSError) -> ArkwrightError:
    """`UserError` `output-not-writable` for what the operating system said about `dest`."""
    return UserError.of(
        "output-not-writable",
        f"cannot write {dest}: {error.strerror or error}",
        hint="the directory must exist and be writable for you",
    )


def write_whole(path: str, pieces: Iterable[bytes]) -> None:
    """A file that takes the place of `path` when it is whole and synced. What a kill leaves beside it is
    named `partial-` and 64 hex digits. Raises `OSError`."""
    temporary_path = os.path.join(os.path.dirname(path), f"partial-{secrets.token_hex(32)}")
    try:
        with open(temporary_path, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary_path, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary_path)
        raise


def copy_blob(content: ContentStore, blob: Descriptor, target_path: str) -> bool:
    """Bring a blob of the store to a file; whether it was not there yet.

    Raises `OSError`, `UserError` `missing-blob`.
    """
    if os.path.exists(target_path) and os.path.getsize(target_path) == blob.size:
        return False
    with content.open(blob.digest) as source:
        write_whole(target_path, iter(partial(source.read, _COPY_SIZE), b""))
    return True


@contextmanager
def _standard_output() -> Iterator[Sink]:
    if os.isatty(sys.stdout.fileno()):
        raise UserError.of(
            "output-is-a-terminal",
            "refusing to write an archive to a terminal",
            hint="send standard output to a file or a pipe, or name a file",
        )
    sys.stdout.flush()
    with open(os.dup(sys.stdout.fileno()), "wb") as file:
        yield file.write


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _replacement(path: str) -> Iterator[Sink]:
    """A new file that takes the place of `path` at the end: nameless until then where the file
    system can do that, so that not even a kill leaves something behind."""
    path = os.path.realpath(path)
    directory, name = os.path.split(path)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "it is a directory", path)
    temporary_path = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(6)}")
    fd, nameless = _create(directory, temporary_path)
    try:
        with open(fd, "wb", buffering=1 << 20) as file:
            yield file.write
            file.flush()
            os.fsync(fd)
            if nameless:
                # linkat(2): the magic link is followed, which gives the file its first name. CPython
                # calls link(2), which does not follow, unless it is given a directory.
                os.link(f"/proc/self/fd/{fd}", temporary_path, src_dir_fd=fd, follow_symlinks=True)
            os.rename(temporary_path, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary_path)
        raise
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _create(directory: str, temporary_path: str) -> tuple[int, bool]:
    if os.path.isdir("/proc/self/fd"):
        with suppress(OSError):
            return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644), True
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary_path, flags, 0o644), False
