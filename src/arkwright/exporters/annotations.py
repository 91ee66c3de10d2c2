"""Annotations as `--annotation` and output attributes spell them.

`[TYPE[PLATFORM]:]KEY`, where TYPE is one or more (comma-separated) of `manifest` (the default),
`index`, `manifest-descriptor`, `index-descriptor`; PLATFORM in brackets restricts the manifest
types. Output attributes: `annotation.KEY`, `annotation-TYPE.KEY`, `annotation[PLATFORM].KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci.platform import Platform, matches, parse_platform

_TYPES = ("manifest", "index", "manifest-descriptor", "index-descriptor")
_TYPE = "|".join(sorted(_TYPES, key=len, reverse=True))
# Compiled by `re` when they are first used.
_PREFIX = rf"(?P<types>(?:{_TYPE})(?:\[[^\]]*\])?(?:,(?:{_TYPE})(?:\[[^\]]*\])?)*):(?P<key>(?s:.+))"
_ONE = rf"({_TYPE})(?:\[([^\]]*)\])?"
_ATTRIBUTE = rf"annotation(?:-(?P<type>{_TYPE}))?(?:\[(?P<platform>[^\]]*)\])?\.(?P<key>(?s:.+))"

_Scoped = tuple[tuple[Platform | None, str, str], ...]


class Annotations(msgspec.Struct, frozen=True, kw_only=True):
    """Annotations by the place where they go."""

    index: dict[str, str] = {}
    index_descriptor: dict[str, str] = {}
    manifest: _Scoped = ()
    manifest_descriptor: _Scoped = ()

    def of_manifest(self, platform: Platform) -> dict[str, str]:
        """What the manifest of a platform carries."""
        return _fitting(self.manifest, platform)

    def of_manifest_descriptor(self, platform: Platform) -> dict[str, str]:
        """What the index says beside the manifest of a platform."""
        return _fitting(self.manifest_descriptor, platform)


def split_annotations(annotations: Mapping[str, str]) -> Annotations:
    """Sort annotations by place.

    Raises `UserError` `invalid-annotation`, `invalid-platform`.
    """
    plain: dict[str, dict[str, str]] = {"index": {}, "index-descriptor": {}}
    scoped: dict[str, list[tuple[Platform | None, str, str]]] = {"manifest": [], "manifest-descriptor": []}
    for text, value in annotations.items():
        match = re.fullmatch(_PREFIX, text)
        key, types = (match["key"], match["types"]) if match else (text, "manifest")
        if not key:
            raise UserError.of("invalid-annotation", f"an annotation needs a key: {text!r}")
        for kind, platform in re.findall(_ONE, types):
            if kind in scoped:
                scoped[kind].append((parse_platform(platform) if platform else None, key, value))
            elif platform:
                raise UserError.of(
                    "invalid-annotation",
                    f"{text!r}: an index is for all platforms",
                    hint=f"write {kind}:{key}",
                )
            else:
                plain[kind][key] = value
    return Annotations(
        index=plain["index"],
        index_descriptor=plain["index-descriptor"],
        manifest=tuple(scoped["manifest"]),
        manifest_descriptor=tuple(scoped["manifest-descriptor"]),
    )


def annotation_attribute(name: str) -> str | None:
    """An output attribute's name as an annotation's (`index:KEY`); None when it is something else."""
    match = re.fullmatch(_ATTRIBUTE, name)
    if match is None:
        return None
    platform = f"[{match['platform']}]" if match["platform"] else ""
    kind = match["type"] or ("manifest" if platform else "")
    return f"{kind}{platform}:{match['key']}" if kind else match["key"]


def _fitting(scoped: _Scoped, platform: Platform) -> dict[str, str]:
    return {key: value for want, key, value in scoped if want is None or matches(platform, want)}
