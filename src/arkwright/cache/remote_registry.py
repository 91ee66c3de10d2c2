"""A remote cache at a registry: one small artifact per record, under the tag `TAG-<key>`.

So machines publish without knowing of each other, and who imports reads no more than the records
that it asks for. If the reference itself is an image with records in its config (`type=inline`),
those count too.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

from arkwright.cache.inline import inline_record, inline_records
from arkwright.cache.remote import RECORD_LIMIT, RECORD_TYPE, Opener, Report
from arkwright.cache.remote_layout import record_manifest
from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.retry import RetryPolicy
from arkwright.net.transport import Limits, Transport
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Index, Manifest, encode, parse
from arkwright.oci.reference import parse_reference
from arkwright.registry.access import Access
from arkwright.registry.client import CONFIG_LIMIT, Registry, open_registries
from arkwright.registry.pull import fetch_blob
from arkwright.registry.upload import push_blob

# A cache is worth some patience, not that of a pull: the build waits for its answers.
_POLICY = RetryPolicy(attempts=3, base_s=0.25, cap_s=2.0, retry_after_cap_s=10.0)
_LIMITS = Limits(connect_timeout_s=5.0, timeout_s=10.0)
_PLATFORMS = 16
_ABSENT = "registry-not-found"


class RegistryCache:
    """The records in the repository of `ref`. `push` opens it for writing, where mirrors are not asked."""

    def __init__(self, ref: str, *, tls_verify: bool | None, push: bool = False) -> None:
        self.name = f"registry:{ref}"
        self._reference = parse_reference(ref)
        transport = Transport() if push else Transport(limits=_LIMITS)
        self._access = Access(tls_verify=tls_verify, policy=_POLICY, transport=transport)
        self._push = push
        self._lock = threading.Lock()
        self._registries: tuple[Registry, ...] = ()
        self._inline: dict[str, bytes] | None = None

    def has_record(self, key: str) -> bool:
        return self._main().head_manifest(self._ref(key)) is not None

    def get_record(self, key: str) -> bytes | None:
        found = self._inline_records().get(key)
        return found if found is not None else self._tagged(key)

    def put_record(self, key: str, data: bytes, blobs: Sequence[Descriptor]) -> None:
        config = Descriptor(media_type=RECORD_TYPE, digest=sha256(data), size=len(data))
        self.put_blob(config, lambda: io.BytesIO(data))
        manifest = encode(record_manifest(config, blobs))
        self._main().put_manifest(self._ref(key), media.MANIFEST, manifest)

    def has_blob(self, digest: str) -> bool:
        return self._main().has_blob(digest)

    def put_blob(self, blob: Descriptor, opener: Opener) -> None:
        push_blob(self._main(), blob.digest, blob.size, opener)

    def fetch_blob(self, blob: Descriptor, content: object, report: Report) -> None:
        fetch_blob(self._all(), blob, content, report)  # type: ignore[arg-type]

    def abort(self) -> None:
        self._access.abort()

    def close(self) -> None:
        self._access.close()

    def _ref(self, key: str) -> str:
        return f"{self._reference.tag or 'latest'}-{key.partition(':')[2]}"

    def _all(self) -> tuple[Registry, ...]:
        with self._lock:
            if not self._registries:
                self._registries = open_registries(self._access, self._reference, push=self._push)
                # One look whether the registry is there, not one for every thread.
                self._registries[-1].server.base()
            return self._registries

    def _main(self) -> Registry:
        """The registry itself: mirrors know little of what changes often."""
        return self._all()[-1]

    def _tagged(self, key: str) -> bytes | None:
        document = self._manifest(self._ref(key))
        if not isinstance(document, Manifest) or document.config.media_type != RECORD_TYPE:
            return None
        return self._small(document.config, RECORD_LIMIT)

    def _manifest(self, ref: str) -> Manifest | Index | None:
        try:
            descriptor, data = self._main().get_manifest(ref)
        except RemoteError as error:
            if error.code == _ABSENT:
                return None
            raise
        return parse(data, descriptor.media_type)

    def _small(self, blob: Descriptor, limit: int) -> bytes:
        """A small blob, verified. Raises `UserError` `invalid-cache-record`."""
        if not 0 < blob.size <= limit:
            raise UserError.of("invalid-cache-record", f"{self.name}: {blob.digest} has {blob.size} bytes")
        registry = self._main()

        def attempt() -> bytes:
            with registry.open_blob(blob.digest)[0] as response:
                return response.read(limit + 1)

        data = registry.access.retry(attempt)
        if len(data) != blob.size or sha256(data) != blob.digest:
            raise UserError.of("invalid-cache-record", f"{self.name}: {blob.digest} has another content")
        return data

    def _inline_records(self) -> dict[str, bytes]:
        with self._lock:
            if self._inline is not None:
                return self._inline
        found = self._read_inline()
        with self._lock:
            self._inline = found
        return found

    def _read_inline(self) -> dict[str, bytes]:
        """The records in the config of the image that `ref` names, if it names one."""
        found: dict[str, bytes] = {}
        for manifest in self._images():
            if manifest.config.media_type not in (media.CONFIG, media.DOCKER_CONFIG):
                continue
            config = self._small(manifest.config, CONFIG_LIMIT)
            for key, count in inline_records(config).items():
                record = inline_record(key, count, config, manifest.layers)
                if record is not None:
                    found[key] = record
        return found

    def _images(self) -> list[Manifest]:
        root = self._manifest(self._reference.digest or self._reference.tag or "latest")
        if root is None or isinstance(root, Manifest):
            return [root] if root is not None else []
        children = [one for one in root.manifests if one.media_type in media.MANIFESTS][:_PLATFORMS]
        documents = [self._manifest(one.digest) for one in children]
        return [document for document in documents if isinstance(document, Manifest)]
