"""The facts of past builds, kept beside their journals; they go when the journal goes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from arkwright.attest.provenance import BuildFacts
from arkwright.events.journal import journal_path


def facts_path(root_path: str, build: str) -> str:
    """Where the facts of a build are kept in a store."""
    return os.path.join(os.path.dirname(journal_path(root_path, build)), "facts.json")


def keep(root_path: str, facts: BuildFacts) -> None:
    """Write the facts of a build whose journal is there, whole or not at all, readable by the owner only.

    Raises `OSError`.
    """
    path = facts_path(root_path, facts.build)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(f"{path}.partial", flags, 0o600), "wb") as file:
        file.write(msgspec.json.encode(facts))
    os.replace(f"{path}.partial", path)


def read(root_path: str, build: str) -> BuildFacts | None:
    """The facts of a build; None when none were kept, or not by a version that this one reads."""
    try:
        with open(facts_path(root_path, build), "rb") as file:
            return msgspec.json.decode(file.read(), type=BuildFacts)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def of_image(root_path: str, digest: str) -> Iterator[BuildFacts]:
    """The facts of the builds that made an image, the latest first."""
    try:
        builds = os.listdir(os.path.join(root_path, "history"))
    except FileNotFoundError:
        return
    found = [facts for build in builds if (facts := read(root_path, build)) is not None]
    for facts in sorted(found, key=lambda one: (one.finished, one.build), reverse=True):
        if digest in facts.digests():
            yield facts
