"""SPDX 2.3 as JSON (spdx.github.io/spdx-spec/v2.3)."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from arkwright.attest.sbom.model import Materials, Package

PREDICATE = "https://spdx.dev/Document"
_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")


def encode(materials: Materials, *, name: str, digest: str, created: str, tool: str) -> bytes:
    """The document about the image `digest` that goes by `name`. `created` is RFC 3339 with `Z`, `tool` a
    name and version. The same materials give the same bytes: the namespace is made from the digest."""
    packages = [_package(one, number) for number, one in enumerate(materials.packages)]
    root = {
        "SPDXID": "SPDXRef-image",
        "name": name or digest,
        "versionInfo": digest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}],
        "externalRefs": [_reference(f"pkg:oci/{_last(name)}@{digest.replace(':', '%3A')}")],
    }
    texts = {one.licences: _extracted(one.licences) for one in materials.packages if _is_text(one.licences)}
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name or digest,
        "documentNamespace": f"https://arkwright.invalid/spdx/{digest.replace(':', '-')}",
        "creationInfo": {"created": created, "creators": [f"Tool: {tool}"]},
        "documentDescribes": ["SPDXRef-image"],
        "packages": [root, *packages],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-image",
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": one["SPDXID"],
            }
            for one in packages
        ],
    }
    if texts:
        document["hasExtractedLicensingInfos"] = sorted(texts.values(), key=lambda one: str(one["licenseId"]))
    if materials.unread:
        document["comment"] = "not read: " + "; ".join(materials.unread)
    return msgspec.json.encode(document, order="sorted")


def _package(one: Package, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{number}-{_IDENTIFIER.sub('-', f'{one.kind}-{one.name}').strip('-')}",
        "name": "/".join(part for part in (one.namespace, one.name) if part)
        if one.kind != "deb"
        else one.name,
        "versionInfo": one.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": _licence(one.licences),
        "copyrightText": "NOASSERTION",
        "supplier": f"Organization: {_line(one.supplier)}" if one.supplier else "NOASSERTION",
        "externalRefs": [_reference(one.purl)],
        "sourceInfo": f"read from /{one.told_by}" + (f", layer {one.layer + 1}" if one.layer >= 0 else ""),
    }
    if re.match(r"https?://\S+$", one.homepage):
        fields["homepage"] = one.homepage
    return {key: value for key, value in fields.items() if value != ""}


def _licence(licences: tuple[str, ...]) -> str:
    if not licences:
        return "NOASSERTION"
    return str(_extracted(licences)["licenseId"]) if _is_text(licences) else _joined(licences)


def _is_text(licences: tuple[str, ...]) -> bool:
    """Whether it is more than identifiers of the licence list joined by operators: metadata is free text."""
    return bool(licences) and (len(licences) > 1 or licences[0] not in _KNOWN)


def _joined(licences: tuple[str, ...]) -> str:
    return " AND ".join(licences)


def _extracted(licences: tuple[str, ...]) -> dict[str, str]:
    text = _joined(licences)
    identifier = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"licenseId": f"LicenseRef-{identifier}", "extractedText": text, "name": text[:100]}


# Names of the SPDX licence list that packages' metadata uses on their own.
_KNOWN = frozenset(
    [
        "0BSD",
        "AGPL-3.0-only",
        "AGPL-3.0-or-later",
        "Apache-2.0",
        "Artistic-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "EPL-2.0",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "ISC",
        "LGPL-2.1-only",
        "LGPL-2.1-or-later",
        "LGPL-3.0-only",
        "LGPL-3.0-or-later",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "OpenSSL",
        "PSF-2.0",
        "Python-2.0",
        "Ruby",
        "Unlicense",
        "WTFPL",
        "Zlib",
    ]
)


def _reference(purl: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}


def _line(text: str) -> str:
    return " ".join(text.split())


def _last(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0].lower() or "image"
