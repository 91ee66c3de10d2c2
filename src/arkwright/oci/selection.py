"""The manifests below an index: the one for a platform, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci.descriptor import INDEXES, MANIFESTS, REFERENCE_TYPE, Descriptor
from arkwright.oci.manifest import Index, Manifest, parse
from arkwright.oci.platform import Platform, matches, platform_of

_DEPTH = 4

Read = Callable[[Descriptor], bytes]


def select(
    root: Descriptor, document: Manifest | Index, want: Platform, read: Read, name: str
) -> tuple[Descriptor, Manifest]:
    """The manifest for a platform. A root that is a manifest is taken as it is.

    `read` gives the bytes of a manifest, an index or a config. Raises `UserError`
    `no-matching-platform`, `invalid-manifest`, and what `read` raises.
    """
    if isinstance(document, Manifest):
        return root, document
    found = list(_candidates(document, read))
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
    return chosen, manifest_of(chosen, read)


def manifest_of(descriptor: Descriptor, read: Read) -> Manifest:
    """The parsed manifest. Raises `UserError` `invalid-manifest`."""
    document = parse(read(descriptor), descriptor.media_type)
    if not isinstance(document, Manifest):
        raise UserError.of("invalid-manifest", f"{descriptor.digest} is an index, not a manifest")
    return document


def descendants(
    root: Descriptor, document: Manifest | Index, read: Read
) -> Iterator[tuple[Descriptor, Manifest | Index]]:
    """Every manifest and index from `root` down, children before their parent, each once.

    Children of media types that the specification does not know are left out (image-index.md:
    such entries must be ignored). Raises `UserError` `invalid-manifest`.
    """
    yield from _descend(root, document, read, set(), _DEPTH)


def _descend(
    root: Descriptor, document: Manifest | Index, read: Read, seen: set[str], depth: int
) -> Iterator[tuple[Descriptor, Manifest | Index]]:
    if root.digest in seen:
        return
    seen.add(root.digest)
    if isinstance(document, Index):
        _check_depth(depth)
        for child in document.manifests:
            if child.media_type in MANIFESTS | INDEXES and child.digest not in seen:
                inner = parse(read(child), child.media_type)
                yield from _descend(child, inner, read, seen, depth - 1)
    yield root, document


def _candidates(index: Index, read: Read, depth: int = _DEPTH) -> Iterator[tuple[Descriptor, Platform]]:
    _check_depth(depth)
    for child in index.manifests:
        if child.media_type in INDEXES:
            inner = parse(read(child), child.media_type)
            if isinstance(inner, Index):
                yield from _candidates(inner, read, depth - 1)
        elif child.media_type in MANIFESTS and REFERENCE_TYPE not in child.annotations:
            platform = child.platform or _config_platform(child, read)
            if platform is not None and platform.os != "unknown":
                yield child, platform


def _check_depth(depth: int) -> None:
    if not depth:
        raise UserError.of("invalid-manifest", "indexes are nested too deeply")


def _config_platform(child: Descriptor, read: Read) -> Platform | None:
    """The platform that the config names, for an index that names none."""
    try:
        fields = msgspec.json.decode(read(manifest_of(child, read).config))
    except msgspec.DecodeError:
        return None
    return platform_of(fields) if isinstance(fields, dict) and fields.get("architecture") else None
