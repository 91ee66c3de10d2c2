"""Steps for other platforms: refused before anything runs, when this host cannot run them.

A step that is cached needs no emulation, so a build whose foreign steps are all cached works
anywhere. What is neither cached nor sure to run is refused only when it is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arkwright.diagnostics.errors import HostUnsupported, Label
from arkwright.graph.definition import Definition, Vertex
from arkwright.graph.ops import ExecOp
from arkwright.oci.platform import host_platform
from arkwright.solver.solver import Miss, Solver

if TYPE_CHECKING:
    from arkwright.build.means import Means
    from arkwright.linux.emulation import Emulation


def check_platforms(
    definitions: Sequence[Definition], solver: Solver, means: Means, *, may_import: bool
) -> dict[str, Emulation]:
    """How the architectures of steps that may have to run do run here; empty without foreign steps.

    With `may_import` a remote cache may have what is missing, and nothing is refused yet. Raises `HostUnsupported` `no-emulation`, with
    one diagnostic and the first step per platform.
    """
    if not any(_is_foreign(vertex) for each in definitions for vertex in each.vertices.values()):
        return {}
    misses = list(solver.misses(definitions, _is_foreign))
    if not misses:
        return {}
    from arkwright.linux.emulation import find_emulations

    scratch_path = means.scratch()
    with means.store.metadata.apart():
        found = find_emulations({_key(miss) for miss in misses}, scratch_path)
    _refuse([miss for miss in misses if miss.certain and not may_import and not found[_key(miss)].ok], found)
    return found


def _refuse(steps: list[Miss], found: dict[str, Emulation]) -> None:
    from arkwright.linux.emulation import no_emulation

    first: dict[str, Miss] = {}
    for step in steps:
        name = str(step.vertex.platform)
        if name not in first or _place(step) < _place(first[name]):
            first[name] = step
    if not first:
        return
    errors = []
    for name in sorted(first):
        step = first[name]
        error = no_emulation(name, found[_key(step)])
        errors.append(error.with_label(Label(step.metadata.spans[0])) if step.metadata.spans else error)
    raise HostUnsupported(
        *(diagnostic for error in errors for diagnostic in error.diagnostics), details=errors[0].details
    )


def _place(step: Miss) -> int:
    return step.metadata.spans[0].start if step.metadata.spans else 0


def _is_foreign(vertex: Vertex) -> bool:
    host = host_platform()
    platform = vertex.platform
    return (
        isinstance(vertex.op, ExecOp)
        and platform is not None
        and (platform.os, platform.architecture) != (host.os, host.architecture)
    )


def _key(miss: Miss) -> str:
    from arkwright.linux.emulation import emulation_key

    assert miss.vertex.platform is not None
    return emulation_key(miss.vertex.platform)
