"""Packages of programming languages, by the metadata that their installers leave."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from typing import Any

import msgspec

from arkwright.attest.sbom.model import Distribution, Package
from arkwright.attest.sbom.scanner import Scanner

_PYTHON = re.compile(r"(?:.*/)?[^/]+(?:\.dist-info/(?:METADATA|RECORD)|\.egg-info/PKG-INFO|\.egg-info)")
_NODE = re.compile(r"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@][^/]*/package\.json")
_GEM = re.compile(r"(?:.*/)?specifications/(?:default/)?[^/]+\.gemspec")
_COMPOSER = re.compile(r"(?:.*/)?vendor/composer/installed\.json")
_CLASSIFIER = "License :: "
_GEM_FIELD = re.compile(r"^[ \t]*s\.(name|version|homepage|licenses|authors)\s*=\s*(.+)$", re.MULTILINE)
_RUBY_TEXT = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'")


def _python(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    """Core metadata (packaging.python.org), and RECORD for the files."""
    for path, data in sorted(files.items()):
        directory, name = posixpath.split(path)
        if name == "RECORD":
            continue
        said = HeaderParser().parsestr(data.decode(errors="replace"))
        if not said.get("Name"):
            raise ValueError("metadata without a name", path)
        record = files.get(f"{directory}/RECORD", b"") if name == "METADATA" else b""
        stated = said.get("License-Expression") or said.get("License") or ""
        named = [
            str(one).rpartition(" :: ")[2]
            for one in said.get_all("Classifier", [])
            if str(one).startswith(_CLASSIFIER)
        ]
        yield Package(
            kind="pypi", name=re.sub(r"[-_.]+", "-", str(said["Name"])).lower(), version=str(said.get("Version", "")),
            # Some put the whole text where the name belongs.
            licences=(str(stated),) if stated and len(str(stated)) < 200 else tuple(sorted(named)),
            supplier=str(said.get("Author-email") or said.get("Author") or ""),
            homepage=str(said.get("Home-page") or ""),
            files=_recorded(record, directory), told_by=path,
        )  # fmt: skip


def _recorded(record: bytes, directory: str) -> tuple[str, ...]:
    base = posixpath.dirname(directory)
    rows = csv.reader(io.StringIO(record.decode(errors="replace")))
    try:
        paths = [posixpath.normpath(posixpath.join("/", base, row[0])) for row in rows if row and row[0]]
    except csv.Error as error:
        raise ValueError(str(error), f"{directory}/RECORD") from error
    return tuple(path if path[:2] != "//" else path[1:] for path in paths)


def _node(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    for path, data in sorted(files.items()):
        fields = _json(path, data)
        scope, slash, name = str(fields.get("name", "")).rpartition("/")
        if not name or not fields.get("version"):
            # Directories of a package may hold a package.json that only says how to load them.
            continue
        licence = fields.get("license")
        yield Package(
            kind="npm", namespace=scope if slash else "", name=name, version=str(fields["version"]),
            licences=tuple(_node_licences(licence if licence is not None else fields.get("licenses"))),
            supplier=_person(fields.get("author")) or _first_person(fields.get("maintainers")),
            homepage=str(fields.get("homepage") or ""), home=posixpath.dirname(path), told_by=path,
        )  # fmt: skip


def _node_licences(said: Any) -> Iterator[str]:
    for one in said if isinstance(said, list) else [said]:
        text = one.get("type") if isinstance(one, dict) else one
        if isinstance(text, str) and text:
            yield text


def _person(said: Any) -> str:
    """npm's people: text, or an object with name and email."""
    if isinstance(said, dict):
        name, email = str(said.get("name") or ""), str(said.get("email") or "")
        return f"{name} <{email}>" if name and email else name or email
    return said if isinstance(said, str) else ""


def _first_person(said: Any) -> str:
    return _person(said[0]) if isinstance(said, list) and said else ""


def _gem(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    """The specifications that `gem install` writes: Ruby, of which only plain assignments are read."""
    for path, data in sorted(files.items()):
        fields: dict[str, list[str]] = {}
        for name, value in _GEM_FIELD.findall(data.decode(errors="replace")):
            fields.setdefault(name, [double or single for double, single in _RUBY_TEXT.findall(value)])
        if not next(iter(fields.get("name", ())), ""):
            raise ValueError("a specification without a name", path)
        yield Package(
            kind="gem", name=fields["name"][0], version=next(iter(fields.get("version", [])), ""),
            licences=tuple(fields.get("licenses", ())), supplier=", ".join(fields.get("authors", ())),
            homepage=next(iter(fields.get("homepage", [])), ""), home=_gem_home(path), told_by=path,
        )  # fmt: skip


def _gem_home(path: str) -> str:
    """Beside `specifications` is `gems`, where each has a directory of the specification's name."""
    base, _, name = path.removesuffix(".gemspec").rpartition("specifications/")
    return f"{base}gems/{name.removeprefix('default/')}"


def _composer(files: Mapping[str, bytes], distribution: Distribution) -> Iterator[Package]:
    for path, data in sorted(files.items()):
        document = _json(path, data, wanted=(dict, list))
        installed = _listed(document.get("packages")) if isinstance(document, dict) else document
        for one in installed:
            namespace, _, name = (
                str(one.get("name", "")).rpartition("/") if isinstance(one, dict) else ("", "", "")
            )
            if not name:
                raise ValueError("a package without a name", path)
            people = [_person(person) for person in _listed(one.get("authors"))]
            yield Package(
                kind="composer", namespace=namespace, name=name, version=str(one.get("version", "")),
                licences=tuple(_node_licences(one.get("license"))), supplier=", ".join(filter(None, people)),
                homepage=str(one.get("homepage") or ""), home=_composer_home(path, one), told_by=path,
            )  # fmt: skip


def _composer_home(path: str, said: Any) -> str:
    """Version 2 says where a package is; before, it was in the directory of its name."""
    vendor = posixpath.dirname(posixpath.dirname(path))
    stated = said.get("install-path") or f"../{said['name']}"
    home = posixpath.normpath(posixpath.join(vendor, "composer", str(stated)))
    return home if home.startswith(f"{vendor}/") else ""


def _listed(said: Any) -> list[Any]:
    return said if isinstance(said, list) else []


def _json(path: str, data: bytes, wanted: tuple[type, ...] = (dict,)) -> Any:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error), path) from error
    if not isinstance(found, wanted):
        raise ValueError("not what its name promises", path)
    return found


def _fits(pattern: re.Pattern[str], ending: str) -> Any:
    # The pattern is asked last: most files of an image end otherwise.
    return lambda path: path.endswith(ending) and pattern.fullmatch(path) is not None


def _fits_composer(path: str) -> bool:
    return path.endswith("/installed.json") and _COMPOSER.fullmatch(path) is not None


PYTHON = Scanner(
    name="python",
    wants=lambda path: (
        path.endswith(("/METADATA", "/RECORD", "-info/PKG-INFO", ".egg-info"))
        and _PYTHON.fullmatch(path) is not None
    ),
    scan=_python,
)
NODE = Scanner(name="node", wants=_fits(_NODE, "/package.json"), scan=_node)
GEM = Scanner(name="gem", wants=_fits(_GEM, ".gemspec"), scan=_gem)
COMPOSER = Scanner(name="composer", wants=_fits_composer, shared=_fits_composer, scan=_composer)
