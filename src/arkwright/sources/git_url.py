"""Git URLs as users write them: URLs and `user@host:path`, with BuildKit's fragment and query."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import SourceOp

SCHEMES = frozenset({"http", "https", "ssh", "git", "file"})
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
# user@host:path, git-clone(1), "GIT URLS"; the user is what tells it from a local path.
_SCP = re.compile(
    r"([a-zA-Z0-9_][a-zA-Z0-9_.-]*)@([a-zA-Z0-9][a-zA-Z0-9.-]*):([^?#]+)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL
)
_SWITCHES = ("keep-git-dir", "submodules", "fetch-by-commit")
_MTIMES = ("checkout", "commit")
_TRUE, _FALSE = frozenset({"", "1", "t", "true"}), frozenset({"0", "f", "false"})
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_WHOLE = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Remote(msgspec.Struct, frozen=True):
    """A repository that may be handed to git. `url` may hold userinfo; `shown` never does."""

    url: str
    scheme: str
    shown: str


def parse_git_url(text: str) -> SourceOp | None:
    """The source op of a git URL; None if the text is none.

    Known are `git`, `ssh` and `file` URLs, `http(s)` URLs whose path ends in `.git`, `user@host:path`
    and `github.com/…`; behind them `#REF:SUBDIR`, or `?ref=`, `tag`, `branch`, `subdir`, `commit` or
    `checksum`, `keep-git-dir`, `submodules`, `mtime`, `fetch-by-commit`.
    Raises `UserError` `invalid-git-url`.
    """
    if text.startswith("github.com/"):
        text = "https://" + text
        implicit = True
    else:
        implicit = False
    parts = _split(text)
    if parts is None:
        return None
    scheme, url, path, query, fragment = parts
    if scheme in ("http", "https") and not implicit and not path.endswith(".git"):
        return None
    parse_remote(url)
    attrs = _options(text, query, fragment)
    return SourceOp(identifier=f"git://{url}", attrs=tuple(sorted(attrs.items())))


def parse_remote(url: str) -> Remote:
    """Check that a URL is one that git may be given. Raises `UserError` `invalid-git-url`."""
    parts = _split(url)
    if parts is None or any(char.isspace() or ord(char) < 32 for char in url):
        raise invalid(url, "it is neither a URL that git reads nor user@host:path")
    scheme, plain, path, query, fragment = parts
    if query or fragment:
        raise invalid(url, "the repository itself has no query and no fragment")
    host = "" if scheme == "ssh" and "://" not in plain else urlsplit(plain).netloc.rpartition("@")[2]
    if host.startswith("-") or path.lstrip("/").startswith("-"):
        raise invalid(url, "host and path must not begin with a dash")
    if (scheme == "file") != (not host) and "://" in plain:
        raise invalid(url, "a file URL has no host, and any other has one")
    return Remote(plain, scheme, _shown(plain))


def invalid(text: str, why: str) -> UserError:
    """`invalid-git-url`."""
    error = UserError.of("invalid-git-url", f"{_shown(text)!r} is not a usable git URL: {why}")
    assert isinstance(error, UserError)
    return error


def require_ref(ref: str) -> str:
    """A ref that cannot be taken for an option or a refspec (git-check-ref-format(1)).

    Raises `UserError` `invalid-git-ref`.
    """
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)", ref)
    if not ref or bad or ref.startswith(("-", "/", ".")) or ref.endswith(("/", ".")):
        raise UserError.of("invalid-git-ref", f"{ref!r} is not the name of a git branch, tag or commit")
    return ref


def _split(text: str) -> tuple[str, str, str, str, str] | None:
    """Scheme, URL without query and fragment, path, query, fragment."""
    found = _URL.match(text)
    if found is None:
        scp = _SCP.fullmatch(text)
        if scp is None:
            return None
        return "ssh", f"{scp[1]}@{scp[2]}:{scp[3]}", scp[3], scp[4] or "", scp[5] or ""
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        return None
    if any(ord(char) <= 32 or ord(char) == 127 for char in text):
        # urlsplit would drop line ends without a word.
        raise invalid(text, "it holds a blank or a control character")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise invalid(text, str(error)) from error
    url = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
    return scheme, url, parts.path, parts.query, parts.fragment


def _options(text: str, query: str, fragment: str) -> dict[str, str]:
    ref, _, subdir = fragment.partition(":")
    found = {"ref": ref, "subdir": subdir}
    seen: set[str] = set()
    for key, value in parse_qsl(query, keep_blank_values=True):
        name = "checksum" if key == "commit" else key
        if name in seen:
            raise invalid(text, f"{key} is given twice")
        seen.add(name)
        if name in _SWITCHES:
            found[name] = _switch(text, key, value)
            continue
        if not value:
            raise invalid(text, f"{key} has no value")
        _merge(text, found, name, value)
    if "checksum" in found:
        if not _COMMIT.fullmatch(found["checksum"]):
            raise invalid(text, "a commit is written as 7 or more hexadecimal digits")
        found["ref"] = found["ref"] or found["checksum"]
    if found.get("fetch-by-commit") == "true" and not _WHOLE.fullmatch(found.get("checksum", "")):
        raise invalid(text, "fetch-by-commit needs a whole commit as checksum")
    found["subdir"] = posixpath.normpath("/" + found["subdir"]).strip("/")
    if found["ref"]:
        require_ref(found["ref"])
    return {key: value for key, value in found.items() if value}


def _merge(text: str, found: dict[str, str], name: str, value: str) -> None:
    if name in ("tag", "branch"):
        prefix = "refs/tags/" if name == "tag" else "refs/heads/"
        name, value = "ref", value if value.startswith(prefix) else prefix + value
    if name == "mtime" and value not in _MTIMES:
        raise invalid(text, f"mtime={value} is neither checkout nor commit")
    if name not in ("ref", "subdir", "checksum", "mtime"):
        raise invalid(text, f"{name} is not known here")
    if found.get(name) and found[name] != value:
        raise invalid(text, f"{name} is both {found[name]!r} and {value!r}")
    found[name] = value


def _switch(text: str, key: str, value: str) -> str:
    if value.lower() in _TRUE:
        return "true"
    if value.lower() in _FALSE:
        return "false"
    raise invalid(text, f"{key}={value} is neither true nor false")


def _shown(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)
