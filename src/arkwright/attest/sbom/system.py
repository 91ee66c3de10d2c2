"""Packages of distributions: Debian's dpkg and Alpine's apk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from arkwright.attest.sbom.model import Distribution, Package
from arkwright.attest.sbom.scanner import Scanner, stanzas

_STATUS = "var/lib/dpkg/status"
_STATUS_D = re.compile(r"var/lib/dpkg/status\.d/(?!.*\.md5sums$)[^/]+")
_LIST = re.compile(r"var/lib/dpkg/info/([^/]+)\.list")
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
# deb-copyright's short names end here: what follows is the text.
_LICENCE = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)


def _wants_dpkg(path: str) -> bool:
    if not path.startswith(("var/lib/dpkg/", "usr/share/doc/")):
        return False
    return path == _STATUS or any(one.fullmatch(path) for one in (_STATUS_D, _LIST, _COPYRIGHT))


def _dpkg(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    lists = {match[1]: data for path, data in files.items() if (match := _LIST.fullmatch(path))}
    for path, data in sorted(files.items()):
        if path != _STATUS and not _STATUS_D.fullmatch(path):
            continue
        for fields in stanzas(data):
            if "installed" not in fields.get("status", "install ok installed").split():
                continue
            name, arch = fields.get("package", ""), fields.get("architecture", "")
            if not name:
                raise ValueError("a package without a name", path)
            owned = lists.get(name) or lists.get(f"{name}:{arch}") or b""
            yield Package(
                kind="deb", namespace=distribution.id or "debian", name=name,
                version=fields.get("version", ""),
                qualifiers=(("arch", arch), ("distro", distribution.qualifier)),
                source=fields.get("source", name).partition(" ")[0],
                licences=_licences(files.get(f"usr/share/doc/{name}/copyright", b"")),
                supplier=fields.get("maintainer", ""), homepage=fields.get("homepage", ""),
                files=_paths(owned), told_by=path,
            )  # fmt: skip


def _paths(data: bytes) -> tuple[str, ...]:
    lines = data.decode(errors="replace").splitlines()
    return tuple(line for line in lines if line.startswith("/") and line != "/.")


def _licences(copyright: bytes) -> tuple[str, ...]:
    """The short names of a machine-readable copyright file; others say it in prose only."""
    text = copyright.decode(errors="replace")
    if "copyright-format" not in text.partition("\n\n")[0]:
        return ()
    return tuple(sorted({name.strip() for name in _LICENCE.findall(text)}))


def _apk(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    """apk's own form: one letter, a colon, the value; `F` names a directory, `R` a file in it."""
    for path, data in sorted(files.items()):
        for block in data.decode(errors="replace").split("\n\n"):
            fields: dict[str, str] = {}
            owned: list[str] = []
            directory = ""
            for line in block.splitlines():
                letter, _, value = line.partition(":")
                if letter == "F":
                    directory = value
                elif letter == "R":
                    owned.append("/" + "/".join(part for part in (directory, value) if part))
                else:
                    fields.setdefault(letter, value)
            if not fields:
                continue
            if not fields.get("P"):
                raise ValueError("a package without a name", path)
            yield Package(
                kind="apk", namespace=distribution.id or "alpine", name=fields["P"],
                version=fields.get("V", ""),
                qualifiers=(("arch", fields.get("A", "")), ("distro", distribution.qualifier)),
                source=fields.get("o", ""), licences=(fields["L"],) if fields.get("L") else (),
                supplier=fields.get("m", ""), homepage=fields.get("U", ""),
                files=tuple(owned), told_by=path,
            )  # fmt: skip


DPKG = Scanner(name="dpkg", wants=_wants_dpkg, shared=_STATUS.__eq__, scan=_dpkg)
APK = Scanner(name="apk", wants=_APK.__contains__, shared=_APK.__contains__, scan=_apk)
