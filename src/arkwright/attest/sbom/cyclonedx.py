"""CycloneDX 1.6 as JSON (cyclonedx.org/docs/1.6/json)."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from arkwright.attest.sbom.model import Materials, Package

PREDICATE = "https://cyclonedx.org/bom"


def encode(materials: Materials, *, name: str, digest: str, created: str, tool: str) -> bytes:
    """The document about the image; parameters as `spdx.encode` has them. The serial number is made from
    the digest, so that the same materials give the same bytes."""
    tool_name, _, tool_version = tool.partition("-")
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {"components": [{"type": "application", "name": tool_name, "version": tool_version}]},
            "component": {
                "bom-ref": digest,
                "type": "container",
                "name": name or digest,
                "version": digest,
                "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
            },
        },
        "components": [*_system(materials), *map(_component, materials.packages)],
        "dependencies": [{"ref": digest, "dependsOn": sorted({_ref(one) for one in materials.packages})}],
    }
    if materials.unread:
        document["metadata"]["properties"] = [
            {"name": "arkwright:not-read", "value": one} for one in materials.unread
        ]
    return msgspec.json.encode(document, order="sorted")


def _system(materials: Materials) -> list[dict[str, Any]]:
    found = materials.distribution
    if not found.id:
        return []
    fields = {
        "type": "operating-system",
        "name": found.id,
        "version": found.version_id,
        "description": found.name,
    }
    return [{key: value for key, value in fields.items() if value}]


def _component(one: Package) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "bom-ref": _ref(one),
        "type": "library",
        "group": one.namespace if one.kind != "deb" else "",
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
        "licenses": [{"license": {"name": text}} for text in one.licences],
        "supplier": {"name": " ".join(one.supplier.split())} if one.supplier else {},
        "externalReferences": [{"type": "website", "url": one.homepage}]
        if one.homepage.startswith(("http://", "https://")) and " " not in one.homepage
        else [],
        "properties": [
            {"name": "arkwright:told-by", "value": f"/{one.told_by}"},
            *([{"name": "arkwright:layer", "value": str(one.layer + 1)}] if one.layer >= 0 else []),
            *([{"name": "arkwright:source", "value": one.source}] if one.source else []),
        ],
        "evidence": {"occurrences": [{"location": path} for path in one.files]} if one.files else {},
    }
    return {key: value for key, value in fields.items() if value not in ("", [], {})}


def _ref(one: Package) -> str:
    """A purl alone is not unique: a package may be there twice."""
    return f"{one.purl}#/{one.told_by}"
