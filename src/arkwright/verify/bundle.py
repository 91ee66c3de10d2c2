"""One file with which anybody verifies a build, without a network: the statement of provenance, contexts, base images.

It is an OCI archive. The first entry of its index is an artifact whose layers are the statement (in-toto, or its signed
envelope) and a tar for each context; the others are the images that the build used. What comes from such a file is
nothing that anybody vouches for: digests are checked when it is read, contexts against the recorded tree digests by
the rebuild, and what the statement does not name is refused.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import msgspec

from arkwright.attest import dsse, statement
from arkwright.attest.keys import PublicKey, SigningKey
from arkwright.attest.provenance import PREDICATE
from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError
from arkwright.images.archives import write_oci_entries
from arkwright.images.destination import open_destination
from arkwright.images.fetch import opened
from arkwright.images.graph import closure, read_document
from arkwright.images.load import read_archive
from arkwright.images.references import describe
from arkwright.layer.entry import Change, Entry
from arkwright.layer.tar_write import write_tar
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Manifest
from arkwright.registry.referrers import make_artifact
from arkwright.sources.unpack import unpack
from arkwright.store.store import Store
from arkwright.verify.claims import Claim
from arkwright.verify.inputs import Inputs
from arkwright.verify.recorded import IMAGES, Recorded, read_recorded
from arkwright.verify.trees import copy_context, kept_times

RECORD_TYPE = "application/vnd.arkwright.record.v1+json"
CONTEXT_TYPE = "application/vnd.arkwright.context.v1.tar"
CONTEXT_NAME = "dev.arkwright.context"
_LIMIT = 64 << 20


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was read: `digest` is that of the first image which it is of, `contexts` are directories."""

    digest: str
    claim: Claim
    contexts: dict[str, str]


def export_record(
    store: Store, recorded: Recorded, inputs: Inputs, path: str, *, signer: SigningKey | None = None,
    with_bases: bool = True, image: Descriptor | None = None,
) -> Descriptor:  # fmt: skip
    """Write a record to a file, with the contexts and, unless told otherwise, the images that the build used; gives
    the artifact's descriptor. `image` is the built one, to be taken along.

    Raises `UserError` `output-not-writable`, `missing-blob`, `reserved-name`, `unreadable-path`.
    """
    content = store.content
    if signer is None:
        data, media_type = recorded.data, statement.STATEMENT_MEDIA_TYPE
    else:
        data, media_type = dsse.sign(recorded.data, [signer]), dsse.ENVELOPE_MEDIA_TYPE
    blobs = [Descriptor(media_type=media_type, digest=content.write(data), size=len(data))]
    with tempfile.TemporaryDirectory(prefix="arkwright-record-") as scratch_path:
        for number, (name, context) in enumerate(sorted(inputs.contexts.items())):
            copy_path = os.path.join(scratch_path, str(number))
            copy_context(context.path, copy_path, context.ignore_lines, os.geteuid(), kept_times)
            blobs.append(_packed(store, copy_path, name))
    subject = Descriptor(
        media_type="application/vnd.oci.image.manifest.v1+json", digest=recorded.digests[0], size=0
    )
    artifact = make_artifact(content, describe(content, subject.digest) or subject, RECORD_TYPE, blobs)
    entries = [msgspec.structs.replace(artifact, artifact_type=RECORD_TYPE)]
    if with_bases and inputs.bases_path:
        entries += [plain(one) for one in Layout.open(inputs.bases_path).index().manifests]
    if image is not None:
        entries.append(plain(image))
    unique = {one.digest: one for one in entries}
    with open_destination(path) as sink:
        write_oci_entries(content, tuple(unique.values()), sink)
    return artifact


@contextmanager
def opened_bundle(store: Store, path: str, keys: Sequence[PublicKey] = ()) -> Iterator[Bundle]:
    """A record from a file, its images and contexts ready to be used.

    Raises `UserError` `invalid-record` and what `images.load.read_archive` raises; `Denied` `unsigned-image`,
    `signature-mismatch`, `statement-altered`, `input-mismatch` for images that the statement does not name.
    """
    with opened(path) as stream:
        first, *others = read_archive(store.content, stream) or (None,)
    if first is None:
        raise _invalid(path, "it is empty")
    document = read_document(store.content, first)
    if not isinstance(document, Manifest) or document.artifact_type != RECORD_TYPE:
        raise _invalid(path, "its first entry is no record")
    claim = _claim(store, document, keys, path)
    recorded = read_recorded(claim.data)
    _check_images(store, recorded, others)
    with tempfile.TemporaryDirectory(prefix="arkwright-record-") as scratch_path:
        contexts = dict(_contexts(store, document, recorded, scratch_path))
        yield Bundle(digest=recorded.digests[0], claim=claim, contexts=contexts)


def _claim(store: Store, document: Manifest, keys: Sequence[PublicKey], path: str) -> Claim:
    for layer in document.layers:
        if layer.media_type == dsse.ENVELOPE_MEDIA_TYPE:
            envelope = _small(store, layer)
            data = dsse.verify(envelope, keys) if keys else dsse.parse(envelope)[1]
            break
        if layer.media_type == statement.STATEMENT_MEDIA_TYPE:
            if keys:
                raise Denied.of(
                    "unsigned-image", f"the record {path} is not signed",
                    hint="`arkwright export-record --sign KEY` signs one",
                    details={"rule": "signature", "evidence": "none"},
                )  # fmt: skip
            data = _small(store, layer)
            break
    else:
        raise _invalid(path, "it has no statement")
    if statement.parse(data).predicate_type != PREDICATE:
        raise _invalid(path, "its statement is no provenance")
    return Claim(data=data, signed=bool(keys))


def _small(store: Store, layer: Descriptor) -> bytes:
    return store.content.read(layer.digest, limit=_LIMIT)


def _check_images(store: Store, recorded: Recorded, entries: Sequence[Descriptor]) -> None:
    """Every image that came along must be one that the statement names."""
    named = set(recorded.digests)
    for source in recorded.sources:
        if source.uri.startswith(IMAGES):
            named |= {
                f"sha256:{source.digest.get('sha256', '')}",
                str(source.annotations.get("manifest", "")),
            }
    for entry in entries:
        if entry.digest not in named:
            raise Denied.of(
                "input-mismatch", f"the record brings the image {entry.digest}, which its statement does not name",
                details={"rule": "input", "evidence": entry.digest},
            )  # fmt: skip
        closure(store.content, entry)


def _contexts(
    store: Store, document: Manifest, recorded: Recorded, scratch_path: str
) -> Iterator[tuple[str, str]]:
    wanted = recorded.local_contexts()
    for number, layer in enumerate(document.layers):
        name = layer.annotations.get(CONTEXT_NAME, "")
        if layer.media_type != CONTEXT_TYPE or name not in wanted:
            continue
        directory = os.path.join(scratch_path, str(number))
        os.mkdir(directory, 0o755)
        with store.content.open(layer.digest) as stream:
            unpack(stream, directory)
        yield name, directory


def _packed(store: Store, root_path: str, name: str) -> Descriptor:
    """A directory as a canonical tar among the blobs."""
    with store.content.ingest() as ingest:
        write_tar(_changes(root_path), ingest.write)
        size = ingest.offset
        digest = ingest.commit()
    return Descriptor(media_type=CONTEXT_TYPE, digest=digest, size=size, annotations={CONTEXT_NAME: name})


def _changes(root_path: str) -> Iterator[Change]:
    """Everything in a directory by name, without owners."""
    links: dict[tuple[int, int], str] = {}
    pending = [""]
    while pending:
        relative = pending.pop()
        path = os.path.join(root_path, relative) if relative else root_path
        status = os.lstat(path)
        mode = stat.S_IMODE(status.st_mode)
        known = links.setdefault((status.st_dev, status.st_ino), relative) if relative else relative
        if stat.S_ISDIR(status.st_mode):
            yield Change(Entry(path=relative, type="dir", mode=mode))
            below = sorted(os.listdir(path), reverse=True)
            pending += [f"{relative}/{name}" if relative else name for name in below]
        elif known != relative:
            yield Change(Entry(path=relative, type="hardlink", link=known))
        elif stat.S_ISLNK(status.st_mode):
            yield Change(Entry(path=relative, type="symlink", mode=0o777, link=os.readlink(path)))
        elif stat.S_ISREG(status.st_mode):
            yield Change(Entry(path=relative, type="file", mode=mode, size=status.st_size), _opener(path))


def _opener(path: str) -> Callable[[], BinaryIO]:
    return lambda: open(path, "rb")


def _invalid(path: str, why: str) -> ArkwrightError:
    return UserError.of("invalid-record", f"{path} is no record of a build: {why}")
