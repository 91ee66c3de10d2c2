"""Unpacking and packing bundles, with the rights that their files need.

As root in this process. For a user with subordinate ids in the worker, inside its user namespace,
so that files have owners. For any other user in this process again, with the owners in attributes.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec

from arkwright.build.store_work import on_store
from arkwright.diagnostics.errors import UserError
from arkwright.images.bundle import Owners, Repacked, State, read_state, repack_bundle, unpack_bundle
from arkwright.layer.profile import CONSTANT_EPOCH, profile_for
from arkwright.oci.descriptor import Descriptor
from arkwright.store.space import space_needed
from arkwright.store.store import Store

Mode = Literal["auto", "single"]


def unpack(
    store_root_path: str, image: Descriptor, path: str, *, mode: Mode = "auto", terminal: bool = False
) -> None:
    """Unpack a manifest of the store to a new or empty directory.

    Raises `UserError` `directory-not-empty`, `output-not-writable`, and as `images.bundle.unpack_bundle`.
    """
    owners = _owners(mode)
    path = os.path.abspath(path)
    _make_empty(path)

    def body() -> bytes:
        with Store.open(store_root_path) as store, space_needed(path, path):
            unpack_bundle(store.content, image, path, owners, terminal=terminal)
        return b""

    _with_rights(body, store_root_path, owners)


def repack(
    store_root_path: str, path: str, *, compression: str = "gzip", created_by: str = "", author: str = "",
    comment: str = "", epoch: int | None = None, refresh: bool = False,
) -> Repacked:  # fmt: skip
    """The image of a bundle, which is in the store by digest after.

    Raises `UserError` `not-a-bundle`, `missing-base`, and as `images.bundle.repack_bundle`.
    """
    path = os.path.abspath(path)
    state = state_of(path)
    own = _owners("single" if state.owners.single else "auto")
    if own.inside and state.owners.uids == own.uids and state.owners.gids == own.gids:
        state = msgspec.structs.replace(state, owners=own)
    from arkwright.exporters.image import rfc3339

    history: dict[str, Any] = {
        "created": rfc3339(CONSTANT_EPOCH if epoch is None else epoch),
        "created_by": created_by or "arkwright repack",
    }
    history |= {name: value for name, value in (("author", author), ("comment", comment)) if value}
    profile = profile_for(compression)  # type: ignore[arg-type]

    def body() -> bytes:
        bundle_fd = _open(path)
        try:
            with Store.open(store_root_path) as store:
                claim = store.claim_work()
                try:
                    found = repack_bundle(
                        store.content, bundle_fd, state, profile, claim.path, history=history, refresh=refresh
                    )
                finally:
                    store.trash(claim.path)
                    claim.close()
        finally:
            os.close(bundle_fd)
        return msgspec.json.encode(found)

    return msgspec.json.decode(_with_rights(body, store_root_path, state.owners), type=Repacked)


def state_of(path: str) -> State:
    """Raises `UserError` `not-a-bundle`."""
    bundle_fd = _open(path)
    try:
        return read_state(bundle_fd)
    finally:
        os.close(bundle_fd)


def _with_rights(body: Any, store_root_path: str, owners: Owners) -> bytes:
    return on_store(body, store_root_path) if owners.inside else body()


def _owners(mode: Mode) -> Owners:
    from arkwright.linux.namespaces import needs_user_namespace, plan_id_maps

    if mode == "single":
        return Owners(single=True)
    if not needs_user_namespace():
        return Owners()
    maps = plan_id_maps()
    if maps.single_id:
        return Owners(single=True)
    return Owners(
        uids=tuple((one.inside, one.outside, one.count) for one in maps.uids),
        gids=tuple((one.inside, one.outside, one.count) for one in maps.gids),
        inside=True,
    )


def _make_empty(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        empty = not os.listdir(path)
    except OSError as error:
        raise UserError.of(
            "output-not-writable", f"cannot make the directory {path}: {error.strerror}"
        ) from error
    if not empty or os.path.islink(path):
        raise UserError.of("directory-not-empty", f"{path} is not an empty directory", hint="name a new one")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError.of("not-a-bundle", f"cannot open {path}: {error.strerror}") from error
