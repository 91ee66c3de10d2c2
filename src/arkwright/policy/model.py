"""A policy: what may enter a build, as data. What is not allowed is refused."""

from __future__ import annotations

from typing import Literal

import msgspec

from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.oci.digest import sha256
from arkwright.policy.places import Path

Network = Literal["none", "default", "host"]
Security = Literal["sandbox", "insecure"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class ImageRules(_Table, frozen=True):
    """`allow` are patterns of names (see `policy.patterns`); `max_age` such as `90d`; `labels` are NAME or
    NAME=VALUE with `*`; `layouts` lets OCI layouts of this host in."""

    allow: tuple[str, ...] = ()
    digests: bool = False
    max_age: str = ""
    labels: tuple[str, ...] = ()
    layouts: bool = False


class SignatureRule(_Table, frozen=True):
    """Images of these names need a signature by one of the keys (paths of public keys)."""

    names: tuple[str, ...]
    keys: tuple[str, ...]


class UrlRules(_Table, frozen=True):
    """`allow` are patterns of host and path."""

    allow: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("https",)
    checksums: bool = False


class GitRules(_Table, frozen=True):
    """`allow` are patterns of host and path, without `.git`."""

    allow: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("https", "ssh")
    commits: bool = False


class StepRules(_Table, frozen=True):
    """What RUN may have."""

    network: tuple[Network, ...] = ("none",)
    security: tuple[Security, ...] = ("sandbox",)


class InstructionRules(_Table, frozen=True):
    """`forbid`: `NAME`, `NAME --flag[=VALUE]`, `ADD URL`, `ADD GIT`."""

    forbid: tuple[str, ...] = ()


class NameRules(_Table, frozen=True):
    """Patterns of names of images."""

    allow: tuple[str, ...] = ()


class ResultRules(_Table, frozen=True):
    """Labels that a built image must have: NAME or NAME=VALUE with `*`."""

    labels: tuple[str, ...] = ()


class Rules(_Table, frozen=True):
    """The document."""

    version: Literal[1]
    images: ImageRules = ImageRules()
    signatures: tuple[SignatureRule, ...] = ()
    urls: UrlRules = UrlRules()
    git: GitRules = GitRules()
    steps: StepRules = StepRules()
    instructions: InstructionRules = InstructionRules()
    frontends: NameRules = NameRules()
    caches: NameRules = NameRules()
    result: ResultRules = ResultRules()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Rules with their file, and where each stands. `max_age_s` in seconds, 0 for any age."""

    rules: Rules
    file: SourceFile
    places: dict[Path, Span]
    max_age_s: int = 0

    @property
    def digest(self) -> str:
        """Of the file's text."""
        return sha256(self.file.text.encode())

    def place(self, path: Path) -> str:
        """`FILE:LINE:COLUMN` of a rule, of the table that would hold it, or the file alone."""
        while path:
            span = self.places.get(path)
            if span is not None:
                return str(span)
            path = path[:-1]
        return self.file.path


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule said: `rule` by its path, `why` for people, `evidence` what was found."""

    rule: Path
    why: str
    evidence: str
    hint: str = ""
