"""Referrers: what is attached to an image, such as signatures, SBOMs, attestations.

Registries with the referrers API (OCI distribution specification 1.1, "Listing Referrers") keep the list
themselves; for those without, clients keep it in an index with a tag made of the subject's digest
("Referrers Tag Schema").
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, RemoteError, UserError
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.digest import is_digest, parse_digest, sha256
from arkwright.oci.manifest import Index, Manifest, encode, parse
from arkwright.registry.client import MANIFEST_LIMIT, Registry
from arkwright.registry.upload import push_blob
from arkwright.store.content import ContentStore

_EMPTY = b"{}"
_PAGES = 100
_TRIES = 12
_LIST_LIMIT = 32 << 20
_ANSWER_LIMIT = 1 << 16
_NO_API = frozenset({404, 405, 501})
_LINK = re.compile(r'<([^<>]*)>\s*;[^,]*?rel\s*=\s*"?next"?', re.IGNORECASE)

# The threads of this process take turns; between processes the tag may change under our hands.
_turn = threading.Lock()


def list_referrers(
    registry: Registry, digest: str, artifact_type: str | None = None
) -> tuple[Descriptor, ...]:
    """The manifests that refer to a digest, with artifact types and annotations, in the registry's order;
    () when there are none, or no such image. `artifact_type` chooses.

    Raises `UserError` `invalid-digest`; `RemoteError`.
    """
    parse_digest(digest)
    found = _from_api(registry, digest, artifact_type or "")
    if found is None:
        _, document, _ = _read_tag(registry, fallback_tag(digest))
        found = _descriptors(document)
    if artifact_type:
        found = [one for one in found if one.artifact_type == artifact_type]
    return tuple({one.digest: one for one in found}.values())


def make_artifact(
    content: ContentStore,
    subject: Descriptor,
    artifact_type: str,
    blobs: Sequence[Descriptor],
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Write an artifact manifest that refers to `subject` into the store (OCI image specification,
    "Guidelines for Artifact Usage"); its descriptor. Without blobs, the empty one stands for them.

    Raises `UserError` `no-space`.
    """
    empty = Descriptor(media_type=media.EMPTY, digest=content.write(_EMPTY), size=len(_EMPTY))
    manifest = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        artifact_type=artifact_type,
        config=empty,
        layers=tuple(blobs) or (empty,),
        subject=plain(subject),
        annotations=dict(annotations or {}),
    )
    data = encode(manifest)
    return Descriptor(media_type=media.MANIFEST, digest=content.write(data), size=len(data))


def attach(registry: Registry, artifact: Descriptor, content: ContentStore) -> None:
    """Push a manifest of the store that has a subject, with its blobs, and have the registry list it.

    Where the list is a tagged index, others may change it at the same time: the change is conditional
    where the registry knows conditions, and looked after where it does not.
    Raises `UserError` `missing-blob`, `invalid-manifest`; `RemoteError`.
    """
    data = content.read(artifact.digest, limit=MANIFEST_LIMIT)
    document = parse(data, artifact.media_type)
    if document.subject is None:
        raise UserError.of("invalid-manifest", f"{artifact.digest} has no subject, so it refers to nothing")
    if isinstance(document, Manifest):
        for blob in {one.digest: one for one in (document.config, *document.layers)}.values():
            push_blob(registry, blob.digest, blob.size, lambda blob=blob: content.open(blob.digest))  # type: ignore[misc]
    answer = _put(registry, artifact.digest, document.media_type or artifact.media_type, data)
    if answer.header("OCI-Subject") == document.subject.digest:
        return
    if _from_api(registry, document.subject.digest, "") is not None:
        return
    with _turn:
        _add_to_tag(registry, document.subject.digest, _entry(artifact, document))


def fallback_tag(digest: str) -> str:
    """The tag of the index that lists a digest's referrers. Raises `UserError` `invalid-digest`."""
    algorithm, encoded = parse_digest(digest)
    return f"{algorithm[:32]}-{encoded[:64]}"


def _from_api(registry: Registry, digest: str, artifact_type: str) -> list[Descriptor] | None:
    """The list as the registry keeps it; None when it keeps none."""
    query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
    path = registry.url(f"referrers/{digest}{query}")
    found: list[Descriptor] = []
    seen: set[str] = set()
    left = _LIST_LIMIT
    while path and path not in seen and len(seen) < _PAGES:
        seen.add(path)
        try:
            response, data = registry.access.retry(lambda: _get(registry, path, "the referrers", left))  # noqa: B023
        except RemoteError as error:
            if error.details["status"] in _NO_API:
                return None
            raise
        if response.header("Content-Type").partition(";")[0].strip().lower() != media.INDEX:
            # A registry that shows its web page for whatever it does not know.
            return None
        left -= len(data)
        found += _descriptors(_document(registry, response, data))
        following = _LINK.search(response.header("Link"))
        path = registry.server.url(following[1], response.url) if following else ""
    return found


def _get(registry: Registry, path: str, what: str, limit: int = _LIST_LIMIT) -> tuple[Response, bytes]:
    with registry.server.request(
        "GET",
        path,
        scopes=registry.scopes(),
        what=f"{what} of {registry.name}",
        headers={"Accept": media.INDEX},
    ) as response:
        data = response.read(limit + 1)
    if len(data) > limit:
        raise _unusable(registry, response, f"is larger than {_LIST_LIMIT} bytes")
    return response, data


def _document(registry: Registry, response: Response, data: bytes) -> dict[str, Any]:
    """An index as a document, of which nothing is dropped."""
    try:
        if not isinstance(parse(data, media.INDEX), Index):
            raise _unusable(registry, response, "is no index")
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(registry, response, "is no JSON") from error
    except UserError as error:
        raise _unusable(registry, response, error.diagnostics[0].message) from error
    return document


def _unusable(registry: Registry, response: Response, why: str) -> ArkwrightError:
    return remote_error(
        "registry-error",
        f"{registry.name}: the list of referrers {why}",
        method="GET",
        url=response.url,
        retryable=False,
        status=response.status,
    )


def _descriptors(document: dict[str, Any]) -> list[Descriptor]:
    found = msgspec.convert(document.get("manifests") or [], type=list[Descriptor])
    return [one for one in found if is_digest(one.digest)]


def _read_tag(registry: Registry, tag: str) -> tuple[str, dict[str, Any], str]:
    """The digest of the tagged index ("" when there is none), the document, its `ETag`."""
    empty: dict[str, Any] = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": []}
    try:
        response, data = registry.access.retry(
            lambda: _get(registry, registry.path(f"manifests/{tag}"), f"the index {tag}")
        )
    except RemoteError as error:
        if error.code == "registry-not-found":
            return "", empty, ""
        raise
    return sha256(data), _document(registry, response, data), response.header("ETag")


def _entry(artifact: Descriptor, document: Manifest | Index) -> dict[str, Any]:
    artifact_type = document.artifact_type
    if not artifact_type and isinstance(document, Manifest):
        artifact_type = document.config.media_type
    described = Descriptor(
        media_type=document.media_type or artifact.media_type,
        digest=artifact.digest,
        size=artifact.size,
        artifact_type=artifact_type,
        annotations=document.annotations,
    )
    return msgspec.json.decode(msgspec.json.encode(described), type=dict[str, Any])


def _add_to_tag(registry: Registry, subject_digest: str, entry: dict[str, Any]) -> None:
    """Add an entry to the tagged index, and see to it that it stays there."""
    tag, seen_well = fallback_tag(subject_digest), 0
    for attempt in range(_TRIES):
        digest, document, etag = _read_tag(registry, tag)
        if any(one.get("digest") == entry["digest"] for one in document["manifests"] or []):
            # Who read the index before we wrote may still write over it: look again a little later.
            seen_well += 1
            if seen_well == 2 or attempt == 0:
                return
        else:
            seen_well = 0
            document["manifests"] = [*(document["manifests"] or []), entry]
            condition = {"If-Match": etag or f'"{digest}"'} if digest else {"If-None-Match": "*"}
            _put_index(registry, tag, msgspec.json.encode(document, order="sorted"), condition)
        registry.access.clock.sleep(random.uniform(0.05, 0.25))  # noqa: S311
    raise remote_error(
        "referrers-conflict",
        f"{registry.name}: others change the index {tag} over and over; {entry['digest']} is not listed in it",
        method="PUT",
        url=registry.url(f"manifests/{tag}"),
        retryable=True,
    )


def _put_index(registry: Registry, tag: str, data: bytes, condition: dict[str, str]) -> None:
    try:
        _put(registry, tag, media.INDEX, data, condition)
    except RemoteError as error:
        if error.details["status"] != 412:
            raise


def _put(
    registry: Registry, ref: str, media_type: str, data: bytes, more: dict[str, str] | None = None
) -> Response:
    def attempt() -> Response:
        with registry.server.request(
            "PUT",
            registry.path(f"manifests/{ref}"),
            scopes=registry.scopes(push=True),
            what=f"manifest {ref} of {registry.name}",
            headers={"Content-Type": media_type, **(more or {})},
            body=data,
            ok=(200, 201, 202),
        ) as response:
            response.read(_ANSWER_LIMIT)
        return response

    return registry.access.retry(attempt)
