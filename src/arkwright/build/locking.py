"""Making a lock: every source of every stage, resolved as a build would."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from arkwright.build.compile import every_image, warner
from arkwright.build.locks import LAYOUT, NAMED, source_name
from arkwright.build.means import open_means
from arkwright.build.opening import open_gate
from arkwright.build.policing import check_graph
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs, key_agents
from arkwright.diagnostics.errors import ArkwrightError, Label, RemoteError, UserError
from arkwright.diagnostics.spans import Span
from arkwright.events.stream import EventStream
from arkwright.graph.definition import Definition
from arkwright.graph.ops import SourceOp
from arkwright.oci.platform import Platform, host_platform
from arkwright.oci.reference import parse_reference
from arkwright.policy import lock
from arkwright.policy.lock import Locked, Name
from arkwright.policy.patterns import matches_value
from arkwright.sources.base import ImageSource, PinnedImage
from arkwright.sources.door import GuardedImages

_LOCAL = "local://"


def resolved(
    request: BuildRequest,
    session: SessionInputs,
    stream: EventStream,
    store_root_path: str,
    known: dict[Name, Locked] | None,
    fresh: Callable[[Name], bool],
) -> dict[Name, Locked]:
    """What the sources of a request stand for: what is `known`, unless it is to be found out anew.

    No step runs and no layer is fetched. Raises what a build raises until then.
    """
    with key_agents(session) as ready, open_means(store_root_path, ready, stream) as means:
        means.images = _Newest(means.images, fresh)
        gate = open_gate(request, means, warner(means), known, fresh)
        for image in every_image(request, means, gate):
            for op, platform, span in outside_sources(image.definition):
                with placed_at(span):
                    if op.identifier.startswith((NAMED, LAYOUT)):
                        means.images.pin(op, platform or host_platform())
                    else:
                        means.file_source(op.identifier.partition("://")[0]).pin(op)
        return gate.seen


def check_allowed(
    request: BuildRequest, session: SessionInputs, stream: EventStream, store_root_path: str
) -> None:
    """Whether a build of every stage would be allowed by the request's policies; runs and downloads nothing
    but what it takes to know the graph.

    Raises what a build raises until then.
    """
    with key_agents(session) as ready, open_means(store_root_path, ready, stream) as means:
        gate = open_gate(request, means, warner(means))
        images = list(every_image(request, means, gate))
        for image in images:
            for op, platform, span in outside_sources(image.definition):
                with placed_at(span):
                    gate.admit(op, platform)
        check_graph(gate.policies, images)


def outside_sources(definition: Definition) -> Iterator[tuple[SourceOp, Platform | None, Span | None]]:
    """The sources of a graph that are no contexts, with their places."""
    for digest in definition.walk():
        vertex = definition.vertices[digest]
        if isinstance(vertex.op, SourceOp) and not vertex.op.identifier.startswith(_LOCAL):
            spans = definition.describe(digest).spans
            yield vertex.op, vertex.platform, spans[0] if spans else None


@contextmanager
def placed_at(span: Span | None) -> Iterator[None]:
    """Errors get the place where a source stands."""
    try:
        yield
    except ArkwrightError as error:
        if span is None:
            raise
        raise error.with_label(Label(span)) from error


def chosen(patterns: Iterable[str]) -> Callable[[Name], bool]:
    """Which names of a lock are meant: as the lock has them, or as people write images (`debian:bookworm`),
    with `*` for anything."""
    wanted = tuple(patterns)

    def is_chosen(name: Name) -> bool:
        spellings = {name[1]}
        if name[0] == "image" and "://" not in name[1]:
            reference = parse_reference(name[1])
            spellings |= {reference.familiar(), reference.familiar().removesuffix(":latest")}
        return any(matches_value(pattern, spelling) for pattern in wanted for spelling in spellings)

    return is_chosen


def write_lock(path: str, sources: Iterable[Locked]) -> None:
    """Replace the file as a whole. Raises `UserError` `unwritable-file`."""
    folder = os.path.dirname(path) or "."
    try:
        fd, partial_path = tempfile.mkstemp(prefix=".arkwright.lock-", dir=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(lock.encode(sources))
                os.fchmod(file.fileno(), _mode(path))
            os.replace(partial_path, path)
        except BaseException:
            os.unlink(partial_path)
            raise
    except OSError as error:
        raise UserError.of("unwritable-file", f"cannot write {path}: {error.strerror}") from error


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        mask = os.umask(0o022)
        os.umask(mask)
        return 0o666 & ~mask


class _Newest(GuardedImages):
    """Asks the registries for what is to be found out anew, and the store for what no registry has."""

    def __init__(self, images: ImageSource, fresh: Callable[[Name], bool]) -> None:
        super().__init__(images)
        self._fresh = fresh

    def pin(self, op: SourceOp, platform: Platform) -> PinnedImage:
        if "@" not in op.identifier and op.identifier.startswith(NAMED) and self._fresh(source_name(op)):
            try:
                newest = msgspec.structs.replace(op, attrs=(("resolve-mode", "pull"),))
                return super().pin(newest, platform)
            except (UserError, RemoteError) as error:
                # Docker's own registry hides what it does not have behind a login.
                if error.code != "unknown-image" and error.details.get("status") not in (401, 403, 404):
                    raise
        return super().pin(op, platform)
