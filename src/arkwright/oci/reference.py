"""Image references: `[domain/]path[:tag][@digest]`, normalised as Docker does.

The grammar and the normalisation are those of the distribution project's `reference` package:
a first component with a dot, a colon or an upper-case letter, or `localhost`, is a domain; without
one the domain is `docker.io`, and there a single-component path gets `library/` in front.
"""

from __future__ import annotations

import re

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci.digest import is_digest

DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"
_LEGACY_DOMAIN = "index.docker.io"
_PATH_LIMIT = 255
_TEXT_LIMIT = 1024

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ID = re.compile(r"[a-f0-9]{64}")


class Reference(msgspec.Struct, frozen=True):
    """A normalised reference: registry domain (with port), repository path, tag, digest.

    `tag` and `digest` are "" when absent; with both, the digest decides and the tag informs.
    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository's full name, such as `docker.io/library/debian`."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.name + self._suffix()

    def familiar(self) -> str:
        """The shortest spelling that parses to the same reference, such as `debian:bookworm`."""
        short = self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path
        if self.domain == DEFAULT_DOMAIN and _split_domain(short) == (self.domain, self.path):
            return short + self._suffix()
        return str(self)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str, *, default_tag: str = "latest") -> Reference:
    """Parse and normalise a reference; `default_tag` is taken when neither tag nor digest is there.

    A bare digest or a bare 64-digit id is refused: those name content, not a repository, and the
    caller that accepts them must look for them first (`oci.digest.is_digest`).
    Raises `UserError` `invalid-reference`.
    """
    if len(text) > _TEXT_LIMIT:
        raise _invalid(text[:64] + "…", f"it is longer than {_TEXT_LIMIT} characters")
    if is_digest(text) or _HEX_ID.fullmatch(text):
        raise _invalid(text, "it is an image id, not a repository name")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, f"{digest!r} is not a digest such as sha256:<64 hex digits>")
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag (letters, digits, `_`, `.`, `-`; at most 128)")
    domain, path = _split_domain(rest)
    _check_name(text, domain, path)
    return Reference(domain, path, tag or ("" if digest else default_tag), digest)


def is_short(text: str) -> bool:
    """Whether `text` names no registry, so that Docker would look for it on docker.io."""
    return not _has_domain(text)


def _split_tag(name: str) -> tuple[str, str | None]:
    """Cut a tag off: the part after a colon that stands behind the last slash."""
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, None
    return before, tag


def _has_domain(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)


def _split_domain(name: str) -> tuple[str, str]:
    domain, path = DEFAULT_DOMAIN, name
    if _has_domain(name):
        domain, _, path = name.partition("/")
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _check_name(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is not a registry's host[:port]")
    if not path or path == _OFFICIAL:
        raise _invalid(text, "the repository name is empty")
    if path.lower() != path:
        raise _invalid(text, "a repository name must be lower case", hint=f"write {text.lower()!r}")
    if not _PATH.fullmatch(path):
        raise _invalid(text, f"{path!r} is not a repository name")
    if len(path) > _PATH_LIMIT:
        raise _invalid(text, f"a repository name has at most {_PATH_LIMIT} characters")


def _invalid(text: str, why: str, hint: str | None = None) -> UserError:
    error = UserError.of("invalid-reference", f"{text!r} is not an image reference: {why}", hint=hint)
    assert isinstance(error, UserError)
    return error
