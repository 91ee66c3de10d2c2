"""From the layers of an image to its packages: one look at the names, one at the contents that matter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import msgspec

from arkwright.attest.sbom import programs
from arkwright.attest.sbom.languages import COMPOSER, GEM, NODE, PYTHON
from arkwright.attest.sbom.model import (
    Distribution,
    Materials,
    Package,
    parse_distribution,
    sorted_packages,
)
from arkwright.attest.sbom.scanner import TEXT_LIMIT, ProgramScanner, Scanner
from arkwright.attest.sbom.system import APK, DPKG
from arkwright.images.listing import list_layer, open_layer
from arkwright.images.view import Node, View, walk
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

SCANNERS: tuple[Scanner, ...] = (DPKG, APK, PYTHON, NODE, GEM, COMPOSER)
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_ARCHIVES = (".jar", ".war", ".ear")
_ELF = b"\x7fELF"
_CHUNK = 1 << 18
_PROGRAM_LIMIT = 2 << 30

# What is done with the content of a file: a path, the number of its layer, the stream.
_Take = Callable[[str, int, BinaryIO], None]


def collect(store: Store, layers: Sequence[Descriptor]) -> Materials:
    """The packages in the files that a container of the image would see.

    What is damaged is named in `unread`, and hides nothing else. Raises as `images.view.View.add_layer`
    and `images.listing.list_layer`.
    """
    view = View()
    for layer in layers:
        view.add_layer(list_layer(store, layer))
    return _Collection(store, layers, view).result()


class _Collection:
    def __init__(self, store: Store, layers: Sequence[Descriptor], view: View) -> None:
        self._store = store
        self._scratch_path = os.path.join(store.root_path, "work")
        self._layers = layers
        self._view = view
        self._texts: dict[str, dict[str, bytes]] = {scanner.name: {} for scanner in SCANNERS}
        self._releases: dict[str, bytes] = {}
        self._came_with: dict[str, int] = {}
        self._found: list[Package] = []
        self._unread: list[str] = []

    def result(self) -> Materials:
        wanted = self._wanted()
        for number, layer in enumerate(self._layers):
            if wanted.get(number):
                self._read(number, layer, wanted[number])
        release = next((self._releases[path] for path in _RELEASES if path in self._releases), b"")
        distribution = parse_distribution(release)
        for scanner in SCANNERS:
            self._scan(scanner, distribution)
        return Materials(
            distribution=distribution,
            packages=sorted_packages(self._found),
            unread=tuple(sorted(self._unread)),
        )

    def _wanted(self) -> dict[int, dict[int, tuple[str, list[_Take]]]]:
        """By layer and position in its tar: the file's path, and who takes its content."""
        wanted: dict[int, dict[int, tuple[str, list[_Take]]]] = {}
        for path, node in walk(self._view.root):
            if node.type != "file" or not node.size:
                continue
            takers = list(self._takers(path, node))
            if takers:
                wanted.setdefault(node.layer, {}).setdefault(node.position, (path, takers))
        return wanted

    def _takers(self, path: str, node: Node) -> Iterator[_Take]:
        for scanner in SCANNERS:
            if scanner.wants(path):
                if node.size > TEXT_LIMIT:
                    self._unread.append(f"/{path}: too large")
                else:
                    yield self._text(self._texts[scanner.name])
        if path in _RELEASES and node.size <= TEXT_LIMIT:
            yield self._text(self._releases)
        if path.endswith(_ARCHIVES):
            yield self._program((programs.java,), b"PK")
        elif node.mode & 0o111:
            yield self._program((programs.go, programs.rust), _ELF)

    def _read(self, number: int, layer: Descriptor, wanted: dict[int, tuple[str, list[_Take]]]) -> None:
        last = max(wanted)
        with open_layer(self._store.content, layer) as tar:
            for position, (_, stream) in enumerate(read_tar(tar, require_end=False)):
                if position in wanted and stream is not None:
                    path, takers = wanted[position]
                    # A file that two want is small: no path is both text and program, but os-release's.
                    for take in takers:
                        take(path, number, stream)
                if position == last:
                    return

    def _text(self, into: dict[str, bytes]) -> _Take:
        def take(path: str, number: int, stream: BinaryIO) -> None:
            into[path] = stream.read(TEXT_LIMIT)
            self._came_with[path] = number

        return take

    def _program(self, scanners: tuple[ProgramScanner, ...], magic: bytes) -> _Take:
        def take(path: str, number: int, stream: BinaryIO) -> None:
            data = stream.read(_CHUNK)
            if not data.startswith(magic):
                return
            with tempfile.TemporaryFile(dir=self._scratch_path) as file:
                size = 0
                while data:
                    size += file.write(data)
                    if size > _PROGRAM_LIMIT:
                        self._unread.append(f"/{path}: too large")
                        return
                    data = stream.read(_CHUNK)
                file.flush()
                for scan in scanners:
                    self._run(path, number, scan(path, file))

        return take

    def _run(self, path: str, number: int, found: Iterator[Package]) -> None:
        try:
            self._found.extend(msgspec.structs.replace(one, layer=number) for one in found)
        except ValueError as error:
            self._unread.append(f"/{path}: {error.args[0] if error.args else error}")

    def _scan(self, scanner: Scanner, distribution: Distribution) -> None:
        """One damaged file must not hide the others: they are given again without it."""
        files = dict(self._texts[scanner.name])
        while files:
            try:
                found = list(scanner.scan(files, distribution))
            except ValueError as error:
                path = error.args[1] if len(error.args) > 1 else ""
                self._unread.append(f"/{path or scanner.name}: {error.args[0] if error.args else error}")
                if files.pop(path, None) is None:
                    return
                continue
            self._found.extend(
                msgspec.structs.replace(one, layer=self._came_with.get(one.told_by, -1)) for one in found
            )
            return
