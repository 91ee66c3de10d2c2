"""Cache mounts: directories that steps keep between builds (`RUN --mount=type=cache`).

Each id has a directory `cache-mounts/<sha256 of the id>` with a tree `shared`, trees `private-N`
of concurrent private users, lock files, and files that say what the name was (`id`) and which build
used it last (`build`). Trees may hold files of subordinate ids, so all of this belongs into the
worker; changes need the exclusive lease, because a step may be using a mount.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import BinaryIO

import msgspec

from arkwright.cache.sizes import disk_size
from arkwright.diagnostics.errors import UserError
from arkwright.layer.apply import apply
from arkwright.layer.diff import diff
from arkwright.layer.rooted import Root
from arkwright.layer.tar_write import write_tar
from arkwright.store.store import Store

ID_FILE, BUILD_FILE = "id", "build"
_TREES = ("shared", "private-0")


class CacheMount(msgspec.Struct, frozen=True, kw_only=True):
    """One cache mount. `id` is empty when only its hash is known; `used_at` seconds since the epoch;
    `build` used it last, empty after an import."""

    name: str
    id: str = ""
    size: int = 0
    used_at: float = 0
    build: str = ""


def mount_name(cache_id: str) -> str:
    """The directory's name of an id."""
    return hashlib.sha256(cache_id.encode()).hexdigest()


def list_mounts(store: Store) -> list[CacheMount]:
    """All cache mounts, largest first."""
    base_path = os.path.join(store.root_path, "cache-mounts")
    found = []
    for name in os.listdir(base_path):
        path = os.path.join(base_path, name)
        if os.path.isdir(path):
            found.append(
                CacheMount(
                    name=name, id=_read(path, ID_FILE), size=disk_size(path), used_at=_used_at(path),
                    build=_read(path, BUILD_FILE),
                )
            )  # fmt: skip
    return sorted(found, key=lambda mount: (-mount.size, mount.name))


def export_mount(store: Store, wanted: str, file: BinaryIO) -> None:
    """Write a mount's tree as a canonical tar: equal trees give equal bytes, times are constant.

    The mount must not be in use (exclusive lease). Raises `UserError` `unknown-cache-mount`.
    """
    path = _find(store, wanted)
    for tree in _TREES:
        if os.path.isdir(os.path.join(path, tree)):
            with Root(os.path.join(path, tree)) as root:
                write_tar(diff(None, root), file.write)
            return
    raise _unknown(wanted)


def import_mount(store: Store, cache_id: str, file: BinaryIO) -> None:
    """Make a tar the tree of a mount, in place of what it held; all or nothing.

    Raises the errors of `layer.apply` for hostile input.
    """
    path = os.path.join(store.root_path, "cache-mounts", mount_name(cache_id))
    claim = store.claim_work()
    try:
        tree_path = os.path.join(claim.path, "tree")
        os.mkdir(tree_path, 0o755)
        os.chmod(tree_path, 0o755)
        with Root(tree_path) as root:
            apply(file, root, require_end=True)
        os.makedirs(path, mode=0o700, exist_ok=True)
        write_id(path, cache_id)
        for name in os.listdir(path):
            if name.startswith("private-") and not name.endswith(".lock"):
                store.trash(os.path.join(path, name))
        store.trash(os.path.join(path, "shared"))
        os.rename(tree_path, os.path.join(path, "shared"))
    finally:
        store.trash(claim.path)
        claim.close()


def prune_mounts(store: Store, wanted: tuple[str, ...] = ()) -> list[CacheMount]:
    """Delete mounts, all without names; returns what went. Raises `UserError` `unknown-cache-mount`."""
    names = {os.path.basename(_find(store, one)) for one in wanted}
    gone = [mount for mount in list_mounts(store) if not wanted or mount.name in names]
    for mount in gone:
        store.trash(os.path.join(store.root_path, "cache-mounts", mount.name))
    store.empty_trash()
    return gone


def write_id(directory_path: str, cache_id: str, build: str = "") -> None:
    """Say in a mount's directory whose it is, and which build uses it; only one may at a time."""
    for name, text in ((ID_FILE, cache_id), (BUILD_FILE, build)):
        making_path = os.path.join(directory_path, f"{name}.{os.getpid()}")
        with open(making_path, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.rename(making_path, os.path.join(directory_path, name))


def _find(store: Store, wanted: str) -> str:
    """The directory of an id, or of a name or the beginning of one (at least six digits)."""
    base_path = os.path.join(store.root_path, "cache-mounts")
    path = os.path.join(base_path, mount_name(wanted))
    if os.path.isdir(path):
        return path
    found = [name for name in os.listdir(base_path) if len(wanted) >= 6 and name.startswith(wanted)]
    if len(found) != 1:
        raise _unknown(wanted)
    return os.path.join(base_path, found[0])


def _unknown(wanted: str) -> UserError:
    error = UserError.of(
        "unknown-cache-mount",
        f"the store has no cache mount {wanted!r}",
        hint="`arkwright cache mounts` lists them; without `id=`, a mount's id is its target",
    )
    assert isinstance(error, UserError)
    return error


def _read(path: str, name: str) -> str:
    try:
        with open(os.path.join(path, name), "rb") as file:
            return file.read(4096).decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def _used_at(path: str) -> float:
    """When a step last took it: lock files are opened, not written, so the trees' own times count."""
    times = [os.lstat(path).st_mtime]
    for name in os.listdir(path):
        status = os.lstat(os.path.join(path, name))
        if stat.S_ISDIR(status.st_mode):
            times.append(status.st_mtime)
    return max(times)
