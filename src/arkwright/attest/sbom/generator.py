"""Outside scanners, by BuildKit's protocol for them (its docs/attestations/sbom-protocol.md).

An image is run with the tree to look at read-only beneath /run/src, and writes in-toto statements
to /run/out. What it writes is that of a stranger: names, sizes and forms are checked, subjects are not
believed, and its claims are only ever those of package lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from arkwright.attest.sbom import cyclonedx, spdx
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.graph.definition import Edge, Vertex, VertexMetadata
from arkwright.graph.ops import ExecOp, Mount
from arkwright.graph.state import State
from arkwright.images.listing import list_layer, read_content
from arkwright.images.view import Node, View
from arkwright.oci.config import ImageConfig
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

CORE = "sbom"
"""The name of the scan of the image itself; those of stages and contexts begin with it and a hyphen."""

_SOURCE = f"/run/src/core/{CORE}"
_EXTRAS = "/run/src/extras"
_OUT = "/run/out"
_TYPES = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_PREDICATES = (spdx.PREDICATE, cyclonedx.PREDICATE)
_MAX_SCANS = 1000
_MAX_SCAN = 64 << 20
_MAX_SCANS_BYTES = 256 << 20


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One package list: the file's name, the type of the predicate, and the document."""

    name: str
    predicate_type: str
    predicate: Any


class _Statement(msgspec.Struct):
    type: str = msgspec.field(name="_type", default="")
    predicate_type: str = msgspec.field(name="predicateType", default="")
    predicate: Any = None


def scanning(
    generator: State,
    config: ImageConfig,
    tree: State,
    extras: Mapping[str, State],
    *,
    name: str,
    parameters: Mapping[str, str],
    network: str = "none",
) -> State:
    """What a generator image makes of a tree, and of others beside it: a tree with its statements.

    Raises `UserError` `no-command` when the image says of no command that it is to be run.
    """
    args = (*(config.config.entrypoint or ()), *(config.config.cmd or ()))
    if not args:
        raise UserError.of("no-command", f"{name} names no command to start: it is no generator")
    # Trees that are empty have no edge, and are mounted as such.
    mounted = {_SOURCE: tree, **{f"{_EXTRAS}/{CORE}-{key}": one for key, one in sorted(extras.items())}}
    edges = [edge for one in (generator, *mounted.values()) if (edge := one.edge) is not None]
    inputs = list(dict.fromkeys(edges))
    variables = {
        "BUILDKIT_SCAN_DESTINATION": _OUT,
        "BUILDKIT_SCAN_SOURCE": _SOURCE,
        **({"BUILDKIT_SCAN_SOURCE_EXTRAS": _EXTRAS} if extras else {}),
        **{f"BUILDKIT_SCAN_{key.upper()}": value for key, value in sorted(parameters.items())},
    }
    kept = [one for one in config.config.env if one.partition("=")[0] not in variables]
    op = ExecOp(
        args=args,
        env=(*kept, *(f"{key}={value}" for key, value in variables.items())),
        cwd=config.config.working_dir or "/",
        network="host" if network == "host" else "default" if network == "default" else "none",
        mounts=(
            Mount(dest="/", input=_number(inputs, generator)),
            *(Mount(dest=path, input=_number(inputs, one), readonly=True) for path, one in mounted.items()),
            Mount(dest=_OUT, output=0),
            Mount(dest="/tmp", type="tmpfs"),
        ),
    )
    vertex = Vertex(op=op, inputs=tuple(inputs))
    digest = vertex.digest()
    vertices: dict[str, Vertex] = {}
    metadata: dict[str, VertexMetadata] = {}
    for state in (generator, *mounted.values()):
        vertices.update(state.vertices)
        metadata.update(state.metadata)
    vertices[digest] = vertex
    metadata[digest] = VertexMetadata(name=f"[sbom] listing packages with {name}")
    return State(edge=Edge(digest), vertices=vertices, metadata=metadata)


def _number(inputs: Sequence[Edge], state: State) -> int:
    return inputs.index(state.edge) if state.edge is not None else -1


def scans(store: Store, layers: Sequence[Descriptor], name: str) -> tuple[Scan, ...]:
    """What the generator `name` wrote, of the tree that it made: that of the image itself first.

    Raises `UserError` `invalid-generator-output`.
    """
    view = View()
    for layer in layers:
        view.add_layer(list_layer(store, layer))
    files = sorted(view.root.children.items())
    if not files:
        raise _invalid(f"{name} wrote no package list", "it must write to $BUILDKIT_SCAN_DESTINATION")
    total = sum(node.size for _, node in files)
    if len(files) > _MAX_SCANS or total > _MAX_SCANS_BYTES:
        raise _invalid(f"{name} wrote {len(files)} files of {total} bytes, which is too much")
    found = [_scan(store, layers, file, node, name) for file, node in files]
    return tuple(sorted(found, key=lambda one: (one.name.partition(".")[0] != CORE, one.name)))


def _scan(store: Store, layers: Sequence[Descriptor], file: str, node: Node, name: str) -> Scan:
    """A statement; or a bare document, which the protocol's text seems to ask for."""
    if node.type != "file" or node.size > _MAX_SCAN:
        raise _invalid(f"{name} wrote {file!r}, which is {'too large' if node.type == 'file' else 'no file'}")
    data = b"".join(read_content(store.content, layers[node.layer], node.position))
    try:
        document = msgspec.json.decode(data)
        said = msgspec.convert(document, _Statement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"{name} wrote {file!r}, which is no statement: {error}") from error
    kind, predicate = said.predicate_type, said.predicate
    if not said.type:
        kind, predicate = _kind(document), document
    elif said.type not in _TYPES:
        raise _invalid(f"{name} wrote {file!r}, a statement of type {said.type!r}")
    if kind not in _PREDICATES or _kind(predicate) != kind:
        raise _invalid(
            f"{name} wrote {file!r}, which is no package list: its predicate is {kind or 'unknown'}",
            "known are SPDX 2 and CycloneDX, as JSON",
        )
    return Scan(name=file, predicate_type=kind, predicate=predicate)


def _kind(document: Any) -> str:
    """Which predicate a document is that of, by the fields that both formats demand."""
    if not isinstance(document, dict):
        return ""
    if str(document.get("spdxVersion", "")).startswith("SPDX-2."):
        return spdx.PREDICATE
    return cyclonedx.PREDICATE if document.get("bomFormat") == "CycloneDX" else ""


def _invalid(message: str, hint: str = "") -> ArkwrightError:
    return UserError.of("invalid-generator-output", message, hint=hint)
