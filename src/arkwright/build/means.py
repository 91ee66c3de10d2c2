"""What a build works with, on one side of the fork: the store and all that stands on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from arkwright.build.contexts import Contexts
from arkwright.build.session import SessionInputs
from arkwright.cache.blobs import LayerBlobs
from arkwright.cache.imports import Imports
from arkwright.cache.records import Records
from arkwright.cache.stat_cache import StatCache
from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Severity, UserError
from arkwright.events.stream import EventStream
from arkwright.events.types import Warning
from arkwright.layer.profile import CONSTANT_EPOCH, SCRUB_DEFAULT, Profile
from arkwright.layer.stamps import Stamps
from arkwright.ops.contexts import ContextReader
from arkwright.ops.exec import ExecMeans
from arkwright.ops.resolver import OpResolver
from arkwright.ops.source import Pins
from arkwright.ops.trees import ImageLayers, Trees
from arkwright.sandbox.spec import StepLimits
from arkwright.snapshot.layers import LayerRecords
from arkwright.sources.base import FileSource
from arkwright.sources.door import Door, GuardedFiles, GuardedImages
from arkwright.sources.image import StoreImageSource
from arkwright.sources.local import LocalSession
from arkwright.store.leases import Claim
from arkwright.store.store import Store

if TYPE_CHECKING:
    from arkwright.linux.emulation import Emulation
    from arkwright.linux.worker import Worker
    from arkwright.sandbox.spec import Sandbox
    from arkwright.snapshot.base import Snapshotter

# The tier of builds that start nothing (see `build.no_exec`).
NO_EXEC = "no-exec"


class Means:
    """The parts of a build; what only the worker can have is made at its first use there."""

    def __init__(
        self, store: Store, inputs: SessionInputs, stream: EventStream, worker: Worker | None, scrub: str
    ) -> None:
        self.store = store
        self.stream = stream
        self.worker = worker
        self.records = Records(store.metadata)
        self.layers = LayerRecords(store.metadata)
        self.stat_cache = StatCache(store.metadata)
        self._store_images = StoreImageSource(store, tls_verify=inputs.tls_verify)
        self.images: GuardedImages = GuardedImages(self._store_images)
        self.imports = Imports(self.layers, store.content)
        self.image_layers = ImageLayers(self.layers, self.images, lambda: self.imports)
        self.fill_cache_mount: Callable[[str, str], bool] = lambda cache_id, path: False
        self.scrub = () if scrub == "none" else SCRUB_DEFAULT
        self.tls_verify = inputs.tls_verify
        self.stamps = Stamps()
        self.step_env: tuple[str, ...] = ()
        self.isolation = "auto"
        self.limits = StepLimits()
        self.on_error = ""
        self.emulations: dict[str, Emulation] = {}
        # Why everything is being stopped, when it is not the user's wish.
        self.stopped_by: Callable[[], ArkwrightError | None] = lambda: None
        self._inputs = inputs
        self._session: LocalSession | None = None
        self._lock = threading.Lock()
        self._exec_means: ExecMeans | None = None
        self._noticed: set[str] = set()
        self._scratch: Claim | None = None
        self._suspended = False
        # Set when this process works without a worker: the profile of the blobs that it makes.
        self._alone: Profile | None = None

    def scratch(self) -> str:
        """A private directory that is gone after the build."""
        if self._scratch is None:
            self._scratch = self.store.claim_work()
        return self._scratch.path

    @property
    def suspended(self) -> bool:
        """Whether the store was closed."""
        return self._suspended

    def suspend(self) -> None:
        """Close the store before a fork, or at the end; a second call does nothing."""
        if not self._suspended:
            self._suspended = True
            self.stat_cache.flush()
            self.store.close()

    def close(self) -> None:
        """Close the store and drop the scratch directory."""
        if "snapshotter" in self.__dict__:
            self.snapshotter.close()
        self.suspend()
        if self._scratch is not None:
            self.store.trash(self._scratch.path)
            self._scratch.close()

    @property
    def door(self) -> Door:
        """Who is asked before any source is."""
        return self.images.door

    @door.setter
    def door(self, door: Door) -> None:
        self.images.door = door
        self._store_images.may_ask = door.may_ask

    def file_source(self, scheme: str) -> FileSource:
        """The source of a scheme, behind the door. Raises `UserError` `unknown-source`."""
        return GuardedFiles(self._file_source(scheme), self.door)

    def _file_source(self, scheme: str) -> FileSource:
        door = self.door
        if scheme in ("http", "https"):
            from arkwright.sources.http import HttpSource

            return HttpSource(self.store, leads_to=door.reach if door.narrow else None)
        if scheme == "git":
            from arkwright.sources.git import GitAuth, GitSource

            session = self._secrets
            return GitSource(
                self.store, GitAuth(session.secret, session.ssh_socket),
                leads_to=partial(door.reach, is_git=True) if door.narrow else None,
            )  # fmt: skip
        raise UserError.of("unknown-source", f"there is no source for {scheme}://")

    def adopt(self, pins: Pins) -> None:
        """Know the images that another side of the fork pinned: their blobs may be fetched here."""
        for digest, image in pins.images.items():
            self.image_layers.declare(image, digest)

    def resolver(self, contexts: Contexts, pins: Pins, readers: dict[str, ContextReader]) -> OpResolver:
        """The resolver of this side, over the contexts of a compiled request.

        `pins` and `readers` are those of the other side, or empty; they are filled here.
        """
        self.adopt(pins)
        for reader in readers.values():
            reader.detach(self.stat_cache)
        session = LocalSession(
            contexts.trees,
            secrets={name: (spec.src, spec.env) for name, spec in self._inputs.secrets.items()},
            ssh=self._inputs.ssh,
        )
        self._session = session
        return OpResolver(
            session=session,
            images=self.images,
            file_sources=self.file_source,
            layers=self.layers,
            image_layers=self.image_layers,
            means=self.exec_means,
            pins=pins,
            readers=readers,
            scrub=self.scrub,
            stamps=self.stamps,
            imports=self.imports,
            trees=self._shared_trees,
            readable=lambda layer: self._alone is None or self.readable(layer),
            reader_for=lambda name: ContextReader(session.context(name), self.stat_cache),
        )

    @cached_property
    def _secrets(self) -> LocalSession:
        """Secrets and agents, without contexts."""
        specs = {name: (spec.src, spec.env) for name, spec in self._inputs.secrets.items()}
        return LocalSession({}, secrets=specs, ssh=self._inputs.ssh)

    @cached_property
    def snapshotter(self) -> Snapshotter:
        """Only in the worker, or after `stay_alone`."""
        if self._alone is not None:
            from arkwright.snapshot.virtual import VirtualSnapshotter

            return VirtualSnapshotter(self.store, self._alone, self.scratch(), self.stamps.made)
        from arkwright.build.tiers import chosen_snapshotter

        assert self.worker is not None, "trees exist only in the worker"
        return chosen_snapshotter(self.store, self.worker, self.isolation, self.notice, self.stamps.made)

    @cached_property
    def blobs(self) -> LayerBlobs:
        """Blobs of layers, shared by the outputs and by what is published to remote caches."""
        return LayerBlobs(
            self.layers,
            self.store.content,
            lambda: self.snapshotter if self.worker is not None or self._alone is not None else None,
            lambda layer: self.image_layers.fetch(layer, self.stream),
            self.stamps.made,
        )

    @cached_property
    def sandbox(self) -> Sandbox:
        """Only in the worker."""
        from arkwright.sandbox.choice import chosen_sandbox
        from arkwright.sandbox.filters import Filters

        assert self.worker is not None, "steps run only in the worker"
        return chosen_sandbox(self.worker, self.isolation, self.notice, Filters(self.store.metadata))

    @cached_property
    def trees(self) -> Trees:
        """Only in the worker, or after `stay_alone`."""
        from arkwright.cache.selections import Selections

        kept = Selections(self.store.metadata)
        return Trees(self.snapshotter, self.layers, self.store.content, self.image_layers, self.stream, kept)

    def _shared_trees(self) -> Trees:
        with self._lock:
            return self.trees

    def stay_alone(self, profile: Profile) -> None:
        """Work without a worker from here on: on virtual trees, with blobs of this profile."""
        self._alone = profile

    def readable(self, layer_id: str) -> bool:
        """Whether the blobs of a layer, and of what it was made on, are here or can be fetched."""
        layer = self.layers.get(layer_id)
        if layer is None:
            return False
        here = any(self.store.content.has(blob.digest) for blob in layer.blobs.values())
        if not (here or layer.remote or self.image_layers.knows(layer_id)):
            return False
        return all(map(self.readable, layer.parents))

    @property
    def keeps_owners(self) -> bool:
        """Whether files of outputs can be given any owner."""
        if self.worker is None:
            return os.geteuid() == 0
        return not self.worker.rootless

    def exec_means(self) -> ExecMeans:
        """What steps need; only in the worker."""
        with self._lock:
            if self._exec_means is None:
                assert self._session is not None
                self._exec_means = ExecMeans(
                    trees=self.trees,
                    sandbox=self.sandbox,
                    session=self._session,
                    metadata=self.store.metadata,
                    stream=self.stream,
                    cache_mounts_path=os.path.join(self.store.root_path, "cache-mounts"),
                    epoch=CONSTANT_EPOCH,
                    env=self.step_env,
                    emulations=self.emulations,
                    fill_cache_mount=self.fill_cache_mount,
                    stopped_by=self.stopped_by,
                    on_error=self.on_error,
                    limits=self.limits,
                )
            return self._exec_means

    def notice(self, text: str) -> None:
        """Tell the user once of something that this host lacks."""
        if text not in self._noticed:
            self._noticed.add(text)
            diagnostic = Diagnostic(code="host-notice", message=text, severity=Severity.WARNING)
            self.stream.emit(Warning(diagnostic=diagnostic))

    def tiers(self) -> tuple[str, ...]:
        """The isolation that steps of this build had."""
        if self._alone is not None:
            return (NO_EXEC,)
        return tuple(sorted(self._exec_means.tiers)) if self._exec_means else ()

    def runtime(self) -> str:
        """`NAME VERSION` of the OCI runtime that ran steps of this build; empty for none."""
        tiers = () if self._alone is not None else self.tiers()
        version = getattr(self.sandbox, "version", "") if tiers else ""
        return f"{tiers[0].partition('+')[0]} {version}" if version else ""


@contextmanager
def open_means(
    root_path: str,
    inputs: SessionInputs,
    stream: EventStream,
    *,
    worker: Worker | None = None,
    scrub: str = "default",
) -> Iterator[Means]:
    """Open the store and lay everything out; on exit the store is closed and scratch is gone.

    `scrub` is `default` or `none`: whether regenerable files are dropped from steps' layers.
    """
    means = Means(Store.open(root_path), inputs, stream, worker, scrub)
    try:
        yield means
    finally:
        means.close()
