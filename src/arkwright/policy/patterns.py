"""Patterns of names: registries with repositories, hosts with paths.

`*` stands for anything within one part of a name, `**` for anything at all. A pattern without a slash is a
whole registry or host. Behind an image's name, `:TAG` is a pattern of tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether a name such as `example.org/dl/a.tar` fits one of the patterns."""
    return any(_expression(_whole(pattern)).fullmatch(name) for pattern in patterns)


def matches_image(patterns: Iterable[str], repository: str, tag: str) -> bool:
    """Whether an image's full name (`docker.io/library/debian`) and tag fit one of the patterns. A
    pattern of tags fits no name without a tag."""
    return any(_fits(pattern, repository, tag) for pattern in patterns)


def matches_value(pattern: str, value: str) -> bool:
    """Whether a value fits a pattern in which `*` is anything."""
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), value, re.DOTALL))


def _fits(pattern: str, repository: str, tag: str) -> bool:
    head, slash, last = pattern.rpartition("/")
    name, colon, tags = last.partition(":") if slash else (last, "", "")
    wanted = _whole(f"{head}{slash}{name}")
    return bool(_expression(wanted).fullmatch(repository)) and (
        not colon or (bool(tag) and matches_value(tags, tag))
    )


def _whole(pattern: str) -> str:
    return pattern if "/" in pattern else f"{pattern}/**"


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.compile(text, re.DOTALL)
