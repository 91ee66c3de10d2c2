"""Manifests: read, named, deleted.

A tag is a name of the local store. A manifest that is pushed by its digest gets the name
`team/app@sha256:…`, which keeps it, unless something keeps it already: an index that has it, or the
subject that it refers to.
"""

from __future__ import annotations

import hashlib

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest, parse_digest
from arkwright.oci.manifest import Index, Manifest, parse
from arkwright.registry.server.answers import Answer, Problem
from arkwright.registry.server.blobs import checked_digest
from arkwright.registry.server.context import Call, unsupported
from arkwright.registry.server.repository import MANIFEST_LIMIT, TAG, referrer
from arkwright.registry.server.uploads import mismatch

_KNOWN = media.MANIFESTS | media.INDEXES
_MISSING_SHOWN = 50


def get_manifest(call: Call) -> Answer:
    """GET and HEAD. Raises `Problem`."""
    found = _find(call)
    headers = {
        "Content-Type": found.media_type,
        "Docker-Content-Digest": found.digest,
        "ETag": f'"{found.digest}"',
    }
    if f'"{found.digest}"' in call.request.header("if-none-match"):
        return Answer(status=304, headers=headers)
    if call.heads:
        return Answer(status=200, headers=headers, length=call.store.content.size(found.digest))
    # Images of the store that others made may be larger than what we take.
    return Answer(status=200, headers=headers, body=call.store.content.read(found.digest))


def put_manifest(call: Call) -> Answer:
    """PUT: check that all is there, keep the bytes, then name them. Raises `Problem`."""
    if not (is_digest(call.reference) or TAG.fullmatch(call.reference)):
        raise Problem(400, "MANIFEST_INVALID", "the reference is neither a tag nor a digest")
    data = call.body.read(MANIFEST_LIMIT)
    if data is None:
        raise Problem(413, "SIZE_INVALID", f"a manifest has at most {MANIFEST_LIMIT} bytes")
    document, media_type = _parsed(call, data)
    algorithm = parse_digest(call.reference)[0] if is_digest(call.reference) else "sha256"
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if is_digest(call.reference) and digest != call.reference:
        raise mismatch(call.reference, digest)
    if isinstance(document, Manifest):
        _check_blobs(call, document)
    with call.store.content.ingest(expected=digest, size=len(data)) as ingest:
        ingest.write(data)
        ingest.commit()
    descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
    with call.store.metadata.transaction():
        _check_conditions(call)
        _record(call, descriptor, document, data)
    call.shared.depot.settled(call.repository.name)
    headers = {"Location": call.url(f"manifests/{digest}"), "Docker-Content-Digest": digest}
    if document.subject is not None:
        headers["OCI-Subject"] = document.subject.digest
    return Answer(status=201, headers=headers)


def delete_manifest(call: Call) -> Answer:
    """DELETE: by tag, the name; by digest, all names of the repository for it. Raises `Problem`."""
    repository, names = call.repository, call.store.names
    if TAG.fullmatch(call.reference):
        if not names.remove(f"{repository.name}:{call.reference}"):
            raise _unknown(call.reference)
        return Answer(status=202)
    digest = checked_digest(call.reference)
    with call.store.metadata.transaction():
        if repository.find(digest) is None:
            raise _unknown(digest)
        for name in repository.names_of(digest):
            names.remove(name)
        if repository.needs(digest):
            # Raising takes the transaction back.
            raise unsupported(f"an index of the repository needs {digest}: delete that first", "GET, HEAD")
        repository.records.remove_manifest(repository.name, digest)
    return Answer(status=202)


def list_referrers(call: Call) -> Answer:
    """GET of the referrers of a digest. Raises `Problem`."""
    found = call.repository.referrers(checked_digest(call.reference))
    wanted = call.request.query.get("artifactType", "")
    headers = {"Content-Type": media.INDEX}
    if wanted:
        found = [one for one in found if one.artifact_type == wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": found}
    return Answer(status=200, headers=headers, body=msgspec.json.encode(index))


def _find(call: Call) -> Descriptor:
    found = call.repository.find(call.reference)
    if found is None:
        raise _unknown(call.reference)
    return found


def _parsed(call: Call, data: bytes) -> tuple[Manifest | Index, str]:
    stated = call.request.header("content-type").partition(";")[0].strip().lower()
    try:
        document = parse(data, stated if stated in _KNOWN else "")
    except UserError as error:
        raise Problem(400, "MANIFEST_INVALID", error.diagnostics[0].message) from error
    media_type = document.media_type or stated
    if media_type not in _KNOWN or (stated and stated != media_type):
        raise Problem(
            400,
            "MANIFEST_INVALID",
            f"the manifest is of type {media_type or 'unknown'}, and sent as {stated or 'unknown'}; "
            "image manifests and indexes of OCI and of Docker are taken",
        )
    return document, media_type


def _check_blobs(call: Call, manifest: Manifest) -> None:
    """What an image consists of must be there. An index may lack images: so may those of the store."""
    missing: list[Problem] = []
    for blob in {one.digest: one for one in (manifest.config, *manifest.layers)}.values():
        if not call.repository.has_blob(blob.digest):
            if not blob.urls:
                missing.append(_lacks(blob, "the repository does not have the blob"))
        elif call.store.content.size(blob.digest) != blob.size:
            missing.append(_lacks(blob, f"the blob does not have {blob.size} bytes"))
        if len(missing) == _MISSING_SHOWN:
            break
    if missing:
        missing[0].more = tuple(missing[1:])
        raise missing[0]


def _lacks(blob: Descriptor, why: str) -> Problem:
    return Problem(404, "MANIFEST_BLOB_UNKNOWN", why, detail={"digest": blob.digest})


def _check_conditions(call: Call) -> None:
    """RFC 9110, section 13: so that two who change a tag do not undo each other's work."""
    wanted, unwanted = call.request.header("if-match"), call.request.header("if-none-match")
    if not (wanted or unwanted):
        return
    found = call.repository.find(call.reference)
    here = f'"{found.digest}"' if found else ""
    lost = wanted and not (found if wanted == "*" else here and here in wanted)
    taken = unwanted and (found if unwanted == "*" else here and here in unwanted)
    if lost or taken:
        raise Problem(412, "DENIED", f"the tag stands for {found.digest if found else 'nothing'} now")


def _record(call: Call, descriptor: Descriptor, document: Manifest | Index, data: bytes) -> None:
    repository, names = call.repository, call.store.names
    repository.records.add_manifest(repository.name, descriptor)
    if document.subject is not None:
        repository.records.add_referrer(repository.name, document.subject.digest, referrer(data, descriptor))
    if isinstance(document, Index):
        for child in document.manifests:
            names.remove(f"{repository.name}@{child.digest}")
    if not is_digest(call.reference):
        names.set(f"{repository.name}:{call.reference}", descriptor)
    elif not _is_kept(call, descriptor.digest, document):
        names.set(f"{repository.name}@{descriptor.digest}", descriptor)


def _is_kept(call: Call, digest: str, document: Manifest | Index) -> bool:
    """Whether the manifest lives on without a name of its own."""
    subject = document.subject
    if subject is not None and call.repository.find(subject.digest) is not None:
        return True
    return call.repository.needs(digest)


def _unknown(reference: str) -> Problem:
    detail = {"reference": reference[:300]}
    return Problem(404, "MANIFEST_UNKNOWN", "the repository does not have the manifest", detail=detail)
