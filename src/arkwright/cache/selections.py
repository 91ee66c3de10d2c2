"""What copies take from layers, as digests that are computed once: layers never change."""

from __future__ import annotations

from collections.abc import Sequence

from arkwright.cache.checksum import SCHEME
from arkwright.cache.keys import KeyBuilder
from arkwright.store.metadata import Metadata

# By the topmost layer, "/", and a digest of all layers and of what is taken.
BUCKET = "selections"


def layer_of(key: str) -> str:
    """The layer that a key of the bucket dies with."""
    return key.partition("/")[0]


class Selections:
    """Digests of parts of layered trees, from build to build. Thread-safe.

    Without them, a copy that runs again would read each tree that it was ever made from, to see whether one
    of them was the same.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def get(self, layers: Sequence[str], what: str) -> str | None:
        """The digest of what `what` describes in the tree of `layers`, if it was computed before."""
        found = self._metadata.get(BUCKET, _key(layers, what))
        return None if found is None else found.decode()

    def put(self, layers: Sequence[str], what: str, digest: str) -> None:
        """Keep a digest."""
        self._metadata.put(BUCKET, _key(layers, what), digest.encode())


def _key(layers: Sequence[str], what: str) -> str:
    builder = KeyBuilder("selection of layers").field("digest", SCHEME)
    builder.field("layers", *layers).field("what", what)
    return f"{layers[-1] if layers else ''}/{builder.digest()}"
