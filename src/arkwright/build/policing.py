"""What a policy says of a Dockerfile, of a graph and of a request: all that is no source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from arkwright.build.gate import refused
from arkwright.build.request import BuildRequest
from arkwright.diagnostics.errors import ArkwrightError, Denied
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import FrontendImage
from arkwright.graph.ops import ExecOp
from arkwright.oci.reference import parse_reference

if TYPE_CHECKING:
    from arkwright.policy.model import Policy, Refusal

    _Found = Iterator[tuple[Policy, Refusal | None, Span | None]]


def check_request(policies: Sequence[Policy], request: BuildRequest) -> None:
    """Raises `Denied` `policy-refused`."""
    if not policies:
        return
    from arkwright.policy import decide

    _raise_all(
        (policy, decide.cache(policy, spec.name, parse_reference(spec.ref) if spec.ref else None), None)
        for policy in policies
        for spec in request.cache_from
    )


def check_file(policies: Sequence[Policy], text: str, path: str, override: str) -> None:
    """Look at the instructions and at the front end, before any source is asked for. `override` is the
    front end that a build argument names. A file that cannot be parsed is left to the front end.

    Raises `Denied` `policy-refused`, with all places.
    """
    if not policies:
        return
    from arkwright.frontends.dockerfile.parser import decode, detect_syntax, parse
    from arkwright.policy import decide
    from arkwright.policy.instructions import parse_instruction

    file, _ = decode(text.encode(errors="surrogateescape"), path)
    token = detect_syntax(file.text)
    asked = override.partition(" ")[0] or (token.text if token is not None else "")
    place = Span(file, token.span.start, token.span.end) if token is not None and not override else None

    def found() -> _Found:
        for policy in policies:
            if asked:
                yield policy, decide.frontend(policy, parse_reference(asked)), place
            for one in parse(file).instructions:
                yield policy, decide.instruction(policy, parse_instruction(one.source), one.name), one.span

    _raise_all(found())


def check_graph(
    policies: Sequence[Policy], images: Sequence[FrontendImage], *, are_results: bool = True
) -> None:
    """Look at what steps may do, and at the labels of what is built. Raises as `check_file`."""
    if not policies:
        return
    from arkwright.policy import decide

    def found() -> _Found:
        seen: set[str] = set()
        for image in images:
            for digest in image.definition.walk():
                op = image.definition.vertices[digest].op
                if isinstance(op, ExecOp) and digest not in seen:
                    seen.add(digest)
                    spans = image.definition.describe(digest).spans
                    for policy in policies:
                        refusal = decide.step(policy, op.network, op.security)
                        yield policy, refusal, spans[0] if spans else None
            for policy in policies if are_results else ():
                yield policy, decide.result(policy, image.config.config.labels), None

    _raise_all(found())


def _raise_all(found: _Found) -> None:
    errors: dict[object, ArkwrightError] = {}
    for policy, refusal, span in found:
        if refusal is not None:
            errors.setdefault((refusal, span), refused(policy, refusal, span))
    if errors:
        first, *_ = errors.values()
        raise Denied(*(one.diagnostics[0] for one in errors.values()), details=first.details)
