"""The source contract: every byte from outside enters a build through here.

`resolve(op)` pins an op: it turns a mutable name into immutable content. Three kinds of source
then give the content in the form that suits them: layers of an image, a tree on the host, or
files to be written into a fresh tree. `tests/sources/sources_suite.py` is the suite that all pass.

Attributes by scheme (values are text; lists are JSON arrays):

- `docker-image`: `resolve-mode` (`default`, `pull`, `never`)
- `local`: `exclude` (list of `.dockerignore` lines), `paths` (list of the only paths needed)
- `http`, `https`: `checksum`, `filename`, `mode` (octal), `uid`, `gid`
- `git`: `ref`, `subdir`, `keep-git-dir`, `checksum`, `submodules`, `mtime`, `fetch-by-commit`
- `oci-layout`: none
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from arkwright.graph.ops import SourceOp
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """A source with nothing left to decide. `key` identifies the content for cache keys (never a
    host path or time); `uri` and `digest` are what provenance records."""

    op: SourceOp
    key: str
    uri: str
    digest: str


class PinnedImage(Pinned, frozen=True, kw_only=True):
    """An image for one platform. `layers` are the blobs, lowest first, with their `diff_ids`."""

    reference: str
    manifest: Descriptor
    config: bytes
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    origin: str = ""


class ImageSource(Protocol):
    """Images, from the local store, a registry or an OCI layout."""

    def pin(self, op: SourceOp, platform: Platform) -> PinnedImage:
        """Resolve to one manifest; fetches manifest and config, no layer.

        Raises `UserError` `unknown-image`, `no-matching-platform`; `RemoteError`.
        """
        ...

    def fetch(self, image: PinnedImage, layer: Descriptor, progress: Progress | None = None) -> None:
        """Make the layer's blob present and verified in the content store."""
        ...


class FileSource(Protocol):
    """Sources that are written into a fresh tree: http and git."""

    def pin(self, op: SourceOp) -> Pinned: ...

    def materialise(self, pinned: Pinned, directory: str) -> None:
        """Write the content below `directory` (an empty directory, root of the tree)."""
        ...

    def time(self, pinned: Pinned) -> int | None:
        """When the content was made, in seconds since 1970; None if the source does not say."""
        ...


class HostTree(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the host, with the `.dockerignore` lines that apply to it.

    `own` says that the build made the directory (an unpacked archive, a checkout). In any other,
    which is the user's, nothing is changed, not even for a moment: open it with `Root`'s `widen`
    set to `own`.
    """

    root: str
    exclude: tuple[str, ...] = ()
    own: bool = False


class Progress(Protocol):
    """Called with bytes done and bytes in all (0 when unknown)."""

    def __call__(self, done: int, total: int) -> None: ...


class Session(Protocol):
    """What the caller's side offers to a build: contexts, secrets, agent sockets.

    A local session reads the host; a remote client can be another implementation.
    """

    def context(self, name: str) -> HostTree:
        """The tree of a `local://` source. Raises `UserError` `unknown-context`."""
        ...

    def secret(self, secret_id: str) -> bytes | None:
        """A secret's value; None when the caller gave none of this id."""
        ...

    def ssh_socket(self, agent_id: str) -> str | None:
        """Path of an agent's socket; None when the caller forwarded none of this id."""
        ...
