"""The packages of an image, in the one form from which every format of a bill of materials is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

import msgspec

Pairs = tuple[tuple[str, str], ...]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed package. `kind` is the type of its purl (`deb`, `pypi`, `npm` …), `source` the source
    package that it was built from, `licences` what its own metadata says (SPDX expressions or free
    text), `supplier` who maintains it, `files` the absolute paths that it owns or stands in, `home` a directory that
    is its own (without a leading slash; those of others in it are not), `told_by` the file that says so, `layer` the number of the layer that brought that file (-1: not known)."""

    kind: str
    name: str
    version: str
    namespace: str = ""
    qualifiers: Pairs = ()
    source: str = ""
    licences: tuple[str, ...] = ()
    supplier: str = ""
    homepage: str = ""
    files: tuple[str, ...] = ()
    home: str = ""
    told_by: str = ""
    layer: int = -1

    @property
    def group(self) -> str:
        """The namespace where it is a part of the name; a distribution is none."""
        return "" if self.kind in ("deb", "apk", "rpm") else self.namespace

    @property
    def purl(self) -> str:
        """The package URL (purl-spec, PURL-SPECIFICATION.rst)."""
        parts = [part for part in self.namespace.split("/") if part]
        path = "/".join(quote(part, safe=".-_~") for part in (*parts, *self.name.split("/")))
        version = f"@{quote(self.version, safe='.-_~:')}" if self.version else ""
        pairs = sorted((key, value) for key, value in self.qualifiers if value)
        query = "&".join(f"{key}={quote(value, safe='.-_~:/')}" for key, value in pairs)
        return f"pkg:{self.kind}/{path}{version}" + (f"?{query}" if query else "")


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A regular file by its absolute path without links, its digests in hex, and the number of its layer."""

    path: str
    sha1: str
    sha256: str
    layer: int


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """What os-release(5) says."""

    id: str = ""
    version_id: str = ""
    name: str = ""

    @property
    def qualifier(self) -> str:
        """As purls name it: `debian-12`; without a version (unstable) the name alone."""
        return "-".join(part for part in (self.id, self.version_id) if part)


class Materials(msgspec.Struct, frozen=True, kw_only=True):
    """All packages of one image or tree, sorted, with the distribution and what could not be read. `layers` are
    the digests of the layers, lowest first. `files` are owned files that are there, by the paths that
    packages have for them; empty when nobody asked."""

    distribution: Distribution
    packages: tuple[Package, ...]
    unread: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    files: dict[str, File] = {}


def without_files(found: Materials) -> Materials:
    """The packages alone."""
    packages = tuple(msgspec.structs.replace(one, files=()) for one in found.packages)
    return msgspec.structs.replace(found, packages=packages, files={})


def sorted_packages(found: Iterable[Package]) -> tuple[Package, ...]:
    """In the order of purls; the same package told of twice by one file counts once."""
    unique = {(one.purl, one.told_by): one for one in found}
    return tuple(one for _, one in sorted(unique.items()))


def parse_distribution(data: bytes) -> Distribution:
    """os-release(5); lines that are none are passed over."""
    fields: dict[str, str] = {}
    for line in data.decode(errors="replace").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            fields[name] = value.strip().strip("\"'")
    return Distribution(
        id=fields.get("ID", ""),
        version_id=fields.get("VERSION_ID", ""),
        name=fields.get("PRETTY_NAME", ""),
    )


def plain(path: str) -> str:
    """A path as JSON can hold it: bytes that are no UTF-8 as `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first(fields: Mapping[str, str], *names: str) -> str:
    """The first field that says something."""
    return next((fields[name] for name in names if fields.get(name)), "")
