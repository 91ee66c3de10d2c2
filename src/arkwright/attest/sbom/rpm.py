"""Packages of rpm: Fedora, Red Hat, SUSE, Amazon Linux, Azure Linux and others."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from arkwright.attest.sbom import rpm_header, rpm_stores, sqlite_table
from arkwright.attest.sbom.model import Distribution, Package
from arkwright.attest.sbom.rpm_header import Header
from arkwright.attest.sbom.scanner import Scanner

LIMIT = 256 << 20
"""A database of a whole desktop is half as large."""

_DIRECTORIES = ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm")
_FILES = ("rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages")
_WANTED = frozenset(f"{directory}/{name}" for directory in _DIRECTORIES for name in _FILES)
# purl-spec, types/rpm: the namespace is the vendor, which os-release names otherwise.
_VENDORS = {"rhel": "redhat"}
# Keys that were imported look like packages.
_KEYS = "gpg-pubkey"
_SOURCE = re.compile(r"(.+)-[^-]+-[^-]+\.(?:no)?src\.rpm")


def _scan(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    for path, data in sorted(files.items()):
        if path.endswith("-wal"):
            continue
        try:
            for blob in _headers(data, files.get(f"{path}-wal", b"")):
                header = Header(blob)
                if header.text(rpm_header.NAME) != _KEYS:
                    yield _package(header, path, distribution)
        except ValueError as error:
            raise ValueError(str(error), path) from error


def _headers(data: bytes, wal: bytes) -> Iterator[bytes]:
    if data.startswith(sqlite_table.MAGIC):
        for row in sqlite_table.rows(data, b"Packages", wal):
            if len(row) < 2 or not isinstance(row[1], bytes):
                raise ValueError("a row without a header")
            yield row[1]
    elif data.startswith(rpm_stores.NDB_MAGIC):
        yield from rpm_stores.ndb(data)
    elif rpm_stores.is_bdb(data):
        yield from rpm_stores.bdb(data)
    else:
        raise ValueError("no database of rpm")


def _package(header: Header, path: str, distribution: Distribution) -> Package:
    name = header.text(rpm_header.NAME)
    if not name:
        raise ValueError("a package without a name")
    epoch, licence = header.number(rpm_header.EPOCH), header.text(rpm_header.LICENSE)
    source = header.text(rpm_header.SOURCE)
    release = header.text(rpm_header.RELEASE)
    match = _SOURCE.fullmatch(source)
    return Package(
        kind="rpm", namespace=_VENDORS.get(distribution.id, distribution.id), name=name,
        version=header.text(rpm_header.VERSION) + (f"-{release}" if release else ""),
        qualifiers=(
            ("arch", header.text(rpm_header.ARCH)), ("distro", distribution.qualifier),
            ("epoch", str(epoch) if epoch else ""),
        ),
        source=match[1] if match else source, licences=(licence,) if licence else (),
        supplier=header.text(rpm_header.VENDOR) or header.text(rpm_header.PACKAGER),
        homepage=header.text(rpm_header.URL), files=header.files(), told_by=path,
    )  # fmt: skip


RPM = Scanner(
    name="rpm",
    wants=_WANTED.__contains__,
    shared=lambda path: posixpath.dirname(path) in _DIRECTORIES,
    limit=LIMIT,
    scan=_scan,
)
