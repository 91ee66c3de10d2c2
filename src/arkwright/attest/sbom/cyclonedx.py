"""CycloneDX 1.6 as JSON (cyclonedx.org/docs/1.6/json)."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from arkwright.attest.sbom.licences import KNOWN, is_expression
from arkwright.attest.sbom.model import Materials, Package, plain

PREDICATE = "https://cyclonedx.org/bom"


def encode(
    materials: Materials, *, name: str, digest: str, created: str, tool: str, per_layer: bool = False
) -> bytes:
    """The document about the image; parameters as `spdx.encode` has them. The serial number is made from
    the digest, so that the same materials give the same bytes."""
    packages = _by_layer(materials) if per_layer else list(map(_component, materials.packages))
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
        "components": [*_system(materials), *packages],
        "dependencies": [{"ref": digest, "dependsOn": sorted({_ref(one) for one in materials.packages})}],
    }
    if materials.unread:
        document["metadata"]["properties"] = [
            {"name": "arkwright:not-read", "value": plain(one)} for one in materials.unread
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


def _by_layer(materials: Materials) -> list[dict[str, Any]]:
    """Each layer as a component that holds its packages; what has no layer stands beside them."""
    held: dict[int, list[dict[str, Any]]] = {}
    for one in materials.packages:
        held.setdefault(one.layer, []).append(_component(one))
    layers = []
    for number, digest in enumerate(materials.layers):
        algorithm, _, value = digest.partition(":")
        fields: dict[str, Any] = {
            "bom-ref": f"layer-{number + 1}",
            "type": "container",
            "name": digest,
            "hashes": [{"alg": algorithm.upper().replace("SHA", "SHA-"), "content": value}],
        }
        if number in held:
            fields["components"] = held[number]
        layers.append(fields)
    return [*layers, *held.get(-1, ())]


def _licences(licences: tuple[str, ...]) -> list[dict[str, Any]]:
    if len(licences) == 1 and licences[0] not in KNOWN and is_expression(licences[0]):
        return [{"expression": licences[0]}]
    return [{"license": {"id" if text in KNOWN else "name": text}} for text in licences]


def _component(one: Package) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "bom-ref": _ref(one),
        "type": "library",
        "group": one.group,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
        "licenses": _licences(one.licences),
        "supplier": {"name": " ".join(one.supplier.split())} if one.supplier else {},
        "externalReferences": [{"type": "website", "url": one.homepage}]
        if one.homepage.startswith(("http://", "https://")) and " " not in one.homepage
        else [],
        "properties": [
            {"name": "arkwright:told-by", "value": f"/{plain(one.told_by)}"},
            *([{"name": "arkwright:layer", "value": str(one.layer + 1)}] if one.layer >= 0 else []),
            *([{"name": "arkwright:source", "value": one.source}] if one.source else []),
        ],
        "evidence": {"occurrences": [{"location": path} for path in map(plain, one.files)]}
        if one.files
        else {},
    }
    return {key: value for key, value in fields.items() if value not in ("", [], {})}


def _ref(one: Package) -> str:
    """A purl alone is not unique: a package may be there twice."""
    return f"{one.purl}#/{plain(one.told_by)}"
