"""From the layers of an image to its packages: one look at the names, one at the contents that matter."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec

from arkwright.attest.sbom import ownership, programs
from arkwright.attest.sbom.java import ARCHIVES, java
from arkwright.attest.sbom.languages import COMPOSER, GEM, NODE, PYTHON
from arkwright.attest.sbom.model import (
    Distribution,
    Materials,
    Package,
    parse_distribution,
    sorted_packages,
)
from arkwright.attest.sbom.origins import Origins
from arkwright.attest.sbom.rpm import RPM
from arkwright.attest.sbom.scanner import TEXT_LIMIT, ProgramScanner, Scanner
from arkwright.attest.sbom.system import APK, DPKG
from arkwright.images.listing import list_layer, open_layer
from arkwright.images.view import Node, View, walk
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

SCANNERS: tuple[Scanner, ...] = (DPKG, APK, RPM, PYTHON, NODE, GEM, COMPOSER)
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_ELF = b"\x7fELF"
_CHUNK = 1 << 18
_PROGRAM_LIMIT = 2 << 30
# What all databases and manifests may take together, and the paths that packages say they own, in bytes.
_TEXTS_LIMIT = 768 << 20
_PATHS_LIMIT = 256 << 20


def collect(store: Store, layers: Sequence[Descriptor], *, files: bool = False) -> Materials:
    """The packages in the files that a container of the image would see.

    With `files` the files that packages own are told of too, with their digests. What is damaged is named
    in `unread`, and hides nothing else. Raises as `images.view.View.add_layer` and
    `images.listing.list_layer`.
    """
    view = View()
    origins = Origins(view, SCANNERS)
    for layer in layers:
        view.add_layer(list_layer(store, layer))
        origins.note_layer()
    collection = _Collection(store, layers, view, origins)
    found = collection.result()
    return ownership.with_files(found, store, layers, view) if files else found


class _Wanted(msgspec.Struct):
    """Why the content of one entry of a tar is read: by whom, and as what paths."""

    texts: list[tuple[Scanner | None, str]] = []
    program: str = ""


class _Collection:
    def __init__(self, store: Store, layers: Sequence[Descriptor], view: View, origins: Origins) -> None:
        self._store = store
        self._scratch_path = os.path.join(store.root_path, "work")
        self._layers = layers
        self._view = view
        self._origins = origins
        self._texts: dict[str, dict[str, bytes]] = {scanner.name: {} for scanner in SCANNERS}
        self._releases: dict[str, bytes] = {}
        self._came_with: dict[str, int] = {}
        self._found: list[Package] = []
        self._unread: set[str] = set()
        self._texts_left = _TEXTS_LIMIT
        self._paths_left = _PATHS_LIMIT

    def result(self) -> Materials:
        wanted = self._wanted()
        for number, layer in enumerate(self._layers):
            if wanted.get(number):
                self._read(number, layer, wanted[number])
            self._settle(number)
        release = next((self._releases[path] for path in _RELEASES if path in self._releases), b"")
        distribution = parse_distribution(release)
        for scanner in SCANNERS:
            self._scan(scanner, distribution)
        return Materials(
            distribution=distribution,
            packages=sorted_packages(self._within(ownership.of_homes(self._found, self._view))),
            unread=tuple(sorted(self._unread)),
            layers=tuple(layer.digest for layer in self._layers),
        )

    def _wanted(self) -> dict[int, dict[int, _Wanted]]:
        """By layer and position in its tar."""
        wanted: dict[int, dict[int, _Wanted]] = {}

        def at(number: int, position: int) -> _Wanted:
            return wanted.setdefault(number, {}).setdefault(position, _Wanted())

        for one in self._origins.versions():
            at(one.layer, one.position).texts.append((one.scanner, one.path))
        for path, node in walk(self._view.root):
            if node.type != "file" or not node.size:
                continue
            for scanner in (*SCANNERS, None):
                if not (scanner.wants(path) if scanner is not None else path in _RELEASES):
                    continue
                if node.size > (scanner.limit if scanner is not None else TEXT_LIMIT):
                    self._unread.add(f"/{path}: too large")
                    continue
                texts = at(node.layer, node.position).texts
                if (scanner, path) not in texts:
                    texts.append((scanner, path))
            if _is_program(path, node):
                at(node.layer, node.position).program = path
        return wanted

    def _read(self, number: int, layer: Descriptor, wanted: dict[int, _Wanted]) -> None:
        last = max(wanted)
        with open_layer(self._store.content, layer) as tar:
            for position, (_, stream) in enumerate(read_tar(tar, require_end=False)):
                if position in wanted and stream is not None:
                    one = wanted[position]
                    if one.texts:
                        self._keep(number, one.texts, stream)
                    elif one.program:
                        self._look_into(one.program, number, stream)
                if position == last:
                    return

    def _keep(self, number: int, texts: list[tuple[Scanner | None, str]], stream: BinaryIO) -> None:
        data = stream.read(max(scanner.limit if scanner is not None else TEXT_LIMIT for scanner, _ in texts))
        for scanner, path in texts:
            into = self._texts[scanner.name] if scanner is not None else self._releases
            self._texts_left += len(into.pop(path, b"")) - len(data)
            if self._texts_left < 0:
                self._texts_left += len(data)
                self._unread.add(f"/{path}: too much together with the others")
                continue
            into[path] = data
            self._came_with[path] = number

    def _look_into(self, path: str, number: int, stream: BinaryIO) -> None:
        """What a program or an archive says of itself; it need not fit into memory."""
        archive = path.endswith(ARCHIVES)
        scanners: tuple[ProgramScanner, ...] = (java,) if archive else (programs.go, programs.rust)
        data = stream.read(_CHUNK)
        if not data.startswith(b"PK" if archive else _ELF):
            return
        with tempfile.TemporaryFile(dir=self._scratch_path) as file:
            size = 0
            while data:
                size += file.write(data)
                if size > _PROGRAM_LIMIT:
                    self._unread.add(f"/{path}: too large")
                    return
                data = stream.read(_CHUNK)
            file.flush()
            for scan in scanners:
                try:
                    self._take(msgspec.structs.replace(one, layer=number) for one in scan(path, file))
                except ValueError as error:
                    self._unread.add(f"/{path}: {error.args[0] if error.args else error}")

    def _settle(self, number: int) -> None:
        """Which packages this layer brought to the databases that it wrote anew."""
        for scanner, path in self._origins.gone(number):
            self._texts_left += len(self._texts[scanner.name].pop(path, b""))
        self._origins.learn(number, self._texts)

    def _scan(self, scanner: Scanner, distribution: Distribution) -> None:
        """One damaged file must not hide the others: they are given again without it."""
        files = dict(self._texts[scanner.name])
        while files:
            try:
                self._take(self._placed(scanner, one) for one in scanner.scan(files, distribution))
                return
            except ValueError as error:
                place = error.args[1] if len(error.args) == 2 else ""
                path = place if isinstance(place, str) else ""
                self._unread.add(f"/{path or scanner.name}: {error.args[0] if error.args else error}")
                if files.pop(path, None) is None:
                    return

    def _placed(self, scanner: Scanner, one: Package) -> Package:
        layer = self._origins.layer_of(scanner, one)
        if layer is None:
            layer = self._came_with.get(one.told_by, -1)
        return msgspec.structs.replace(one, layer=layer)

    def _take(self, packages: Iterator[Package]) -> None:
        """All of them, or none when one is damaged; of paths that are too many together, none."""
        left = self._paths_left
        try:
            self._found.extend(list(self._within(packages)))
        except ValueError:
            self._paths_left = left
            raise

    def _within(self, packages: Iterator[Package]) -> Iterator[Package]:
        for one in packages:
            size = sum(map(len, one.files))
            if size <= self._paths_left:
                self._paths_left -= size
                yield one
            else:
                self._unread.add(f"/{one.told_by}: the files of a package, too many together")
                yield msgspec.structs.replace(one, files=())


def _is_program(path: str, node: Node) -> bool:
    """Shared objects need no permission to be executed."""
    name = path.rpartition("/")[2]
    return path.endswith((*ARCHIVES, ".so")) or ".so." in name or bool(node.mode & 0o111)
