"""SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from arkwright.attest.sbom.licences import is_expression
from arkwright.attest.sbom.model import File, Materials, Package, plain

PREDICATE = "https://spdx.dev/Document"
_ROOT = "SPDXRef-image"
_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")


def encode(
    materials: Materials, *, name: str, digest: str, created: str, tool: str, per_layer: bool = False
) -> bytes:
    """The document about the image `digest` that goes by `name`. `created` is RFC 3339 with `Z`, `tool` a
    name and version. With `per_layer` each layer is an element that contains its packages. The same
    materials give the same bytes: the namespace is made from the digest."""
    named = [(one, _package(one, number)) for number, one in enumerate(materials.packages)]
    packages = [_root(name, digest), *(fields for _, fields in named)]
    holders = {-1: _ROOT}
    relationships: list[dict[str, str]] = []
    if per_layer:
        for number, layer in enumerate(materials.layers):
            holders[number] = f"SPDXRef-layer-{number + 1}"
            packages.append(_layer(holders[number], layer))
            relationships.append(_contains(_ROOT, holders[number]))
    relationships += [_contains(holders.get(one.layer, _ROOT), fields["SPDXID"]) for one, fields in named]
    files = {one.path: one for one in materials.files.values()}
    identifiers = {path: f"SPDXRef-file-{number}" for number, path in enumerate(sorted(files))}
    for one, fields in named:
        owned = {found.path: found for path in one.files if (found := materials.files.get(path))}
        if owned:
            fields.update(_verified(owned.values()))
            relationships += [_contains(fields["SPDXID"], identifiers[path]) for path in sorted(owned)]
    texts = {one.licences: _extracted(one.licences) for one in materials.packages if _is_text(one.licences)}
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name or digest,
        "documentNamespace": f"https://arkwright.invalid/spdx/{digest.replace(':', '-')}",
        "creationInfo": {"created": created, "creators": [f"Tool: {tool}"]},
        "documentDescribes": [_ROOT],
        "packages": packages,
        "relationships": relationships,
    }
    if files:
        document["files"] = [_file(files[path], identifiers[path]) for path in sorted(files)]
    if texts:
        document["hasExtractedLicensingInfos"] = sorted(texts.values(), key=lambda one: str(one["licenseId"]))
    if materials.unread:
        document["comment"] = "not read: " + "; ".join(map(plain, materials.unread))
    return msgspec.json.encode(document, order="sorted")


def _root(name: str, digest: str) -> dict[str, Any]:
    return {
        "SPDXID": _ROOT,
        "name": name or digest,
        "versionInfo": digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": _checksums(digest),
        "externalRefs": [_reference(f"pkg:oci/{_last(name)}@{digest.replace(':', '%3A')}")],
    }


def _layer(identifier: str, digest: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "ARCHIVE",
        "checksums": _checksums(digest),
    }


def _checksums(digest: str) -> list[dict[str, str]]:
    algorithm, _, value = digest.partition(":")
    return [{"algorithm": algorithm.upper(), "checksumValue": value}]


def _contains(holder: str, held: str) -> dict[str, str]:
    return {"spdxElementId": holder, "relationshipType": "CONTAINS", "relatedSpdxElement": held}


def _file(one: File, identifier: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "fileName": f".{plain(one.path)}",
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": one.sha1},
            {"algorithm": "SHA256", "checksumValue": one.sha256},
        ],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": f"layer {one.layer + 1}",
    }


def _verified(files: Iterable[File]) -> dict[str, Any]:
    """What a package says whose files are listed (clause 7.9): one digest over all of theirs."""
    sums = "".join(sorted(one.sha1 for one in files))
    code = hashlib.sha1(sums.encode(), usedforsecurity=False).hexdigest()
    return {"filesAnalyzed": True, "packageVerificationCode": {"packageVerificationCodeValue": code}}


def _package(one: Package, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{number}-{_IDENTIFIER.sub('-', f'{one.kind}-{one.name}').strip('-')}",
        "name": "/".join(part for part in (one.group, one.name) if part),
        "versionInfo": one.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": _licence(one.licences),
        "copyrightText": "NOASSERTION",
        "supplier": f"Organization: {_line(one.supplier)}" if one.supplier else "NOASSERTION",
        "externalRefs": [_reference(one.purl)],
        "sourceInfo": f"read from /{plain(one.told_by)}"
        + (f", layer {one.layer + 1}" if one.layer >= 0 else ""),
    }
    if re.match(r"https?://\S+$", one.homepage):
        fields["homepage"] = one.homepage
    return {key: value for key, value in fields.items() if value != ""}


def _licence(licences: tuple[str, ...]) -> str:
    if not licences:
        return "NOASSERTION"
    return str(_extracted(licences)["licenseId"]) if _is_text(licences) else _joined(licences)


def _is_text(licences: tuple[str, ...]) -> bool:
    return bool(licences) and not all(map(is_expression, licences))


def _joined(licences: tuple[str, ...]) -> str:
    return " AND ".join(f"({one})" if len(licences) > 1 and " " in one else one for one in licences)


def _extracted(licences: tuple[str, ...]) -> dict[str, str]:
    text = _joined(licences)
    identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"licenseId": f"LicenseRef-{identifier}", "extractedText": text, "name": text[:100]}


def _reference(purl: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}


def _line(text: str) -> str:
    return " ".join(text.split())


def _last(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0].lower() or "image"
