"""Working containers: each command adds a vertex to the container's graph and solves it, as a build does.

`run` and `copy` are builds without an output, `commit` is one without a new step. The record
of the container is replaced when the build has its result, with the store open: so what it names
is never collected in between, and whatever fails or is killed leaves the record that was there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from arkwright.attest.statement import ResourceDescriptor
from arkwright.build.compile import Compiled
from arkwright.build.contexts import Contexts
from arkwright.build.means import Means, open_means
from arkwright.build.observed import Told, resource_of
from arkwright.build.request import BuildRequest, Receipt
from arkwright.build.session import SessionInputs
from arkwright.build.settled import Outcomes
from arkwright.cache.inventory import CONTAINERS
from arkwright.diagnostics.errors import UserError
from arkwright.events.stream import EventStream
from arkwright.events.types import CacheHit, Declared, Waiting
from arkwright.frontends.base import FrontendImage
from arkwright.graph import state as graph
from arkwright.graph.definition import Definition
from arkwright.graph.ops import SourceOp
from arkwright.graph.state import State
from arkwright.images import containers
from arkwright.images.containers import Container, Settled
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.oci import config as image_config
from arkwright.oci.config import ImageConfig, RootFS
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest
from arkwright.oci.platform import Platform, host_platform
from arkwright.sources.base import HostTree, PinnedImage
from arkwright.store.store import Store

if TYPE_CHECKING:
    from arkwright.images.mutate_config import ConfigEdit
    from arkwright.registry.access import Access

SCRATCH = "scratch"
_LOCAL = "local://"
_IMAGES = ("docker-image://", "oci-layout://")


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """What a command makes of a container: its graph with one vertex more, its config with a line of
    history more, the contexts that the new vertex reads by name, and what its record must name
    besides: manifests of images, vertices of other containers and what those were made of."""

    state: State
    config: ImageConfig
    trees: dict[str, HostTree] = {}
    roots: tuple[Descriptor, ...] = ()
    settled: dict[str, Settled] = {}
    sources: tuple[dict[str, Any], ...] = ()
    held: tuple[str, ...] = ()
    no_cache: bool = False


Grow = Callable[[Container, Means], Grown]


def create(
    store_root_path: str, image: str, *, name: str = "", platform: Platform | None = None, pull: bool = False,
    access: Access | None = None, tls_verify: bool | None = None,
) -> Container:  # fmt: skip
    """A new container of an image by any spelling, or of `scratch`.

    Raises `UserError` `invalid-container-name`, `container-exists`, and as `images.fetch.fetch` and
    `StoreImageSource.pin` do.
    """
    wanted = platform or host_platform()
    if name:
        containers.check_name(name)
    with open_means(store_root_path, SessionInputs(tls_verify=tls_verify), EventStream("from")) as means:
        container = Container(
            name=name or containers.default_name(image),
            image=image,
            platform=wanted,
            definition=Definition(vertices={}, target=None),
            config=_with_path(
                ImageConfig(architecture=wanted.architecture, variant=wanted.variant, os=wanted.os)
            ),
            created_at=time.time_ns(),
        )
        if image != SCRATCH:
            state, pinned = pinned_image(image, wanted, means, pull=pull, access=access)
            layers = means.image_layers.declare(pinned, "from").layers
            container = msgspec.structs.replace(
                container,
                definition=state.marshal(),
                config=_with_path(
                    msgspec.structs.replace(image_config.parse(pinned.config), cache=None, rootfs=RootFS())
                ),
                layers=layers,
                held=layers,
                roots=(plain(pinned.manifest),),
                sources=(msgspec.to_builtins(resource_of(pinned)),),
            )
        return containers.add_container(means.store, container, named=bool(name))


def pinned_image(
    text: str, platform: Platform, means: Means, *, pull: bool = False, access: Access | None = None
) -> tuple[State, PinnedImage]:
    """An image as a graph of one source that will always be this image."""
    from arkwright.images.fetch import fetch
    from arkwright.images.places import parse_place

    place = parse_place(text)
    name = text
    if place.transport == "docker" and place.reference is not None:
        name = str(place.reference)
    elif place.transport != "store":
        name = fetch(means.store, place, platform, access=access).digest
    elif not pull:
        name = _in_store(means.store, text) or text
    attrs = (("resolve-mode", "pull"),) if pull else ()
    pinned = means.images.pin(SourceOp(identifier=f"docker-image://{name}", attrs=attrs), platform)
    digest = pinned.manifest.digest
    reference = pinned.reference.partition("@")[0]
    fixed = digest if is_digest(pinned.reference) else f"{reference}@{digest}"
    return graph.image(fixed, platform=platform), pinned


def _in_store(store: Store, text: str) -> str:
    """The name or digest of what the store has under a text; empty if it has nothing."""
    from arkwright.images.references import resolve

    try:
        found = resolve(store, text)
    except UserError as error:
        if error.code != "unknown-image":
            raise
        return ""
    return found.name or found.digest


def grow(
    store_root_path: str, name: str, command: Grow, request: BuildRequest, session: SessionInputs,
    stream: EventStream, *, mounted: bool = False,
) -> Receipt:  # fmt: skip
    """Run one command on a container: solve what it adds, and take note of it.

    `request` says how steps run; `mounted` that the command takes what was written to a mount.
    Raises `UserError` `unknown-container`, `container-mounted`, and what a build raises.
    """

    def compiled(request: BuildRequest, means: Means) -> Compiled:
        container = containers.get_container(means.store, name)
        if not mounted:
            check_unmounted(container)
        grown = command(container, means)
        definition = grown.state.marshal()
        # A context that is read now may be known by its content from before; then it was not kept.
        settled = {
            digest: one
            for digest, one in {**container.settled, **grown.settled}.items()
            if digest not in definition.vertices or not _is_read(definition, digest, grown.trees)
        }

        def done(after: Means, outcomes: Outcomes) -> None:
            layers = outcomes.layers[0] if outcomes.layers else ()
            fresh = _settled(definition, outcomes, layers, stream.build, settled)
            target = definition.target.vertex if definition.target is not None else ""
            if target in fresh:
                fresh[target] = msgspec.structs.replace(
                    fresh[target], tier=told.tiers.get(target, ""), origin=told.origins.get(target, ""),
                    secrets=tuple(session.secrets), ssh=tuple(session.ssh),
                )  # fmt: skip
            container_after = msgspec.structs.replace(
                container, definition=definition, config=grown.config, layers=layers, settled=fresh,
                sources=_each(*container.sources, *grown.sources, *map(msgspec.to_builtins, outcomes.sources)),
                held=tuple(dict.fromkeys((*container.held, *grown.held, *layers))),
                roots=tuple({one.digest: one for one in (*container.roots, *grown.roots)}.values()),
            )  # fmt: skip
            containers.save_container(after.store, container_after)

        image = FrontendImage(
            platform=container.platform, config=grown.config,
            definition=_asked_anew(definition) if grown.no_cache else definition,
        )  # fmt: skip
        return Compiled(
            images=(image,), counts=(1,), epoch=CONSTANT_EPOCH, settled=settled, only_trees=True, done=done,
            contexts=Contexts(trees=grown.trees), step_env=_proxies(),
        )  # fmt: skip

    from arkwright.build.run import build

    told = Told()
    stream.subscribe(told)
    with held(store_root_path, name, stream):
        return build(request, session, stream, store_root_path, compiled)


def commit(
    store_root_path: str, name: str, request: BuildRequest, session: SessionInputs, stream: EventStream
) -> Receipt:
    """Write an image of what the container is now, to the request's outputs, under its names; the facts of
    how it came about are kept as those of a build are.

    The journal has every vertex of the container's graph, as that of a build that found all cached.
    """

    def compiled(request: BuildRequest, means: Means) -> Compiled:
        container = containers.get_container(means.store, name)
        for digest in container.definition.walk():
            one = container.settled.get(digest)
            if one is not None and not _is_context(container.definition, digest):
                vertex, described = (
                    container.definition.vertices[digest],
                    container.definition.describe(digest),
                )
                below = tuple(edge.vertex for edge in vertex.inputs)
                stream.emit(Declared(vertex=digest, name=described.name, inputs=below, group=described.group))
                stream.emit(CacheHit(vertex=digest, recorded_at=one.at, key=one.key))
        image = FrontendImage(
            platform=container.platform, definition=container.definition, config=container.config
        )
        epoch = CONSTANT_EPOCH if request.epoch is None else request.epoch
        return Compiled(
            images=(image,), counts=(1,), settled=container.settled, epoch=epoch, contexts=Contexts(),
            sources=tuple(msgspec.convert(one, type=ResourceDescriptor) for one in container.sources),
        )  # fmt: skip

    from arkwright.build.run import build

    with held(store_root_path, name, stream):
        return build(request, session, stream, store_root_path, compiled)


def change(store_root_path: str, name: str, edit: Callable[[Container], Container]) -> None:
    """Edit the record of a container; runs nothing."""
    with held(store_root_path, name), Store.open(store_root_path) as store:
        containers.save_container(store, edit(containers.get_container(store, name)))


def edited(container: Container, edit: ConfigEdit) -> Container:
    """The container with its config edited, as that of an image is."""
    from arkwright.images.mutate import Image
    from arkwright.images.mutate_config import edit_config

    fields = msgspec.json.decode(image_config.encode(container.config))
    nothing = Descriptor(media_type="", digest="", size=0)
    plain = msgspec.structs.replace(edit, history=False)
    image = edit_config(Image(descriptor=nothing, manifest={"layers": []}, config=fields), plain, "")
    config = image_config.parse(msgspec.json.encode(image.config))
    if edit.history and "history" not in edit.clear and image.config != fields:
        config = history(config, " ".join(["CONFIG", *edit.changes]), layer=False)
    return msgspec.structs.replace(container, config=config)


@contextmanager
def held(store_root_path: str, name: str, stream: EventStream | None = None) -> Iterator[None]:
    """Be the only one who works on the container; says on `stream` for whom it waits.

    Raises `UserError` `unknown-container`.
    """
    with Store.open(store_root_path) as store:
        if store.metadata.get(CONTAINERS, name) is None:
            containers.get_container(store, name)
        root_path = store.root_path

    def waiting(holder: object) -> None:
        if stream is not None:
            stream.emit(
                Waiting(vertex="", holder=getattr(holder, "build", ""), pid=getattr(holder, "pid", 0))
            )

    with containers.container_held(root_path, name, waiting=waiting):
        yield


def check_unmounted(container: Container) -> None:
    """Raise `UserError` `container-mounted` for a container whose tree somebody may be writing to."""
    if container.mounted:
        raise UserError.of(
            "container-mounted", f"the container {container.name} is mounted at {container.mounted}",
            hint=f"arkwright umount {container.name}: what was written there becomes a layer",
        )  # fmt: skip


def state_of(container: Container) -> State:
    """The container's tree as a place to build on."""
    definition = container.definition
    return State(edge=definition.target, vertices=definition.vertices, metadata=definition.metadata)


def history(config: ImageConfig, created_by: str, *, layer: bool) -> ImageConfig:
    """The config with a line of history more."""
    line = image_config.History(
        created_by=created_by, comment="arkwright.container.v0", empty_layer=not layer
    )
    return msgspec.structs.replace(config, history=(*config.history, line))


def _settled(
    definition: Definition,
    outcomes: Outcomes,
    layers: Sequence[str],
    build: str,
    before: dict[str, Settled],
) -> dict[str, Settled]:
    """What every vertex but images gave; `layers` are the target's."""
    found: dict[str, Settled] = {}
    now = time.time_ns()
    for digest in definition.walk():
        is_target = definition.target is not None and digest == definition.target.vertex
        if _is_image(definition, digest):
            continue
        if digest in before and not is_target:
            found[digest] = before[digest]
        else:
            found[digest] = Settled(
                key=outcomes.keys[digest], layers=tuple(layers) if is_target else (), at=now, build=build
            )
    return found


def _each(*found: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Each once; an image as it was called first, which is how the user called it."""
    first: dict[bytes, dict[str, Any]] = {}
    for one in found:
        first.setdefault(msgspec.json.encode(one["digest"] if one.get("uri") else one, order="sorted"), one)
    return tuple(first.values())


def _is_context(definition: Definition, digest: str) -> bool:
    op = definition.vertices[digest].op
    return isinstance(op, SourceOp) and op.identifier.startswith(_LOCAL)


def _is_read(definition: Definition, digest: str, trees: dict[str, HostTree]) -> bool:
    op = definition.vertices[digest].op
    return isinstance(op, SourceOp) and op.identifier.removeprefix(_LOCAL) in trees


def _is_image(definition: Definition, digest: str) -> bool:
    op = definition.vertices[digest].op
    return isinstance(op, SourceOp) and op.identifier.startswith(_IMAGES)


def _asked_anew(definition: Definition) -> Definition:
    """The graph whose target runs whatever the cache has."""
    assert definition.target is not None
    digest = definition.target.vertex
    described = msgspec.structs.replace(definition.describe(digest), ignore_cache=True)
    return msgspec.structs.replace(definition, metadata={**definition.metadata, digest: described})


def _with_path(config: ImageConfig) -> ImageConfig:
    """A PATH is always there, as in a Dockerfile build."""
    from arkwright.frontends.dockerfile.state import DEFAULT_PATH

    if config.os == "windows" or any(one.startswith("PATH=") for one in config.config.env):
        return config
    env = (*config.config.env, f"PATH={DEFAULT_PATH}")
    return msgspec.structs.replace(config, config=msgspec.structs.replace(config.config, env=env))


def plain(descriptor: Descriptor) -> Descriptor:
    """Without what an index says of it."""
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)


def _proxies() -> tuple[str, ...]:
    """The proxies of the environment reach steps; no key and no image has them."""
    from arkwright.frontends.dockerfile.buildargs import proxy_environment

    return tuple(proxy_environment(os.environ))
