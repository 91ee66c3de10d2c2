"""Working containers: what a script has made so far, as one small record of the store.

A container is no tree that changes: it is a graph, a config template, and for each vertex of the
graph what came out of it. A command that succeeds replaces the record as a whole; one that fails
or is killed leaves it. Clean-up keeps what the records name (see `cache.inventory.Held`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from arkwright.cache.inventory import CONTAINERS
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.definition import Definition
from arkwright.oci.config import ImageConfig
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference
from arkwright.solver.dedupe import Claims, Holder
from arkwright.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SUFFIX = "working-container"


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a vertex: its cache key, its layers (lowest first; none for a context), when
    in nanoseconds since 1970, and in which build. If a command ran then: in which tier, and which secrets
    and agents it was given; `origin` is the remote cache that the result came from."""

    key: str
    layers: tuple[str, ...] = ()
    at: int = 0
    build: str = ""
    tier: str = ""
    origin: str = ""
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One working container. `image` is what the user began with; `layers` are those of the tree as it
    is now, `roots` the manifests that it stands on. `settled` has every vertex but images by digest.
    `held` are all layers that any of it names. `sources` are the images that its steps pinned and the
    contexts that they read, as in-toto resource descriptors. `mounted` is where the tree is mounted, if it is, in
    which session of `unshare` (`session`), and on what it was mounted (`below`)."""

    name: str
    image: str
    platform: Platform
    definition: Definition
    config: ImageConfig
    layers: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    roots: tuple[Descriptor, ...] = ()
    settled: dict[str, Settled] = {}
    sources: tuple[dict[str, Any], ...] = ()
    created_at: int = 0
    mounted: str = ""
    session: str = ""
    below: Container | None = None


def find_container(store: Store, text: str) -> Container | None:
    """The container of exactly this name; None if there is none.

    Raises `UserError` `corrupt-container`.
    """
    data = store.metadata.get(CONTAINERS, text)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Container)
    except msgspec.MsgspecError as error:
        raise UserError.of(
            "corrupt-container", f"the record of the container {text} cannot be read: {error}",
            hint="arkwright fsck --repair",
        ) from error  # fmt: skip


def get_container(store: Store, text: str) -> Container:
    """The same. Raises `UserError` `unknown-container`, `corrupt-container`."""
    found = find_container(store, text)
    if found is None:
        near = nearest(text, [one for one, _ in store.metadata.items(CONTAINERS)])
        raise UserError.of(
            "unknown-container", f"there is no working container {text}",
            hint=f"did you mean {near}?" if near else "arkwright containers lists them, arkwright from IMAGE makes one",
        )  # fmt: skip
    return found


def list_containers(store: Store) -> list[Container]:
    """All that can be read, by name."""
    found = []
    for _, data in store.metadata.items(CONTAINERS):
        try:
            found.append(msgspec.json.decode(data, type=Container))
        except msgspec.MsgspecError:
            continue
    return sorted(found, key=lambda one: one.name)


def save_container(store: Store, container: Container) -> None:
    """Put the record in place of an earlier one of the name, at once."""
    store.metadata.put(CONTAINERS, container.name, msgspec.json.encode(container))


def forget_container(store: Store, name: str) -> None:
    """Drop the record; no error if there is none. What it named is garbage from then on."""
    store.metadata.delete(CONTAINERS, name)


def add_container(store: Store, container: Container, *, named: bool) -> Container:
    """Save a new container; `named` says that the user chose the name, else a free one is found
    by numbering, as Buildah does. Raises `UserError` `container-exists`."""
    with store.metadata.transaction():
        taken = {name for name, _ in store.metadata.items(CONTAINERS)}
        name, number = container.name, 0
        while name in taken:
            if named:
                raise UserError.of(
                    "container-exists", f"there is a working container {name} already",
                    hint=f"arkwright rm {name}, or choose another name",
                )  # fmt: skip
            number += 1
            name = f"{container.name}-{number}"
        container = msgspec.structs.replace(container, name=name)
        save_container(store, container)
    return container


def check_name(name: str) -> str:
    """Refuse what cannot be a container's name. Raises `UserError` `invalid-container-name`."""
    if not _NAME.fullmatch(name):
        raise UserError.of(
            "invalid-container-name",
            f"{name!r} is no name for a container",
            hint="letters, digits, `_`, `.` and `-`, beginning with a letter or digit",
        )
    return name


def default_name(image: str) -> str:
    """`<base>-working-container`, as Buildah names them."""
    try:
        base = parse_reference(image).path.rpartition("/")[2]
    except UserError:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", image.rpartition("/")[2].partition(":")[0]).strip("-.")
    return f"{base}-{_SUFFIX}" if base and image != "scratch" else _SUFFIX


@contextmanager
def container_held(
    store_root_path: str,
    name: str,
    *,
    waiting: Callable[[Holder], None] = lambda holder: None,
    cancelled: threading.Event | None = None,
) -> Iterator[None]:
    """Be the only process that works on the container, by a kernel lock, which waits for others.

    The store must exist. Raises `Cancelled`.
    """
    claims = Claims(f"{store_root_path}/claims", f"container {name}".replace(" ", "-"))
    with claims.hold(f"container:container-{name}", cancelled or threading.Event(), waiting):
        yield
