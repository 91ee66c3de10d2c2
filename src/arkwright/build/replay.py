"""What a request would use, found out as a build does it before its first step."""

from __future__ import annotations

import os

import msgspec

from arkwright.attest.statement import ResourceDescriptor
from arkwright.build.compile import compile_request, request_targets
from arkwright.build.means import open_means
from arkwright.build.observed import seen
from arkwright.build.recipe import portable
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.events.stream import EventStream
from arkwright.ops.contexts import ContextReader
from arkwright.ops.source import Pins
from arkwright.solver.dedupe import Claims
from arkwright.solver.solver import Solver


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would use, without its being built: pinned sources, the Dockerfile's text and the names of its
    stages, the lines of ignore files by context, and the request without what is of this machine."""

    sources: tuple[ResourceDescriptor, ...]
    dockerfile: str
    stages: tuple[str, ...]
    ignore_lines: dict[str, tuple[str, ...]]
    request: BuildRequest


def observe(request: BuildRequest, session: SessionInputs, root_path: str) -> Observed:
    """Compile a request, pin its sources and read its contexts, as a build does first; runs no step.

    Raises what these raise.
    """
    stream = EventStream("")
    with open_means(root_path, session, stream, scrub=request.scrub) as means:
        compiled = compile_request(request, means)
        pins, readers = Pins(), dict[str, ContextReader]()
        resolver = means.resolver(compiled.contexts, pins, readers)
        claims = Claims(os.path.join(means.store.root_path, "claims"), "")
        solver = Solver(resolver, means.records, stream, "", claims)
        for image in compiled.images:
            if image.definition.target is not None:
                solver.load(image.definition, image.definition.target.vertex)
        found = seen(pins, readers, compiled.contexts)
        return Observed(
            sources=found.sources,
            dockerfile=compiled.contexts.dockerfile,
            stages=tuple(one.name for one in request_targets(request, means) if one.name),
            ignore_lines={name: tree.exclude for name, tree in compiled.contexts.trees.items()},
            request=portable(request, compiled.contexts, found.layouts),
        )
