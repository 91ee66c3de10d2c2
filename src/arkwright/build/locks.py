"""Where the lock file of a build is, and what it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arkwright.build.request import BuildRequest
from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import SourceOp
from arkwright.oci.digest import is_digest
from arkwright.oci.reference import parse_reference

if TYPE_CHECKING:
    from arkwright.policy.lock import Locked, Name

LOCK_NAME = "arkwright.lock"
NAMED, LAYOUT = "docker-image://", "oci-layout://"
_DOCKERFILES = ("Dockerfile", "dockerfile", "Containerfile")
_WEB = ("http://", "https://")
_HIDDEN = "***"


def lock_place(request: BuildRequest, root: str = "") -> str:
    """The path of a request's lock file, which need not exist: the one that was named, else beside the
    Dockerfile. `root` is where a context that is no directory was unpacked to; empty when there can be none.
    """
    if request.lock_file:
        return request.lock_file
    name = request.dockerfile
    root = root or (request.context if os.path.isdir(request.context) else "")
    if name == "-" or name.startswith(_WEB) or (not root and not os.path.isfile(name)):
        return ""
    path = (
        name if name and os.path.isdir(request.context) and os.path.exists(name) else os.path.join(root, name)
    )
    base = os.path.basename(name)
    folder = path if not base else os.path.dirname(path)
    return os.path.join(folder, LOCK_NAME if base in ("", *_DOCKERFILES) else f"{base}.{LOCK_NAME}")


def read_lock(path: str) -> dict[Name, Locked] | None:
    """The lock at a path; None when there is none. Raises `UserError` `invalid-lock`, `unreadable-lock`."""
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            from arkwright.policy import lock

            return lock.parse(file.read(lock.LIMIT + 1), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError.of("unreadable-lock", f"cannot read {path}: {error.strerror}") from error


def source_name(op: SourceOp, hidden: Sequence[str] = ()) -> Name:
    """Under which name a source is locked: without credentials, and without `hidden` texts.

    Raises as `parse_reference` and `parse_remote`.
    """
    scheme = op.identifier.partition("://")[0]
    if scheme == "git":
        from arkwright.sources.git_url import parse_remote

        remote = parse_remote(op.identifier.removeprefix("git://"))
        name: Name = ("git", f"{remote.shown}#{dict(op.attrs).get('ref') or 'HEAD'}")
    elif scheme in ("http", "https"):
        name = ("url", _without_userinfo(op.identifier))
    elif op.identifier.startswith(NAMED):
        text = op.identifier.removeprefix(NAMED)
        name = ("image", text if is_digest(text) else str(parse_reference(text)))
    else:
        name = ("image", op.identifier)
    text = name[1]
    for value in hidden:
        text = text.replace(value, _HIDDEN)
    return name[0], text


def _without_userinfo(url: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
