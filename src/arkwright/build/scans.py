"""The trees that a build which attaches package lists looks at besides its images (see `build.scan_targets`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from arkwright.build.means import Means
from arkwright.cache.blobs import present_blob
from arkwright.layer.profile import Profile
from arkwright.oci.descriptor import Descriptor


class Scan(msgspec.Struct, frozen=True):
    """A tree that is looked at for one image, by its number. `generated` says that a generator has looked: then
    the tree holds what it wrote."""

    image: int
    name: str
    generated: bool = False


class Scanned(msgspec.Struct, frozen=True):
    """A scan with the blobs of its tree."""

    scan: Scan
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """Names the tree: the digest of its layers' digests, a line each."""
        lines = "".join(f"{layer.digest}\n" for layer in self.layers)
        return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def need_blobs(means: Means, trees: Sequence[tuple[str, ...]], profile: Profile) -> bool:
    """Whether a layer of a scan's tree has no blob yet."""
    for layers in trees:
        for name in layers:
            record = means.layers.get(name)
            if record is None or present_blob(record, means.store.content, profile) is None:
                return True
    return False


def make_blobs(means: Means, trees: Sequence[tuple[str, ...]], profile: Profile) -> None:
    """Make or fetch the blobs of the trees. Raises as `cache.blobs.LayerBlobs.get`."""
    for layers in trees:
        for name in layers:
            means.blobs.get(name, profile)


def scanned(
    means: Means, scans: Sequence[Scan], trees: Sequence[tuple[str, ...]], profile: Profile, first: int, count: int
) -> dict[int, list[Scanned]]:  # fmt: skip
    """By the place of an image among `count` from the number `first` on: what was scanned for it."""
    found: dict[int, list[Scanned]] = {}
    for scan, layers in zip(scans, trees, strict=True):
        if first <= scan.image < first + count:
            blobs = tuple(means.blobs.get(name, profile)[1] for name in layers)
            found.setdefault(scan.image - first, []).append(Scanned(scan, blobs))
    return found
