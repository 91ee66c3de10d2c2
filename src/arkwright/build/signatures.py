"""Signatures of base images, looked for where cosign keeps them, as a policy wants them.

What was found good is kept in the store and checked again at each build: only a signature that is not
here yet needs the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Denied
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import Reference
from arkwright.store.store import Store

BUCKET = "signatures"
_LIMIT = 1 << 20

_Layer = tuple[Descriptor, bytes]


class SignatureCheck:
    """Implements `build.gate.CheckSigned`. The calling process stays without threads: a child asks."""

    def __init__(self, store: Store, *, tls_verify: bool | None) -> None:
        self._store = store
        self._tls_verify = tls_verify

    def __call__(self, reference: Reference, digests: Sequence[str], key_paths: Sequence[str]) -> None:
        """Raises `Denied` `unsigned-image`, `signature-mismatch`, `signature-of-another`; `RemoteError`; and
        what loading a key raises."""
        from arkwright.attest.attach import check_signatures
        from arkwright.attest.keys import load_public

        keys = [load_public(path) for path in key_paths]
        names = {digest: _name(reference, digest) for digest in dict.fromkeys(digests)}
        for digest, name in names.items():
            known = self._store.metadata.get(BUCKET, name)
            if known is not None and _is_good(msgspec.json.decode(known, type=list[_Layer]), digest, keys):
                return
        refused: ArkwrightError | None = None
        for digest, name in names.items():
            layers = self._fetched(reference, digest)
            try:
                check_signatures(iter(layers), digest, keys)
            except Denied as error:
                # That there is none at all says less than why one is not good.
                refused = error if refused is None or refused.code == "unsigned-image" else refused
                continue
            self._store.metadata.put(BUCKET, name, msgspec.json.encode(layers))
            return
        assert refused is not None
        raise refused

    def _fetched(self, reference: Reference, digest: str) -> list[_Layer]:
        from arkwright.build.ahead import apart

        root_path, tls_verify = self._store.root_path, self._tls_verify
        with self._store.metadata.apart():
            data = apart(lambda: _fetch(root_path, reference, digest, tls_verify))
        return msgspec.msgpack.decode(data, type=list[_Layer])


def _is_good(layers: list[_Layer], digest: str, keys: Sequence[object]) -> bool:
    from arkwright.attest.attach import check_signatures

    try:
        check_signatures(iter(layers), digest, keys)  # type: ignore[arg-type]
    except Denied:
        return False
    return True


def _name(reference: Reference, digest: str) -> str:
    return hashlib.sha256(f"{reference.name} {digest}".encode()).hexdigest()


def _fetch(root_path: str, reference: Reference, digest: str, tls_verify: bool | None) -> bytes:
    """All signatures of a digest: among the names of the store, at the tag, and among the referrers."""
    from arkwright.attest import attach
    from arkwright.images.places import Place, in_registry
    from arkwright.registry.access import Access

    home = Reference(domain=reference.domain, path=reference.path)
    with Store.open(root_path) as store, Access(tls_verify=tls_verify) as access:
        local = attach.attached(store, Place(transport="store", text=str(home)), digest, "sig")
        found = _some(local)
        if not found:
            tagged = attach.attached(store, in_registry(home), digest, "sig", access)
            found = _some(chain(tagged, _referrers(store, home, digest, access)))
    return msgspec.msgpack.encode(found)


def _some(layers: Iterator[_Layer]) -> list[_Layer]:
    """As many as a person may have meant to be there."""
    found: list[_Layer] = []
    size = 0
    for layer, data in layers:
        size += len(data)
        if size > _LIMIT:
            break
        found.append((layer, data))
    return found


def _referrers(store: Store, home: Reference, digest: str, access: object) -> Iterator[_Layer]:
    from arkwright.attest.cosign import SIGNATURE_ARTIFACT
    from arkwright.oci import manifest as image_manifest
    from arkwright.registry.client import open_registries
    from arkwright.registry.pull import fetch_blob, fetch_manifest
    from arkwright.registry.referrers import list_referrers

    registries = open_registries(access, home)  # type: ignore[arg-type]
    for one in list_referrers(registries[0], digest, SIGNATURE_ARTIFACT):
        _, data = fetch_manifest(registries, one.digest, store.content, one)
        document = image_manifest.parse(data, one.media_type)
        if not isinstance(document, image_manifest.Manifest):
            continue
        for layer in document.layers:
            if layer.size <= _LIMIT:
                fetch_blob(registries, layer, store.content)
                yield layer, store.content.read(layer.digest, limit=_LIMIT)
