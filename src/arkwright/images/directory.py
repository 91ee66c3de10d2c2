"""Images written as skopeo's `dir:`: a directory of blobs beside a manifest (containers-transports(5))."""

from __future__ import annotations

import os
import re

from arkwright.diagnostics.errors import UserError
from arkwright.images.destination import copy_blob, not_writable, write_whole
from arkwright.images.folders import Report, dir_file
from arkwright.images.graph import closure
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

_VERSION = b"Directory Transport Version: 1.1\n"
# What `write_whole` left when it was killed looks like a blob, and goes with them.
_OURS = re.compile(
    r"(?:[a-z0-9]+-)?[a-f0-9]{64,}(?:\.manifest\.json)?|signature-[0-9]+|[a-f0-9]{64}-signature-[0-9]+"
)


def write_directory(content: ContentStore, root: Descriptor, path: str, report: Report | None = None) -> None:
    """Make `path` hold this image and no other; blobs that it had already are kept.

    The manifest is replaced after the blobs, and what only the image before needed goes last.
    Raises `UserError` `output-not-writable`, `directory-not-empty`, `missing-blob`, `no-space`.
    """
    blobs = closure(content, root)
    try:
        with space_needed(path, path):
            os.makedirs(path, exist_ok=True)
            before = _existing(path)
            write_whole(os.path.join(path, "version"), [_VERSION])
            kept = {dir_file(blob) for blob in blobs if blob.digest != root.digest}
            for blob in blobs:
                if blob.digest != root.digest:
                    copy_blob(content, blob, os.path.join(path, dir_file(blob)))
                if report is not None:
                    report(blob, blob.size, blob.size)
            write_whole(os.path.join(path, "manifest.json"), [content.read(root.digest)])
            for name in before - kept:
                os.unlink(os.path.join(path, name))
    except OSError as error:
        raise not_writable(path, error) from error


def _existing(path: str) -> set[str]:
    """The files of the image that is there. Anything else in the directory is somebody's data."""
    names = set(os.listdir(path))
    images = {name for name in names if _OURS.fullmatch(name)}
    strangers = names - images - {"version", "manifest.json"}
    if strangers or (names and "version" not in names):
        raise UserError.of(
            "directory-not-empty",
            f"{path} holds other files than those of an image, such as {min(strangers or names)!r}",
            hint="name an empty directory, or one that does not exist yet",
        )
    return images
