"""Blobs on their way in (distribution specification, "Pushing blobs"): mounted from another repository,
in one request, or in chunks that are resumed."""

from __future__ import annotations

import re

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.oci.digest import is_digest
from arkwright.registry.server.answers import Answer, Problem
from arkwright.registry.server.blobs import checked_digest
from arkwright.registry.server.context import Call
from arkwright.registry.server.repository import Repository
from arkwright.registry.server.uploads import Upload, publish
from arkwright.store.content import Ingest

_ALGORITHMS = ("sha256", "sha512")
_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")


def start_upload(call: Call) -> Answer:
    """POST. Raises `Problem`."""
    query = call.request.query
    if is_digest(query.get("mount", "")):
        mounted = _mount(call, query["mount"], query.get("from", ""))
        if mounted is not None:
            return mounted
    if "digest" in query:
        return _in_one_request(call, checked_digest(query["digest"]))
    algorithm = query.get("digest-algorithm", _ALGORITHMS[0])
    if algorithm not in _ALGORITHMS:
        raise Problem(400, "DIGEST_INVALID", f"the algorithm must be one of {', '.join(_ALGORITHMS)}")
    upload = call.shared.uploads.begin(call.store.content, call.repository.name, algorithm)
    return _state(call, upload, 202)


def get_upload(call: Call) -> Answer:
    """GET: how much arrived. Raises `Problem`."""
    return _state(call, _find(call), 204)


def cancel_upload(call: Call) -> Answer:
    """DELETE. Raises `Problem`."""
    upload = _find(call)
    with upload.taken(call.wire.break_off):
        _forget(call, upload)
    return Answer(status=204)


def patch_upload(call: Call) -> Answer:
    """PATCH: a chunk, or a stream. What arrived before a break stays. Raises `Problem`."""
    upload = _find(call)
    with upload.taken(call.wire.break_off) as ingest:
        _check_range(call, upload)
        _append(call, upload, ingest)
        return _state(call, upload, 202)


def finish_upload(call: Call) -> Answer:
    """PUT: the last chunk, if any, and the digest that all must have. Raises `Problem`."""
    upload = _find(call)
    digest = checked_digest(call.request.query.get("digest", ""))
    with upload.taken(call.wire.break_off) as ingest:
        if call.request.length:
            _check_range(call, upload)
            _append(call, upload, ingest)
        try:
            publish(call.store.content, ingest, digest)
        finally:
            call.shared.uploads.forget(upload)
    return _made(call, digest)


def _find(call: Call) -> Upload:
    return call.shared.uploads.find(call.reference, call.repository.name)


def _mount(call: Call, digest: str, origin: str) -> Answer | None:
    """The blob of another repository, or None to begin an upload instead."""
    repository = call.repository
    try:
        source = Repository(call.store, call.shared.images, origin) if origin else repository
    except Problem:
        return None
    return _made(call, digest) if source.has_blob(digest) else None


def _in_one_request(call: Call, digest: str) -> Answer:
    try:
        with call.store.content.ingest(expected=digest, size=call.request.length) as ingest:
            for block in call.shared.room.counted(call.body):
                ingest.write(block)
            publish(call.store.content, ingest, digest)
    except BaseException:
        call.shared.room.freed()
        raise
    return _made(call, digest)


def _append(call: Call, upload: Upload, ingest: Ingest) -> None:
    try:
        for block in call.shared.room.counted(call.body):
            ingest.write(block)
    except (ArkwrightError, Problem):
        # A part of the block may be written, or there is no room for the rest: nothing could follow.
        _forget(call, upload)
        raise


def _forget(call: Call, upload: Upload) -> None:
    call.shared.uploads.forget(upload)
    call.shared.room.freed()


def _check_range(call: Call, upload: Upload) -> None:
    stated = call.request.header("content-range")
    if not stated:
        return
    found = _RANGE.fullmatch(stated)
    begin, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    in_order = begin == upload.ingest.offset and last >= begin
    if not in_order or call.request.length not in (-1, last - begin + 1):
        raise Problem(
            416,
            "BLOB_UPLOAD_INVALID",
            f"the next chunk begins at byte {upload.ingest.offset}",
            headers=_place(call, upload),
        )


def _state(call: Call, upload: Upload, status: int) -> Answer:
    return Answer(status=status, headers=_place(call, upload))


def _place(call: Call, upload: Upload) -> dict[str, str]:
    # The range ends with the last byte, also when there is none yet: so all registries say it.
    return {
        "Location": call.url(f"blobs/uploads/{upload.id}"),
        "Range": f"0-{max(0, upload.ingest.offset - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


def _made(call: Call, digest: str) -> Answer:
    call.repository.records.add_blob(call.repository.name, digest)
    call.shared.depot.pushed(call.repository.name)
    headers = {"Location": call.url(f"blobs/{digest}"), "Docker-Content-Digest": digest}
    return Answer(status=201, headers=headers)
