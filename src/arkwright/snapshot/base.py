"""The snapshot contract: layers as directories, stacked into trees.

A `Layer` record describes one layer directory of the store. A tree is a list of layer ids,
lowest first. An *applied* layer came from a tar blob and its id is a function of the chain below
it (chainID); an *executed* layer was written by a step or a file action and has a random id.
Snapshotters work inside the worker process (see `linux`): views are mounts there, and vanish
with it. `tests/snapshot/snapshot_suite.py` is the suite that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Literal, Protocol

import msgspec

from arkwright.diagnostics.wire import ready
from arkwright.layer.entry import Change
from arkwright.oci.descriptor import Descriptor


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store knows of a layer directory; kept in the metadata bucket `layers`.

    `parents` are the ids that it was made on, lowest first. `diff_id` is empty until the layer
    was first written as a tar. `blobs` maps a compression profile's name to the blob that holds
    the layer under this profile; a base layer has the entry `source`. With `ownership` "records" its tar alone
    says who owns what: it was made without a tree on disk (see `snapshot.virtual`). `unpacked` is false for a
    layer that is known only as a blob. `remote` names the remote cache that says so of an imported
    layer whose blob was not fetched and looked at yet.
    """

    id: str
    parents: tuple[str, ...] = ()
    origin: Literal["executed", "applied", "imported"] = "executed"
    ownership: Literal["native", "records"] = "native"
    unpacked: bool = True
    diff_id: str = ""
    blobs: dict[str, Descriptor] = {}
    remote: str = ""
    created_at: int = 0


ready(Layer)


class Active(Protocol):
    """A writable tree in the making. Exactly one of `commit` and `abort` ends it."""

    @property
    def root(self) -> str:
        """Absolute path of the tree's root directory, valid in the worker and its steps."""
        ...

    def fill(self, write: Callable[[str], None]) -> None:
        """Let `write(directory)` put files into a tree on nothing; they come to belong to 0:0."""
        ...

    def commit(self, *, scrub: Sequence[str] = ()) -> Layer:
        """Make the changes a layer: fsync-safe, recorded in metadata, visible to other processes.

        `scrub` lists absolute paths (a trailing `/*` or `*` is a glob, a directory counts with all
        below) whose changes are dropped, so that the tree below shows through again.
        """
        ...

    def abort(self) -> None:
        """Throw the changes away."""
        ...


class Snapshotter(Protocol):
    """Trees from layers. All methods may be called from several threads."""

    @property
    def name(self) -> str: ...

    def has(self, layer: Layer) -> bool:
        """Whether the layer can be used as it is; else it must be applied first."""
        ...

    def prepare(self, layers: Sequence[str]) -> Active:
        """A writable tree on top of `layers` (unpacked ones only)."""
        ...

    def view(self, layers: Sequence[str]) -> AbstractContextManager[str]:
        """A read-only tree of `layers`; the value is its root.

        Where there are mounts it cannot be written; elsewhere it must not be. Equal lists may give
        the same directory.
        """
        ...

    def apply(self, layers: Sequence[str], layer: Layer, tar: BinaryIO) -> Layer:
        """Unpack an uncompressed layer tar on top of `layers` as `layer.id`.

        If there is a record of this id, its `parents` count instead of `layers`, so that the content
        does not depend on the list in which the layer was met first. On nothing, whiteouts are
        kept: the layer is a difference that will stand on others.
        Idempotent; waits while another thread or process does the same. Raises `UserError` with the
        codes of `layer.apply` for hostile input.
        """
        ...

    def diff(self, layer: Layer) -> Iterator[Change]:
        """The canonical diff of a layer against its parents: sorted, a pure function of both trees and of the
        rule for times: what differs in nothing but a time that the layer would not say is left out.
        """
        ...

    def remove(self, layer_id: str) -> None:
        """Move a layer's directory to the trash; no error if it is not there.

        Only under the store's exclusive lease: nobody asks who else has the layer mounted. A record
        with blobs stays, as not unpacked; another is deleted.
        """
        ...

    def close(self) -> None:
        """Throw away what is kept from one tree for the next."""
        ...
