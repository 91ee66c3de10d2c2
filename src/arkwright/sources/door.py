"""The door for bytes from outside: every source is asked about before it is, and shown when it is pinned."""

from __future__ import annotations

from typing import Protocol

import msgspec

from arkwright.graph.ops import SourceOp
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.sources.base import FileSource, ImageSource, Pinned, PinnedImage, Progress


class Door(Protocol):
    """Who decides what comes in."""

    @property
    def narrow(self) -> bool:
        """Whether a source may lead only to places that `reach` allows."""
        ...

    def admit(self, op: SourceOp, platform: Platform | None = None) -> SourceOp:
        """Before anything is contacted: the op to resolve in the place of this one, which may be pinned.

        Raises `Denied`, `UserError`.
        """
        ...

    def reach(self, url: str, *, is_git: bool = False) -> None:
        """Before a source leads on to another place: a redirection, a submodule. Raises `Denied`."""
        ...

    def may_ask(self, origin: str) -> bool:
        """Whether another place that is known to have a layer may be asked for it."""
        ...

    def inspect(self, op: SourceOp, pinned: Pinned, platform: Platform | None = None) -> None:
        """What an op, as it was asked for, was pinned to; before anything of it is used.

        Raises `Denied`, `UserError`.
        """
        ...


class OpenDoor:
    """Lets everything in."""

    narrow = False

    def admit(self, op: SourceOp, platform: Platform | None = None) -> SourceOp:
        return op

    def reach(self, url: str, *, is_git: bool = False) -> None:
        return

    def may_ask(self, origin: str) -> bool:
        return True

    def inspect(self, op: SourceOp, pinned: Pinned, platform: Platform | None = None) -> None:
        return


class GuardedImages:
    """An `ImageSource` behind a door; `door` may be replaced as long as nothing was asked for."""

    def __init__(self, images: ImageSource) -> None:
        self._images = images
        self.door: Door = OpenDoor()

    def pin(self, op: SourceOp, platform: Platform) -> PinnedImage:
        """Raises what the door and the source raise."""
        admitted = self.door.admit(op, platform)
        pinned = as_asked(op, self._images.pin(admitted, platform))
        self.door.inspect(op, pinned, platform)
        return pinned

    def fetch(self, image: PinnedImage, layer: Descriptor, progress: Progress | None = None) -> None:
        self._images.fetch(image, layer, progress)


class GuardedFiles:
    """A `FileSource` behind a door."""

    def __init__(self, source: FileSource, door: Door) -> None:
        self._source = source
        self._door = door

    def pin(self, op: SourceOp) -> Pinned:
        """Raises what the door and the source raise."""
        pinned = self._source.pin(self._door.admit(op))
        self._door.inspect(op, pinned)
        return pinned

    def materialise(self, pinned: Pinned, directory: str) -> None:
        self._source.materialise(pinned, directory)

    def time(self, pinned: Pinned) -> int | None:
        return self._source.time(pinned)


def as_asked(op: SourceOp, pinned: PinnedImage) -> PinnedImage:
    """The image under the name that it was asked for, if only the digest came from elsewhere: what is made
    of it must not depend on who said the digest."""
    if "@" in op.identifier or "@" not in pinned.reference:
        return pinned
    return msgspec.structs.replace(
        pinned, reference=pinned.reference.partition("@")[0], uri=pinned.uri.partition("@")[0]
    )
