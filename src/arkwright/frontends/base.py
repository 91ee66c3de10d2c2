"""The front end contract: a function of a bridge that returns references by platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from arkwright.diagnostics.errors import Diagnostic, UserError
from arkwright.diagnostics.spans import Span
from arkwright.graph.definition import Definition
from arkwright.graph.ops import SourceOp, Ulimit
from arkwright.oci.config import ImageConfig
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a front end learns of a base image: its full name, manifest digest, config."""

    reference: str
    digest: str
    config: ImageConfig


def context_keys(name: str, platform: Platform) -> list[str]:
    """The keys of `Bridge.inputs` that may stand for an image, stage or context of this name: for
    the platform and for all, as written and in the spellings that an image of the name has."""
    spellings = [name]
    try:
        reference = parse_reference(name)
    except UserError:
        pass
    else:
        for full in (reference.familiar(), str(reference)):
            spellings += [full, full.removesuffix(":latest")]
    lowered = dict.fromkeys(spelling.lower() for spelling in spellings)
    return [key for spelling in lowered for key in (f"{spelling}::{platform}", spelling)]


class Bridge(Protocol):
    """What a front end may ask of the build that runs it."""

    def solve(self, definition: Definition) -> str:
        """Solve now; returns a reference for `read_file`, `stat` and `read_dir`."""
        ...

    def resolve_image_config(
        self, name: str, platform: Platform, *, span: Span | None = None
    ) -> ResolvedImage:
        """Pin an image name (after named contexts were applied) and read its config."""
        ...

    def prepare(self, names: Sequence[tuple[str, Platform]]) -> None:
        """Names of images that `resolve_image_config` will probably be asked for: they may be looked
        up side by side. Raises nothing; what fails is found out when it is asked for."""
        ...

    def read_file(self, reference: str, path: str) -> bytes | None:
        """A file's content, None if there is none."""
        ...

    def stat(self, reference: str, path: str) -> tuple[int, int] | None:
        """Mode (with type bits) and size of a path, links followed; None if there is none."""
        ...

    def read_dir(self, reference: str, path: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def source_time(self, op: SourceOp) -> int | None:
        """When the content of a source was made, in seconds since 1970: a commit's time, a file's
        Last-Modified, an image's creation; None if it has none, as a directory of the host."""
        ...

    def inputs(self) -> dict[str, str]:
        """Named contexts by lower-cased name (`name` or `name::platform`): an identifier of
        `graph.ops.SourceOp`."""
        ...

    def warn(self, diagnostic: Diagnostic) -> None:
        """Tell the user without failing."""
        ...


class FrontendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for, as far as a front end is concerned.

    `context` and `dockerfile` are references that `Bridge.read_file` takes; the build's main
    context is the source `local://context` unless `context_source` names another identifier.
    `epoch` is the value for steps' SOURCE_DATE_EPOCH; `declared_epoch` the time that the file's own
    global `ARG SOURCE_DATE_EPOCH` names, filled in by the front end. `source` is the text of the file
    when the caller has it; without it the file `filename` of the reference `dockerfile` is read.
    """

    filename: str = "Dockerfile"
    source: str = ""
    context_source: str = "local://context"
    context_exclude: tuple[str, ...] = ()
    target: str = ""
    build_args: dict[str, str] = {}
    labels: dict[str, str] = {}
    platforms: tuple[Platform, ...] = ()
    build_platform: Platform
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 0
    hostname: str = ""
    resolve_mode: str = "default"
    epoch: int = 946684800
    declared_epoch: int | None = None
    allow: tuple[str, ...] = ()


class FrontendImage(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's outcome: the graph with its target, and the image config without rootfs
    (diff_ids are filled in from layers at export) but with the history of this build's steps
    appended after the base's history."""

    platform: Platform
    definition: Definition
    config: ImageConfig


class FrontendResult(msgspec.Struct, frozen=True, kw_only=True):
    """All platforms of one build."""

    images: tuple[FrontendImage, ...]
    metadata: dict[str, str] = {}


class Frontend(Protocol):
    """Compiles a request; raises `UserError` with all diagnostics that it could collect."""

    def __call__(self, bridge: Bridge, request: FrontendRequest) -> FrontendResult: ...
