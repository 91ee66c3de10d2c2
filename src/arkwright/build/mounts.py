"""A working container's tree as a directory, and what was changed there as one more layer.

The mount is an overlay whose upper directory lies in the store, below `mounts/`: so what was written
outlives the session in which it was mounted. `umount` and `commit` read it in the worker, write it as
a layer, and enter that into the graph by its digest; a second time gives the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from arkwright.build import containers
from arkwright.build.containers import Grown
from arkwright.build.means import Means, open_means
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.cache.inventory import CONTAINERS
from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.events.stream import EventStream
from arkwright.graph import state as graph
from arkwright.images.containers import (
    Container,
    forget_container,
    get_container,
    save_container,
)
from arkwright.layer.diff import diff
from arkwright.layer.entry import Change
from arkwright.layer.export import export_layer
from arkwright.layer.profile import profile_for
from arkwright.layer.rooted import Root
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import ImageConfig, RootFS
from arkwright.oci.descriptor import Descriptor
from arkwright.ops.result import LayeredResult
from arkwright.snapshot.attributes import copy_attributes
from arkwright.snapshot.overlay import OverlaySnapshotter
from arkwright.snapshot.publish import make_work_directory
from arkwright.store.leases import Lease, lock_in_place
from arkwright.store.store import Store

SESSION = "ARKWRIGHT_UNSHARE"
_NAMESPACE = "/proc/self/ns/mnt"
_DIRECTORY = "mounts"


class _Captured(msgspec.Struct, frozen=True):
    """A layer that was written: its diffID and blob, and how many entries it has."""

    diff_id: str
    layer: Descriptor
    entries: int


def mount(store_root_path: str, name: str) -> str:
    """Mount the container's tree, writable; its path. Mounted already, the same path.

    Raises `UserError` `unknown-container`, `container-mounted`; `HostUnsupported` `mount-needs-unshare`,
    `mount-refused`.
    """
    _require_rights()
    with containers.held(store_root_path, name):
        with Store.open(store_root_path) as store:
            container = get_container(store, name)
            root_path = store.root_path
        if container.mounted:
            _refuse_elsewhere(root_path, container)
            if not container.layers or os.path.ismount(container.mounted):
                return container.mounted
        _unpacked(root_path, container)
        with Store.open(root_path) as store:
            path = _mount_here(store, container)
            below = container.below or msgspec.structs.replace(container, below=None)
            save_container(
                store,
                msgspec.structs.replace(container, mounted=path, session=_own_session(), below=below),
            )
        return path


def umount(store_root_path: str, name: str, stream: EventStream) -> None:
    """Take the mount away; what was changed there becomes a layer of the container.

    Raises `UserError` `unknown-container`, `container-not-mounted`, `container-mounted`.
    """
    with Store.open(store_root_path) as store:
        container = get_container(store, name)
        root_path = store.root_path
    if not container.mounted:
        raise UserError.of("container-not-mounted", f"the container {name} is not mounted")
    _refuse_elsewhere(root_path, container)
    if os.path.ismount(container.mounted):
        from arkwright.linux import mounts

        mounts.unmount(container.mounted, detach=False)
    capture(root_path, name, stream)
    containers.change(
        root_path, name, lambda one: msgspec.structs.replace(one, mounted="", session="", below=None)
    )
    drop(root_path, name)


def capture(store_root_path: str, name: str, stream: EventStream) -> None:
    """Bring the container's graph up to what its mount holds now; nothing when it is not mounted."""
    with Store.open(store_root_path) as store:
        container = get_container(store, name)
        root_path = store.root_path
    below = container.below
    if not container.mounted or below is None:
        return
    with Lease(os.path.join(root_path, "lock")) as lease:
        lease.share()
        captured = _written(root_path, name, below)
        with Store.open(root_path) as store:
            image = _one_layer(store, captured, container)
        if not captured.entries:
            containers.change(
                root_path, name,
                lambda one: msgspec.structs.replace(one, definition=below.definition, layers=below.layers),
            )  # fmt: skip
            return

        def grow(container: Container, means: Means) -> Grown:
            state = graph.image(image.digest, platform=container.platform)
            base = containers.state_of(below)
            if base.edge is not None:
                state = graph.merge([base, state], name=f"[{name}] files written to the mount")
            lines = below.config.history
            config = msgspec.structs.replace(container.config, history=lines)
            return Grown(
                state=state, config=containers.history(config, "files written to the mount", layer=True),
                roots=(image,),
            )  # fmt: skip

        containers.grow(
            root_path,
            name,
            grow,
            BuildRequest(context=f"container {name}"),
            SessionInputs(),
            stream,
            mounted=True,
        )


def remove(store_root_path: str, name: str) -> None:
    """Forget a container, and what was written to its mount.

    Raises `UserError` `unknown-container`, `container-mounted`.
    """
    with containers.held(store_root_path, name):
        with Store.open(store_root_path) as store:
            data = store.metadata.get(CONTAINERS, name)
            try:
                container = None if data is None else msgspec.json.decode(data, type=Container)
            except msgspec.MsgspecError:
                container = None
            root_path = store.root_path
        if container is not None and container.mounted:
            _refuse_elsewhere(root_path, container)
            if os.path.ismount(container.mounted):
                from arkwright.linux import mounts

                mounts.unmount(container.mounted)
        with Store.open(root_path) as store:
            forget_container(store, name)
            store.trash(os.path.join(root_path, _DIRECTORY, name))


def drop(store_root_path: str, name: str) -> None:
    """Throw away what was written to a mount."""
    with Store.open(store_root_path) as store:
        store.trash(os.path.join(store.root_path, _DIRECTORY, name))


def _written(root_path: str, name: str, below: Container) -> _Captured:
    """Write the changes of the upper directory as a layer of the store, in the worker."""
    from arkwright.linux.worker import Worker, run_in_worker

    upper_path = os.path.join(root_path, _DIRECTORY, name, "fs")

    def body(worker: Worker) -> bytes:
        stream = EventStream("umount")
        with open_means(root_path, SessionInputs(), stream, worker=worker) as means:
            count = 0

            def counted(found: Iterator[Change]) -> Iterator[Change]:
                nonlocal count
                for change in found:
                    count += 1
                    yield change

            content, profile = means.store.content, profile_for("gzip")
            with Root(upper_path) as upper:
                if below.layers:
                    means.trees.ensure(below.layers)
                    with means.trees.view(LayeredResult(below.layers)) as path, Root(path) as lower:
                        found = export_layer(counted(diff(lower, upper, overlay=True)), content, profile)
                else:
                    found = export_layer(counted(diff(None, upper)), content, profile)
            return msgspec.json.encode(_Captured(*found, count))

    return msgspec.json.decode(run_in_worker(body, store_root_path=root_path), type=_Captured)


def _one_layer(store: Store, captured: _Captured, container: Container) -> Descriptor:
    """An image of nothing but the layer: what the graph can name."""
    platform = container.platform
    config = ImageConfig(
        architecture=platform.architecture, variant=platform.variant, os=platform.os,
        rootfs=RootFS(diff_ids=(captured.diff_id,)),
    )  # fmt: skip
    data = image_config.encode(config)
    described = Descriptor(media_type=media.CONFIG, digest=store.content.write(data), size=len(data))
    document = image_manifest.encode(
        image_manifest.Manifest(
            schema_version=2, media_type=media.MANIFEST, config=described, layers=(captured.layer,)
        )
    )
    return Descriptor(media_type=media.MANIFEST, digest=store.content.write(document), size=len(document))


def _unpacked(root_path: str, container: Container) -> None:
    """Have the directories of all layers in place, by the worker."""
    from arkwright.linux.worker import Worker, run_in_worker

    if not container.layers:
        return
    stream = EventStream("mount")
    with open_means(root_path, SessionInputs(), stream) as means:
        for digest, vertex in container.definition.vertices.items():
            if vertex.op.__struct_config__.tag == "source" and digest not in container.settled:
                op, platform = vertex.op, vertex.platform or container.platform
                means.image_layers.declare(means.images.pin(op, platform), digest)  # type: ignore[arg-type]
        for layer in container.layers:
            means.image_layers.fetch(layer, stream)
        means.suspend()

        def body(worker: Worker) -> bytes:
            with open_means(root_path, SessionInputs(), stream, worker=worker) as inside:
                inside.trees.ensure(container.layers)
            return b""

        run_in_worker(body, store_root_path=root_path)


def _mount_here(store: Store, container: Container) -> str:
    from arkwright.linux import mounts

    base = container.below or container
    path = os.path.join(store.root_path, _DIRECTORY, container.name)
    fresh = not os.path.isdir(f"{path}/fs")
    os.makedirs(path, mode=0o700, exist_ok=True)
    for directory in ("fs", "work", "merged"):
        if not os.path.isdir(f"{path}/{directory}"):
            make_work_directory(f"{path}/{directory}")
    if not base.layers:
        return f"{path}/fs"
    lowers = OverlaySnapshotter(store).lowers(base.layers)
    if fresh:
        with Root(lowers[0]) as top, Root(f"{path}/fs") as upper:
            copy_attributes(top.fd, upper.fd, os.fstat(top.fd))
    mounts.overlay(lowers, f"{path}/fs", f"{path}/work", f"{path}/merged")
    return f"{path}/merged"


def _require_rights() -> None:
    """Only who may mount can: root, and who is inside of `arkwright unshare`."""
    from arkwright.linux.namespaces import needs_user_namespace

    if needs_user_namespace():
        raise HostUnsupported.of(
            "mount-needs-unshare", "a mount of this user is private to a namespace, which must be there first",
            hint="arkwright unshare -- sh -c 'mount=$(arkwright mount NAME); …'",
            details={"probe": "effective user", "fix": "arkwright unshare -- COMMAND"},
        )  # fmt: skip


def _refuse_elsewhere(root_path: str, container: Container) -> None:
    """What another session that lives has mounted is left to it."""
    if container.session == _own_session() or not _lives(root_path, container.session):
        return
    raise UserError.of(
        "container-mounted", f"the container {container.name} is mounted in another session",
        hint=f"arkwright umount {container.name}, in that session",
    )  # fmt: skip


def _own_session() -> str:
    """The session of `unshare` that this process is in, else its mount namespace."""
    return os.environ.get(SESSION, "") or os.readlink(_NAMESPACE)


def _lives(root_path: str, session: str) -> bool:
    """Whether anybody can still write to what the session has mounted."""
    if session.startswith("mnt:"):
        return any(_namespace_of(pid) == session for pid in os.listdir("/proc") if pid.isdecimal())
    path = session_path(root_path, session)
    if not os.path.exists(path):
        return False
    lock_fd = lock_in_place(path)
    if lock_fd < 0:
        return True
    os.unlink(path)
    os.close(lock_fd)
    return False


def _namespace_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def session_path(root_path: str, session: str) -> str:
    """The lock of a session."""
    return os.path.join(root_path, "claims", f"unshare-{session}")
