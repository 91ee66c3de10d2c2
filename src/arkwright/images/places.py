"""Where an image is: all spellings that the commands take.

| spelling | is |
|---|---|
| `NAME[:TAG][@DIGEST]`, a digest or its beginning | an image of the local store |
| `docker://NAME[:TAG][@DIGEST]` | in a registry |
| `oci:DIR[:TAG]`, `oci:DIR[@DIGEST]` | in an OCI image layout |
| `oci-archive:FILE[:TAG]` | in a tar of an OCI image layout |
| `docker-archive:FILE[:NAME[:TAG]]`, `docker-archive:FILE@N` | in a tar as `docker save` writes it; the Nth, from 0 |
| `dir:DIR` | skopeo's directory of blobs and a manifest |
| `containers-storage:NAME`, `docker-daemon:NAME` | in podman's or docker's own store |

The words are those of containers-transports(5).
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.oci.digest import is_digest
from arkwright.oci.reference import Reference, parse_reference

Transport = Literal[
    "store", "docker", "oci", "oci-archive", "docker-archive", "dir", "containers-storage", "docker-daemon"
]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
_OF_FILES = frozenset({"oci", "oci-archive", "docker-archive", "dir"})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One image's place. `path` is for transports of files, with `selector` choosing one image there;
    `reference` is for registries and other tools' stores; the local store resolves `text` itself."""

    transport: Transport
    text: str
    path: str = ""
    selector: str = ""
    reference: Reference | None = None


def parse_place(text: str) -> Place:
    """Read a spelling. Nothing is looked up.

    Raises `UserError` `invalid-place`, `unknown-transport`, `invalid-reference`.
    """
    name, colon, rest = text.partition(":")
    if not colon or name not in TRANSPORTS or name == "store":
        _refuse_unknown(text)
        return Place(transport="store", text=text)
    transport: Transport = name
    if transport in _OF_FILES:
        return _of_files(transport, text, rest)
    if transport == "docker":
        if not rest.startswith("//"):
            raise UserError.of(
                "invalid-place", f"{text}: a registry is written docker://NAME", hint=f"docker://{rest}"
            )
        rest = rest[2:]
    return Place(transport=transport, text=rest, reference=parse_reference(rest))


def in_registry(reference: Reference) -> Place:
    """The place of a name at its registry."""
    return Place(transport="docker", text=str(reference), reference=reference)


def _of_files(transport: Transport, text: str, rest: str) -> Place:
    """The path ends at the first colon or at-sign, as other tools read it too: a directory whose
    name holds one is reached by a link."""
    path, selector = rest, ""
    if transport != "dir":
        end = min((at for at in (rest.find(":"), rest.find("@")) if at >= 0), default=len(rest))
        path, selector = rest[:end], rest[end:].removeprefix(":")
        if is_digest(selector[1:]):
            selector = selector[1:]
    if not path:
        raise UserError.of("invalid-place", f"{text} names no path", hint=f"{transport}:PATH")
    return Place(transport=transport, text=text, path=path, selector=selector)


def _refuse_unknown(text: str) -> None:
    """A misspelt transport must not be taken for a name with a tag."""
    name, _, rest = text.partition(":")
    near = nearest(name, TRANSPORTS)
    a_port = rest.partition("/")[0].isdecimal()
    if "://" in text or (near is not None and "/" in rest and not a_port):
        raise UserError.of(
            "unknown-transport",
            f"{name}: is no transport",
            hint=f"did you mean {near}:?"
            if near
            else "one of " + ", ".join(f"{one}:" for one in TRANSPORTS[1:]),
        )
