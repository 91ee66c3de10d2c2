"""The manifest of one platform, found below an index."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.platform import Platform, matches, platform_of

DOCUMENT_LIMIT = 8 << 20  # bytes
_DEPTH = 4
# Set by BuildKit on the manifests of attestations, whose platform is unknown/unknown.
_REFERENCE_TYPE = "vnd.docker.reference.type"

Read = Callable[[Descriptor], bytes]


def select(root: Descriptor, want: Platform, read: Read, name: str) -> tuple[Descriptor, Manifest]:
    """The manifest for a platform. A root that is a manifest is taken as it is.

    Raises `UserError` `no-matching-platform`, `invalid-manifest`, and what `read` raises.
    """
    document = image_manifest.parse(read(root), root.media_type)
    if isinstance(document, Manifest):
        return root, document
    found = _candidates(document, read, _DEPTH)
    fitting = [item for item in found if matches(item[1], want)]
    if not fitting:
        have = ", ".join(sorted({str(platform) for _, platform in found}))
        raise UserError.of(
            "no-matching-platform",
            f"{name} has no image for {want}",
            hint=f"it has: {have}" if have else "it has no image at all",
        )
    # The variant that was asked for, else the plainest one; the first of equals.
    chosen = min(fitting, key=lambda item: (item[1].variant != want.variant, item[1].variant))[0]
    manifest = image_manifest.parse(read(chosen), chosen.media_type)
    assert isinstance(manifest, Manifest)
    return chosen, manifest


def _candidates(index: Index, read: Read, depth: int) -> list[tuple[Descriptor, Platform]]:
    if not depth:
        raise UserError.of("invalid-manifest", "indexes are nested too deeply")
    found: list[tuple[Descriptor, Platform]] = []
    for child in index.manifests:
        if child.media_type in INDEXES:
            inner = image_manifest.parse(read(child), child.media_type)
            assert isinstance(inner, Index)
            found += _candidates(inner, read, depth - 1)
        elif child.media_type in MANIFESTS and _REFERENCE_TYPE not in child.annotations:
            platform = child.platform or _platform_of(child, read)
            if platform is not None and platform.os != "unknown":
                found.append((child, platform))
    return found


def _platform_of(child: Descriptor, read: Read) -> Platform | None:
    """The platform that the config names, for an index that names none."""
    manifest = image_manifest.parse(read(child), child.media_type)
    assert isinstance(manifest, Manifest)
    try:
        fields = msgspec.json.decode(read(manifest.config))
    except msgspec.DecodeError:
        return None
    return platform_of(fields) if isinstance(fields, dict) and fields.get("architecture") else None
