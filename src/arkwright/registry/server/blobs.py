"""Blobs: read, in parts too (RFC 9110, section 14), and deleted."""

from __future__ import annotations

import re

from arkwright.oci.digest import is_digest
from arkwright.registry.server.answers import Answer, Problem, Slice
from arkwright.registry.server.context import Call, unsupported

_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def get_blob(call: Call) -> Answer:
    """GET and HEAD. Raises `Problem`."""
    digest = checked_digest(call.reference)
    if not call.repository.has_blob(digest):
        raise unknown_blob(digest)
    size = call.store.content.size(digest)
    headers = {
        "Content-Type": _OCTETS,
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }
    if f'"{digest}"' in call.request.header("if-none-match"):
        return Answer(status=304, headers=headers)
    part = _part(call, size, f'"{digest}"')
    if part is None:
        status, begin, end = 200, 0, size
    else:
        status, (begin, end) = 206, part
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    if call.heads:
        return Answer(status=status, headers=headers, length=end - begin)
    return Answer(
        status=status, headers=headers, blob=Slice(call.store.content.path(digest), begin, end - begin)
    )


def delete_blob(call: Call) -> Answer:
    """DELETE: the repository forgets the blob, and a clean-up of the store deletes it. Raises `Problem`."""
    digest = checked_digest(call.reference)
    if not call.repository.has_blob(digest):
        raise unknown_blob(digest)
    if call.repository.needs(digest):
        raise unsupported(
            f"an image of the repository needs the blob {digest}: delete that first", "GET, HEAD"
        )
    call.repository.records.remove_blob(call.repository.name, digest)
    return Answer(status=202)


def checked_digest(text: str) -> str:
    """The digest. Raises `Problem` DIGEST_INVALID."""
    if not is_digest(text):
        raise Problem(400, "DIGEST_INVALID", "this is not a digest", detail={"digest": text[:300]})
    return text


def unknown_blob(digest: str) -> Problem:
    """The repository has no such blob."""
    return Problem(404, "BLOB_UNKNOWN", "the repository does not have the blob", detail={"digest": digest})


def _part(call: Call, size: int, etag: str) -> tuple[int, int] | None:
    """First byte and the one after the last of the one range that is asked for; None for the whole.

    Several ranges, and what is no range, count as none asked for. Raises `Problem` 416.
    """
    found = _RANGE.fullmatch(call.request.header("range").replace(" ", ""))
    condition = call.request.header("if-range")
    if found is None or (condition and condition != etag):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if begin >= size:
        raise Problem(
            416, "SIZE_INVALID", f"the blob has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    return begin, end
