"""Results of vertices: ordered lists of layers, or a tree of the host."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.wire import ready
from arkwright.sources.base import HostTree


class LayeredResult(msgspec.Struct, frozen=True):
    """A tree as layer ids, lowest first; an empty list is the empty tree."""

    layers: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


ready(LayeredResult)


class HostResult(msgspec.Struct, frozen=True):
    """A context of the session, read in place; never recorded as a result.

    What an op reads of it is part of the op's own key, so the name alone stands for it.
    """

    context: str
    tree: HostTree

    def encode(self) -> bytes:
        return b"context:" + self.context.encode()


AnyResult = LayeredResult | HostResult
