"""The host's apt sources, reduced to what a base image of one release may use.

Reads both formats of sources.list(5): one-line `.list` files and deb822 `.sources` files. Only
the distribution's own archives pass: a third party's repository, and its key, has no place in a
base image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import msgspec

_POCKETS = ("", "-updates", "-security", "-backports")
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)"
)


class AptSource(msgspec.Struct, frozen=True, kw_only=True):
    """One stanza: the same suites and components at one or more URIs. `signed_by` is the path of a
    keyring on the host, or empty when apt's trusted keys apply."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def read_sources(etc_apt_path: str = "/etc/apt") -> list[AptSource]:
    """The enabled binary sources of a host, in apt's order. Unreadable files count as absent."""
    directory = os.path.join(etc_apt_path, "sources.list.d")
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        names = []
    found = list(parse_list(_read(os.path.join(etc_apt_path, "sources.list"))))
    for name in names:
        if name.endswith(".list"):
            found += parse_list(_read(os.path.join(directory, name)))
        elif name.endswith(".sources"):
            found += _parse_deb822(_read(os.path.join(directory, name)))
    return found


def select(
    sources: Iterable[AptSource], distribution: str, codename: str, host_codename: str
) -> list[AptSource]:
    """The sources of `distribution` (`debian`, `ubuntu`) that serve the release `codename`.

    When the host has none for this release, those for its own release are taken with the
    release's name exchanged: one archive serves all releases.
    """
    own = [source for source in sources if _is_archive(source, distribution)]
    return _of_release(own, codename, codename) or _of_release(own, host_codename, codename)


def render(sources: Iterable[AptSource]) -> str:
    """The sources as deb822 text."""
    stanzas = []
    for source in sources:
        lines = [
            "Types: deb",
            f"URIs: {' '.join(source.uris)}",
            f"Suites: {' '.join(source.suites)}",
            f"Components: {' '.join(source.components)}",
        ]
        if source.signed_by:
            lines.append(f"Signed-By: {source.signed_by}")
        stanzas.append("\n".join(lines) + "\n")
    return "\n".join(stanzas)


def _of_release(sources: list[AptSource], have: str, want: str) -> list[AptSource]:
    suites = {have + pocket: want + pocket for pocket in _POCKETS}
    found = []
    for source in sources:
        fitting = tuple(suites[suite] for suite in source.suites if suite in suites)
        if have and fitting:
            found.append(msgspec.structs.replace(source, suites=fitting))
    return found


def _is_archive(source: AptSource, distribution: str) -> bool:
    """Whether a stanza is the distribution's own archive: signed by its archive key, or, when it
    names no key, served under the archive's usual directory name."""
    if source.signed_by:
        return os.path.basename(source.signed_by).startswith(f"{distribution}-archive")
    return any(uri.rstrip("/").rsplit("/", 1)[-1].startswith(distribution) for uri in source.uris)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def parse_list(text: str) -> Iterator[AptSource]:
    """The entries of a one-line sources list; what is no entry with components is passed over."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.split("#", 1)[0].strip())
        if match is None or not match["components"].strip():
            continue
        options = dict(item.partition("=")[::2] for item in (match["options"] or "").split())
        yield AptSource(
            uris=(match["uri"],),
            suites=(match["suite"],),
            components=tuple(match["components"].split()),
            signed_by=options.get("signed-by", ""),
        )


def _parse_deb822(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        words = {name: tuple(value.split()) for name, value in fields.items()}
        disabled = fields.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without")
        if disabled or "deb" not in words.get("types", ()) or not words.get("components"):
            continue
        signed_by = fields.get("signed-by", "").strip()
        yield AptSource(
            uris=words.get("uris", ()),
            suites=words.get("suites", ()),
            components=words["components"],
            signed_by=signed_by,
        )


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0] in " \t":
            fields[name] = fields.get(name, "") + "\n" + line.strip()
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        fields[name] = value.strip()
    return fields
