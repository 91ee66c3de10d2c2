"""Source ops: images (lazy layers), contexts (read in place), files from HTTP and git."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.layer.stamps import Stamps
from arkwright.ops.result import HostResult, LayeredResult
from arkwright.ops.trees import ImageLayers
from arkwright.snapshot.base import Snapshotter
from arkwright.solver.result import Details, Key, Result
from arkwright.sources.base import FileSource, HostTree, Pinned, PinnedImage


class GivenOperation(ABC):
    """What operations share that have no inputs to look at, and mostly no work: to name the result is enough."""

    slot = False

    @abstractmethod
    def immediate(self) -> Sequence[Result] | None: ...

    @abstractmethod
    def definition_key(self, inputs: Sequence[str]) -> Key: ...

    def operation_key(self) -> str:
        return self.definition_key(()).digest

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        return False

    def content_of(self, number: int, have: Result) -> str | None:
        return None

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        found = self.immediate()
        assert found is not None, "what has work does it"
        return found

    def still_valid(self) -> bool:
        return True

    def details(self) -> Details:
        return {}


class _SourceOperation(GivenOperation):
    """What pinned sources share: a key from the pin."""

    def __init__(self, pin: Callable[[], Pinned]) -> None:
        self._pin = pin

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = self._builder()
        return Key(builder.digest(), builder.fields)

    def _builder(self) -> KeyBuilder:
        return KeyBuilder("source").field("key", self._pin().key)

    def details(self) -> Details:
        pinned = self._pin()
        found = lambda: {pinned.uri: pinned.digest}  # noqa: E731
        return {pinned.key: found, self.definition_key(()).digest: found}


class ImageOperation(_SourceOperation):
    """An image: its layers by name; nothing is fetched before a step or an export needs it."""

    def __init__(self, pin: Callable[[], PinnedImage], layers: ImageLayers, vertex: str) -> None:
        super().__init__(pin)
        self._pin_image = pin
        self._layers = layers
        self._vertex = vertex

    def immediate(self) -> Sequence[Result]:
        return [self._layers.declare(self._pin_image(), self._vertex)]


class ContextOperation(GivenOperation):
    """A context of the session. Its key is its name: users of it digest what they read of it."""

    def __init__(self, name: str, tree: HostTree) -> None:
        self._result = HostResult(name, tree)

    @property
    def tree(self) -> HostTree:
        return self._result.tree

    def immediate(self) -> Sequence[Result]:
        return [self._result]

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = KeyBuilder("context").field("name", self._result.context)
        return Key(builder.digest(), builder.fields)


class FileSourceOperation(_SourceOperation):
    """Files from HTTP or git, written into a tree of their own."""

    def __init__(
        self, source: FileSource, pin: Callable[[], Pinned], snapshotter: Callable[[], Snapshotter],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        super().__init__(pin)
        self._source = source
        self._snapshotter = snapshotter
        self._stamps = stamps

    def _builder(self) -> KeyBuilder:
        builder = super()._builder()
        if self._stamps.key:
            # The files have the time that the source gives, which may be in the image.
            builder.field("timestamps", *self._stamps.key, self._source.time(self._pin()) or 0)
        return builder

    def immediate(self) -> Sequence[Result] | None:
        return None

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        active = self._snapshotter().prepare(())
        try:
            active.fill(lambda directory: self._source.materialise(self._pin(), directory))
        except BaseException:
            active.abort()
            raise
        return [LayeredResult((active.commit().id,))]


class Pins(msgspec.Struct):
    """What was pinned in this build, by vertex digest; carried over the fork into the worker."""

    images: dict[str, PinnedImage] = {}
    files: dict[str, Pinned] = {}
