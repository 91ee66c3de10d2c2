"""Git URLs as sources of ADD: `URL[?key=value][#ref[:subdir]]`.

The spelling is BuildKit's: `git://` and `ssh://` URLs and `user@host:path` are git; an http(s) URL
is git only if its path ends in `.git`. The query keys are those of the Dockerfile reference.
"""

from __future__ import annotations

import re

import msgspec

from arkwright.frontends.dockerfile import values

_SCP = re.compile(r"[a-zA-Z0-9\-_]+@[a-zA-Z0-9\-.]+:[^?#]*")
_SWITCHES = ("keep-git-dir", "submodules", "fetch-by-commit")
_QUERY = ("ref", "tag", "branch", "subdir", "checksum", "commit", "mtime", *_SWITCHES)
_SCHEMES = ("git", "ssh", "http", "https")


class GitRef(msgspec.Struct, frozen=True, kw_only=True):
    """A repository and what of it; None for switches that the URL does not mention."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    mtime: str = ""
    fetch_by_commit: bool | None = None
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def is_url(text: str) -> bool:
    """Whether a source of ADD is fetched by HTTP or by git."""
    return text.startswith(("http://", "https://")) or is_git(text)


def is_git(text: str) -> bool:
    """Whether a source of ADD names a git repository."""
    if _SCP.match(text):
        return True
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        return False
    if scheme in ("http", "https"):
        return rest.split("#")[0].split("?")[0].endswith(".git")
    return True


def parse_git_ref(text: str) -> GitRef:
    """Read a git URL. Raises `ValueError` with the reason."""
    from urllib.parse import urlsplit, urlunsplit

    if _SCP.match(text):
        body, _, fragment = text.partition("#")
        remote, _, query = body.partition("?")
    else:
        parts = urlsplit(text)
        fragment, query = parts.fragment, parts.query
        remote = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    ref, _, subdir = fragment.partition(":")
    found = _read_query(query)
    ref = _agree("ref", ref, _ref_of(found))
    checksum = _agree("checksum", found.get("checksum", ""), found.get("commit", ""))
    if checksum and not re.fullmatch(r"[0-9a-f]{1,64}", checksum):
        raise ValueError("a commit is written in hexadecimal digits")
    if found.get("mtime", "commit") not in ("checkout", "commit"):
        raise ValueError(f"mtime is {found['mtime']!r}: write checkout or commit")
    return GitRef(
        remote=remote,
        ref=ref or checksum,
        subdir=_agree("subdir", subdir, found.get("subdir", "")),
        checksum=checksum,
        mtime=found.get("mtime", ""),
        fetch_by_commit=_switch(found, "fetch-by-commit"),
        keep_git_dir=_switch(found, "keep-git-dir"),
        submodules=_switch(found, "submodules"),
    )


def _read_query(query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _QUERY:
            raise ValueError(f"unexpected query key {key!r}")
        if key in found:
            raise ValueError(f"the query key {key!r} is given twice")
        if not value and key not in _SWITCHES:
            raise ValueError(f"the query key {key!r} has no value")
        found[key] = value
    return found


def _ref_of(found: dict[str, str]) -> str:
    if "tag" in found and "branch" in found:
        raise ValueError("tag and branch exclude each other")
    ref = found.get("ref", "")
    for key, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if key in found:
            ref = _agree("ref", ref, prefix + found[key].removeprefix(prefix))
    return ref


def _agree(what: str, first: str, second: str) -> str:
    if first and second and first != second:
        raise ValueError(f"{what} is given as {first!r} and as {second!r}")
    return first or second


def _switch(found: dict[str, str], key: str) -> bool | None:
    if key not in found:
        return None
    try:
        return values.parse_bool(found[key]) if found[key] else True
    except ValueError as error:
        raise ValueError(f"{key} is {found[key]!r}: {error}") from error
