"""`--hermetic`: nothing reaches a step but what is known before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from arkwright.diagnostics.errors import Diagnostic, Label, UserError
from arkwright.graph.definition import Definition, VertexMetadata
from arkwright.graph.ops import ExecOp


def check_hermetic(definitions: Sequence[Definition]) -> None:
    """Refuse graphs with a step that could use more, before anything runs. Steps that ask for no network
    in particular have none by then.

    Raises `UserError` `not-hermetic`, with all findings.
    """
    found: dict[str, tuple[Diagnostic, ...]] = {}
    for definition in definitions:
        for digest in definition.walk():
            op = definition.vertices[digest].op
            if isinstance(op, ExecOp) and digest not in found:
                found[digest] = tuple(_findings(op, definition.describe(digest)))
    problems = [one for each in found.values() for one in each]
    if problems:
        raise UserError(*problems)


def _findings(op: ExecOp, metadata: VertexMetadata) -> Iterator[Diagnostic]:
    labels = tuple(map(Label, metadata.spans[:1]))
    for is_so, why, hint in (
        (op.network != "none", f"asks for the network ({op.network})", "fetch what it needs with ADD, or in a stage of its own"),
        (op.security == "insecure", "asks to run without confinement", "leave --security=insecure away"),
        (
            any(mount.type == "cache" for mount in op.mounts), "mounts a cache, which holds what earlier builds left there",
            "leave the mount away, or copy what it is for from a stage",
        ),
    ):  # fmt: skip
        if is_so:
            message = f"the build is hermetic, and a step {why}"
            yield Diagnostic(code="not-hermetic", message=message, labels=labels, hint=hint)
