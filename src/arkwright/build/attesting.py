"""What a build attaches to its images: provenance and package lists, as in-toto statements.

By default they are referrers (OCI image specification 1.1, "subject"), and the image keeps its digest. Inline
they stand in one index with the image, in the layout of BuildKit (its docs/attestations/attestation-storage.md):
a manifest of platform unknown/unknown per image, found by annotations. Statements tell times and tiers, so an index
with them is never the same twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from arkwright import __version__
from arkwright.attest import provenance, statement
from arkwright.attest.provenance import BuildFacts
from arkwright.build.request import Attest
from arkwright.build.scans import Scanned
from arkwright.exporters.base import AssembledImage, Output
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import ImageConfig, RootFS, rfc3339
from arkwright.oci.descriptor import (
    CONFIG,
    INDEX,
    MANIFEST,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    Descriptor,
    plain,
)
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.platform import Platform
from arkwright.store.store import Store

# What BuildKit gives as artifact type when it writes them as artifacts (`oci-artifact=true`).
ARTIFACT_TYPE = "application/vnd.docker.attestation.manifest.v1+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
_UNKNOWN = Platform("unknown", "unknown")
_INLINE = ("image", "registry", "oci")

# The facts of the build, for images with these digests.
Describe = Callable[[tuple[str, ...]], BuildFacts]


class Attesting:
    """Makes and attaches what a request asks for. `epoch` is in seconds: the time that package lists tell."""

    def __init__(
        self, wanted: Attest, store: Store, describe: Describe, epoch: int,
        scanned: Mapping[int, Sequence[Scanned]] | None = None,
    ) -> None:  # fmt: skip
        self._scanned = scanned or {}
        self._wanted = wanted
        self._store = store
        self._describe = describe
        self._created = rfc3339(epoch)

    def of(self, output: Output, image: AssembledImage) -> AssembledImage:
        """The image as an output gets it. Raises what `attest.sbom.collect.collect` raises."""
        if not (self._wanted.provenance or self._wanted.sbom):
            return image
        if self._wanted.inline:
            return self._inline(image) if output.type in _INLINE else image
        return msgspec.structs.replace(image, referrers=tuple(self._referrers(image)))

    def _referrers(self, image: AssembledImage) -> Iterator[Descriptor]:
        # That module is of the network, which no cached build loads.
        from arkwright.registry.referrers import make_artifact

        for subject in {one.digest: one for one in (image.root, *image.manifests)}.values():
            blobs = list(self._statements(subject, image))
            if blobs:
                yield make_artifact(self._store.content, subject, ARTIFACT_TYPE, blobs)

    def _inline(self, image: AssembledImage) -> AssembledImage:
        found, extra = self._index(image), []
        for manifest in image.manifests:
            blobs = tuple(self._statements(manifest, image))
            if blobs:
                extra.append(self._attestation_manifest(manifest, blobs))
        index = msgspec.structs.replace(found, manifests=(*found.manifests, *extra))
        root = self._write(INDEX, image_manifest.encode(index))
        root = msgspec.structs.replace(root, annotations=image.root.annotations)
        return AssembledImage(root=root, manifests=image.manifests)

    def _index(self, image: AssembledImage) -> Index:
        """The index of the image; one around it when it has none."""
        document = image_manifest.parse(self._store.content.read(image.root.digest), image.root.media_type)
        if isinstance(document, Index):
            return document
        config = image_config.parse(self._store.content.read(document.config.digest))
        platform = Platform(config.os, config.architecture, config.variant or "")
        only = msgspec.structs.replace(plain(image.root), platform=platform)
        return Index(schema_version=2, media_type=INDEX, manifests=(only,))

    def _attestation_manifest(self, of: Descriptor, blobs: tuple[Descriptor, ...]) -> Descriptor:
        config = ImageConfig(
            architecture="unknown", os="unknown", rootfs=RootFS(diff_ids=tuple(one.digest for one in blobs))
        )
        manifest = Manifest(
            schema_version=2,
            media_type=MANIFEST,
            config=self._write(CONFIG, image_config.encode(config)),
            layers=blobs,
        )
        return msgspec.structs.replace(
            self._write(MANIFEST, image_manifest.encode(manifest)),
            annotations={REFERENCE_DIGEST: of.digest, REFERENCE_TYPE: "attestation-manifest"},
            platform=_UNKNOWN,
        )

    def _statements(self, subject: Descriptor, image: AssembledImage) -> Iterator[Descriptor]:
        for number, one in enumerate(image.manifests if self._wanted.sbom else ()):
            if one.digest == subject.digest:
                yield from self._sboms(subject, self._scanned.get(number, ()))
                break
        if self._wanted.provenance:
            facts = self._describe((subject.digest,))
            yield self._blob(
                statement.encode(provenance.statement(facts, (subject.digest,), facts.mode)),
                provenance.PREDICATE,
            )

    def _sboms(self, subject: Descriptor, scanned: Sequence[Scanned]) -> Iterator[Descriptor]:
        """What generators wrote of the image; else our own list of it, and of each stage and context."""
        from arkwright.attest.sbom import generator, spdx

        written = [one for one in scanned if one.scan.generated]
        for one in written:
            for made in generator.scans(self._store, one.layers, self._wanted.generator):
                yield self._claim(subject, made.predicate_type, made.predicate)
        if not written:
            manifest = image_manifest.parse(self._store.content.read(subject.digest), subject.media_type)
            assert isinstance(manifest, Manifest)
            yield self._claim(subject, spdx.PREDICATE, self._listed(manifest.layers, "", subject.digest))
            for one in scanned:
                yield self._claim(
                    subject, spdx.PREDICATE, self._listed(one.layers, one.scan.name, one.digest)
                )

    def _listed(self, layers: Sequence[Descriptor], name: str, digest: str) -> object:
        from arkwright.attest.sbom import spdx
        from arkwright.attest.sbom.collect import collect

        found = collect(self._store, layers, files=True)
        tool = f"arkwright-{__version__}"
        return msgspec.json.decode(
            spdx.encode(found, name=name, digest=digest, created=self._created, tool=tool)
        )

    def _claim(self, subject: Descriptor, kind: str, predicate: object) -> Descriptor:
        claim = statement.Statement(
            subject=(statement.ResourceDescriptor(digest=statement.digest_set(subject.digest)),),
            predicate_type=kind,
            predicate=predicate,
        )
        return self._blob(statement.encode(claim), kind)

    def _blob(self, data: bytes, predicate: str) -> Descriptor:
        found = self._write(statement.STATEMENT_MEDIA_TYPE, data)
        return msgspec.structs.replace(found, annotations={PREDICATE_TYPE: predicate})

    def _write(self, media_type: str, data: bytes) -> Descriptor:
        return Descriptor(media_type=media_type, digest=self._store.content.write(data), size=len(data))
