"""Remote caches of a build: what is asked before a step runs, and what is published after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from arkwright.build.means import Means
from arkwright.build.request import BuildRequest
from arkwright.cache.imports import Imports
from arkwright.cache.records import Record
from arkwright.cache.remote import CacheStore
from arkwright.cache.remote_export import CacheExport, Destination, prefixes
from arkwright.cache.remote_options import RemoteSpec
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, Diagnostic, Severity, UserError
from arkwright.events.types import Warning
from arkwright.graph.definition import Definition, Vertex
from arkwright.graph.ops import ExecOp, FileOp
from arkwright.layer.profile import Profile, profile_for
from arkwright.solver.solver import Solver
from arkwright.solver.state import State


def attach_imports(request: BuildRequest, means: Means, cancelled: threading.Event) -> None:
    """In the worker: ask the remotes of `--cache-from` for records, layers and cache mounts."""

    def warn(diagnostic: Diagnostic) -> None:
        means.stream.emit(Warning(diagnostic=diagnostic))

    means.imports = Imports(
        means.layers, means.store.content, request.cache_from,
        open_remote=lambda spec: open_remote(spec, means.tls_verify), warn=warn, cancelled=cancelled,
    )  # fmt: skip
    if any(spec.mounts for spec in request.cache_from):
        from arkwright.cache.remote_mounts import fill_mount

        means.fill_cache_mount = lambda cache_id, path: fill_mount(means.store, means.imports, cache_id, path)


def open_remote(spec: RemoteSpec, tls_verify: bool | None, *, push: bool = False) -> CacheStore:
    """The store that a spec names; nothing is asked yet."""
    if spec.type == "local":
        from arkwright.cache.remote_layout import LayoutCache

        return LayoutCache(spec.path, spec.tag)
    from arkwright.cache.remote_registry import RegistryCache

    return RegistryCache(spec.ref, tls_verify=False if spec.insecure else tls_verify, push=push)


def prefix_keys(solver: Solver, layers: tuple[str, ...]) -> dict[str, int]:
    """The keys of all records that are the beginning of an image, and how many layers they give."""
    records = (record for _, record in _records(solver))
    return {record.key: length for record, length in prefixes(records, [layers]) if length}


class Remotes:
    """The remotes of one solve, in the worker: a context manager, in which records are published.

    What a failed build had made is published too; an interrupted one ends at once.
    """

    def __init__(
        self,
        request: BuildRequest,
        means: Means,
        solver: Solver,
        definitions: Sequence[Definition],
        profile: Profile,
        cancelled: threading.Event,
    ) -> None:
        self._request = request
        self._means = means
        self._solver = solver
        self._definitions = definitions
        self._cancelled = cancelled
        self._chains = {digest for one in definitions for digest in _chain(one)}
        found = [
            Destination(
                spec,
                profile_for(spec.codec) if spec.codec else profile,  # type: ignore[arg-type]
                lambda spec=spec: open_remote(spec, means.tls_verify, push=True),  # type: ignore[misc]
            )
            for spec in request.cache_to
            if spec.type != "inline"
        ]
        for destination in found:
            destination.replace = means.imports.broken.__contains__
        self._export = CacheExport(found, means.layers, means.blobs, means.store.content, means.stream)
        if means.imports:
            solver.remotes = means.imports
        if found:
            solver.on_record = self._made

    def __enter__(self) -> Remotes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ArkwrightError) and not isinstance(error, Cancelled):
            self._conclude()
        self._means.imports.close()

    def finish(self, results: Sequence[tuple[str, ...]]) -> tuple[Diagnostic, ...]:
        """Publish what is left, and cache mounts; what is to fail the build."""
        records = _records(self._solver) if self._export.destinations else []
        short = {record.key for record, _ in prefixes((record for _, record in records), results)}
        for destination in self._export.destinations:
            for state, record in records:
                if destination.spec.mode == "max" or record.key in short:
                    self._offer(destination, state, record)
            for cache_id in self._cache_mounts(destination.spec):
                self._offer_mount(destination, cache_id)
        return self._conclude()

    def _made(self, state: State, record: Record) -> None:
        """A step left a record: with `mode=min` only what an image stands on is surely wanted."""
        for destination in self._export.destinations:
            if destination.spec.mode == "max" or state.digest in self._chains:
                self._offer(destination, state, record)

    def _offer(self, destination: Destination, state: State, record: Record) -> None:
        self._export.offer(destination, record, partial(self._solver.contents, state, record))

    def _conclude(self) -> tuple[Diagnostic, ...]:
        found = self._export.finish(self._request.cache_export_timeout_s, self._cancelled)
        fatal = []
        for destination, diagnostic in found:
            if not destination.spec.ignore_error:
                fatal.append(msgspec.structs.replace(diagnostic, severity=Severity.ERROR))
            elif not self._cancelled.is_set():
                self._means.stream.emit(Warning(diagnostic=diagnostic))
        return tuple(fatal)

    def _cache_mounts(self, spec: RemoteSpec) -> Iterator[str]:
        wanted: dict[str, None] = {}
        for definition in self._definitions:
            for vertex in definition.vertices.values():
                for mount in vertex.op.mounts if isinstance(vertex.op, ExecOp) else ():
                    if mount.type == "cache" and spec.wants_mount(mount.cache_id):
                        wanted[mount.cache_id] = None
        yield from wanted

    def _offer_mount(self, destination: Destination, cache_id: str) -> None:
        from arkwright.cache.remote_mounts import publish_mount

        def publish() -> None:
            try:
                publish_mount(self._means.store, cache_id, destination.store, destination.profile)
            except UserError as error:
                # In use, or changed while it was read: records have nothing to do with it.
                first = msgspec.structs.replace(error.diagnostics[0], severity=Severity.WARNING)
                self._means.stream.emit(Warning(diagnostic=first))

        self._export.submit(destination, f"mount {cache_id}", publish)


def _records(solver: Solver) -> list[tuple[State, Record]]:
    """The records of what was run, found or stands below something found; sources have none."""
    return [(state, record) for state, record in solver.known() if record.results]


def _chain(definition: Definition) -> Iterator[str]:
    """The vertices whose trees the target's tree was written on, as far as the ops say."""
    digest = definition.target.vertex if definition.target is not None else None
    while digest is not None:
        yield digest
        digest = _main_input(definition.vertices[digest])


def _main_input(vertex: Vertex) -> str | None:
    number = -1
    if isinstance(vertex.op, ExecOp):
        number = next((mount.input for mount in vertex.op.mounts if mount.dest == "/"), -1)
    elif isinstance(vertex.op, FileOp):
        number = vertex.op.actions[0].input
    return vertex.inputs[number].vertex if 0 <= number < len(vertex.inputs) else None
