"""Which layer brought a package whose database each later layer writes anew.

A database such as dpkg's is wholly there in every layer that installed something. So it is read as each
layer left it: a package came with the first layer from which on it was always there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from arkwright.attest.sbom.model import Distribution, Package
from arkwright.attest.sbom.scanner import Scanner
from arkwright.diagnostics.errors import UserError
from arkwright.images.view import Node, View

_Identity = tuple[str, str, str]


class Version(msgspec.Struct, frozen=True):
    """A database as a layer left it: an entry of that layer."""

    scanner: Scanner
    path: str
    layer: int
    position: int


class _Change(msgspec.Struct):
    """What a layer did to databases: the directories with such, and the paths that are no more."""

    places: dict[tuple[str, str], Scanner] = {}
    gone: list[tuple[Scanner, str]] = []


class Origins:
    """`note_layer` after each layer of the view; then `gone` and `learn` for each, lowest first."""

    def __init__(self, view: View, scanners: Sequence[Scanner]) -> None:
        self._view = view
        self._scanners = scanners
        self._layer = -1
        self._now: dict[str, tuple[Scanner, Node]] = {}
        self._versions: list[Version] = []
        self._changes: dict[int, _Change] = {}
        self._members: dict[tuple[str, str], dict[str, None]] = {}
        self._came: dict[tuple[str, str], dict[_Identity, int]] = {}

    def note_layer(self) -> None:
        """Find the databases that the layer just added wrote or removed."""
        self._layer += 1
        before = {path: one for path, one in self._now.items() if not self._is_there(path, one[1])}
        for path in before:
            del self._now[path]
        for path, node in _changed(self._view.root, self._layer):
            for scanner in self._scanners:
                if scanner.shared(path) and 0 < node.size <= scanner.limit:
                    self._now[path] = (scanner, node)
                    self._versions.append(Version(scanner, path, self._layer, node.position))
                    self._note(scanner, path)
                    before.pop(path, None)
        for path, (scanner, _) in before.items():
            self._note(scanner, path).gone.append((scanner, path))

    def versions(self) -> Sequence[Version]:
        """All that must be read."""
        return self._versions

    def gone(self, number: int) -> Sequence[tuple[Scanner, str]]:
        """The databases that a layer removed without another in their place."""
        change = self._changes.get(number)
        return change.gone if change is not None else ()

    def learn(self, number: int, texts: Mapping[str, Mapping[str, bytes]]) -> None:
        """Read the databases that a layer changed, as it left them; `texts` are by the names of scanners."""
        change = self._changes.get(number)
        for place, scanner in change.places.items() if change is not None else ():
            found = texts[scanner.name]
            shared = {path: found[path] for path in self._members[place] if path in found}
            before = self._came.get(place, {})
            try:
                self._came[place] = {
                    identity: before.get(identity, number)
                    for identity in map(_identity, scanner.scan(shared, Distribution()))
                }
            except ValueError:
                # What a damaged database says is not known; it is told of at the end, if it is still there.
                continue

    def layer_of(self, scanner: Scanner, one: Package) -> int | None:
        """The number of the layer that brought it; None when no shared database told of it."""
        return self._came.get(_place(scanner, one.told_by), {}).get(_identity(one))

    def _note(self, scanner: Scanner, path: str) -> _Change:
        change = self._changes.setdefault(self._layer, _Change())
        place = _place(scanner, path)
        change.places[place] = scanner
        self._members.setdefault(place, {})[path] = None
        return change

    def _is_there(self, path: str, node: Node) -> bool:
        try:
            return self._view.find(path, follow=False) is node
        except UserError:
            return False


def _changed(root: Node, layer: int) -> Iterator[tuple[str, Node]]:
    """The files that a layer made, without a look at what it left alone."""
    pending = [("", root)]
    while pending:
        prefix, node = pending.pop()
        for name, child in node.children.items():
            path = f"{prefix}/{name}" if prefix else name
            if child.type == "file" and child.layer == layer:
                yield path, child
            elif child.is_dir and layer in (child.layer, child.touched):
                pending.append((path, child))


def _place(scanner: Scanner, path: str) -> tuple[str, str]:
    """A database may be of several files, in one directory."""
    return scanner.name, posixpath.dirname(path)


def _identity(one: Package) -> _Identity:
    """Without what os-release adds, which is not known before all layers were read."""
    return one.name, one.version, dict(one.qualifiers).get("arch", "")
