"""Running out of space, told in one voice by everything that writes into the store."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from arkwright.diagnostics.errors import UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether the error says that a disk or a quota is used up."""
    return error.errno in _FULL


def no_space(path: str, purpose: str) -> UserError:
    """The `no-space` error: `purpose` says what was being written ("blob sha256:…", "layer …")."""
    error = UserError.of(
        "no-space",
        f"no space left on the file system of {path} to write {purpose}",
        hint="free some space there, or put the store elsewhere with --root or ARKWRIGHT_ROOT",
        details={"path": path, "purpose": purpose},
    )
    assert isinstance(error, UserError)
    return error


@contextmanager
def space_needed(path: str, purpose: str) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT of the body into `UserError` `no-space`; other errors pass."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise no_space(path, purpose) from error
        raise
