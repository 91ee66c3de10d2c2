"""Builds of several machines that share results: what ran, and what came from where."""

from __future__ import annotations

import json

from building import Built
from loopback_server import LoopbackRegistry

TRANSFERS = ("cache import", "cache export")
DOCKERFILE = """\
FROM busybox AS tools
RUN echo tool > /tool
RUN echo unused > /unused
FROM busybox
COPY f /f
COPY --from=tools /tool /tool
RUN cat /f /tool > /both
RUN echo last > /last
"""
FILES = {"Dockerfile": DOCKERFILE, "f": "content\n"}


def ran(built: Built) -> list[str]:
    """The steps that were run; transfers of a cache are none."""
    groups = {one.vertex: one.group for one in built.events if type(one).__name__ == "Declared"}  # type: ignore[union-attr]
    return [
        built.names[one.vertex]  # type: ignore[union-attr]
        for one in built.events
        if type(one).__name__ == "Started" and groups[one.vertex] not in TRANSFERS  # type: ignore[union-attr]
    ]


def fetched(built: Built) -> list[str]:
    """The layers that were brought from a remote cache, by name."""
    return [name for name in built.having("Started") if name.startswith("importing layer")]


def origins(built: Built) -> set[str]:
    return {one.origin for one in built.events if type(one).__name__ == "CacheHit"}  # type: ignore[union-attr]


def warnings(built: Built) -> list[str]:
    """The codes of warnings about caches."""
    codes = [one.diagnostic.code for one in built.events if type(one).__name__ == "Warning"]  # type: ignore[union-attr]
    return [code for code in codes if "cache" in code]


def ref(server: LoopbackRegistry, name: str = "cache:main") -> str:
    return f"{server.host}/{name}"


def records(server: LoopbackRegistry) -> set[str]:
    """The tags of the records at a registry."""
    return {
        name for name in server.manifests if name.startswith("main-") and "results" in _document(server, name)
    }


def layer_blobs(server: LoopbackRegistry) -> dict[str, str]:
    """The blobs of layers at a registry, with their media types."""
    found = [json.loads(server.manifests[name][1])["layers"] for name in records(server)]
    return {one["digest"]: one["mediaType"] for layers in found for one in layers}


def _document(server: LoopbackRegistry, name: str) -> dict[str, object]:
    digest = json.loads(server.manifests[name][1])["config"]["digest"]
    return json.loads(server.blobs[digest])
