"""The list that `arkwright sync` reads: what is to be copied where."""

from __future__ import annotations

from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.places import Place, parse_place
from arkwright.oci.platform import Platform, parse_platform

LIST_LIMIT = 8 << 20
_FIELDS = frozenset({"from", "to", "platform"})


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One image and its destinations; `platform` None is what the command says."""

    source: Place
    targets: tuple[Place, ...]
    platform: Platform | None = None


def parse_pairs(data: bytes, name: str) -> tuple[Pair, ...]:
    """Read lines of `SOURCE DESTINATION...` (`#` begins a comment), or a YAML list of such lists, or of
    mappings with `from`, `to` and `platform`.

    Raises `UserError` `invalid-sync-list`, and what `parse_place` and `parse_platform` raise.
    """
    if len(data) > LIST_LIMIT:
        raise _invalid(name, f"it is larger than {LIST_LIMIT} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _invalid(name, f"it is not UTF-8: {error}") from error
    lines = [_words(line) for line in text.splitlines()]
    first = next((words for words in lines if words), [])
    if first and (first[0] in ("-", "---") or first[0][0] in "[{"):
        return tuple(_item(item, name) for item in _yaml(text, name))
    return tuple(_pair(words, None, f"{name}:{number}") for number, words in enumerate(lines, 1) if words)


def _words(line: str) -> list[str]:
    """A `#` within a word is a part of it."""
    words = line.split()
    end = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:end]


def _yaml(text: str, name: str) -> list[Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise _invalid(name, str(error)) from error
    if not isinstance(found, list):
        raise _invalid(name, "it is not a list")
    return found


def _item(item: Any, name: str) -> Pair:
    if isinstance(item, str):
        item = item.split()
    if isinstance(item, list):
        return _pair(item, None, name)
    if not isinstance(item, dict) or set(item) - _FIELDS or not {"from", "to"} <= set(item):
        raise _invalid(name, f"{item!r} has not the fields from, to and perhaps platform")
    targets = item["to"] if isinstance(item["to"], list) else [item["to"]]
    return _pair([item["from"], *targets], item.get("platform"), name)


def _pair(words: list[Any], platform: Any, where: str) -> Pair:
    if len(words) < 2 or not all(isinstance(word, str) for word in (*words, platform or "")):
        raise _invalid(where, f"{' '.join(map(str, words))!r} is not a source and its destinations")
    source, *targets = words
    return Pair(
        source=parse_place(source),
        targets=tuple(parse_place(target) for target in targets),
        platform=parse_platform(platform) if platform else None,
    )


def _invalid(where: str, why: str) -> ArkwrightError:
    return UserError.of(
        "invalid-sync-list",
        f"{where}: {why}",
        hint="a line is SOURCE DESTINATION..., such as docker://busybox docker://registry.example/busybox",
    )
