"""A bridge that is plain data, and short ways into what a compilation gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import FrontendResult, ResolvedImage
from arkwright.graph.definition import Definition, Vertex
from arkwright.graph.ops import SourceOp
from arkwright.oci.config import Execution, History, ImageConfig, RootFS
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
DIGEST = "sha256:" + "d" * 64
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_config(platform: Platform = AMD64, layers: int = 1, **config: Any) -> ImageConfig:
    """A base image's config with one layer, as a registry would give it."""
    return ImageConfig(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        created="2026-01-01T00:00:00Z",
        config=Execution(**config),
        rootfs=RootFS(diff_ids=("sha256:" + "a" * 64,) * layers),
        history=(History(created_by="base"),) * layers,
    )


class DataBridge:
    """Answers from dictionaries; records what was asked and warned."""

    def __init__(
        self,
        files: dict[str, bytes],
        images: dict[str, ImageConfig],
        contexts: dict[str, str],
        error: ArkwrightError | None,
    ) -> None:
        self.files = files
        self.images = images
        self.contexts = contexts
        self.error = error
        self.asked: list[tuple[str, str]] = []
        self.warnings: list[Diagnostic] = []
        self.times: dict[str, int] = {}
        self.prepared: list[tuple[str, str]] = []

    def solve(self, definition: Definition) -> str:
        raise AssertionError("the front end never solves")

    def resolve_image_config(
        self, name: str, platform: Platform, *, span: Span | None = None
    ) -> ResolvedImage:
        self.asked.append((name, str(platform)))
        if self.error is not None:
            raise self.error
        if name not in self.images:
            raise UserError.of("unknown-image", f"no image {name}")
        config = self.images[name]
        return ResolvedImage(reference=str(parse_reference(name)), digest=DIGEST, config=config)

    def prepare(self, names: Sequence[tuple[str, Platform]]) -> None:
        self.prepared.extend((name, str(platform)) for name, platform in names)

    def read_file(self, reference: str, path: str) -> bytes | None:
        return self.files.get(path) if reference == "dockerfile" else None

    def stat(self, reference: str, path: str) -> tuple[int, int] | None:
        return None

    def read_dir(self, reference: str, path: str) -> list[str]:
        return []

    def source_time(self, op: SourceOp) -> int | None:
        return self.times.get(op.identifier)

    def inputs(self) -> dict[str, str]:
        return self.contexts

    def warn(self, diagnostic: Diagnostic) -> None:
        self.warnings.append(diagnostic)


class Built:
    """The outcome of one compilation, with short ways to its parts."""

    def __init__(self, result: FrontendResult, bridge: DataBridge) -> None:
        self.result = result
        self.bridge = bridge
        self.image = result.images[0]
        self.config = self.image.config
        self.definition = self.image.definition

    @property
    def warnings(self) -> list[str]:
        return [warning.code for warning in self.bridge.warnings]

    def vertices(self, kind: type | None = None) -> list[Vertex]:
        found = [self.definition.vertices[digest] for digest in self.definition.walk()]
        return [vertex for vertex in found if kind is None or isinstance(vertex.op, kind)]

    def ops(self, kind: type) -> list[Any]:
        return [vertex.op for vertex in self.vertices(kind)]

    def op(self, kind: type) -> Any:
        (found,) = self.ops(kind)
        return found

    def target(self) -> Any:
        assert self.definition.target is not None
        return self.definition.vertices[self.definition.target.vertex].op

    def names(self) -> list[str]:
        return [self.definition.describe(digest).name for digest in self.definition.walk()]

    def source(self, prefix: str) -> Any:
        from arkwright.graph.ops import SourceOp

        (found,) = [op for op in self.ops(SourceOp) if op.identifier.startswith(prefix)]
        return found

    def paths(self) -> list[str]:
        import json

        return json.loads(dict(self.source("local://context").attrs)["paths"])

    def history(self) -> list[tuple[str, bool]]:
        return [
            (entry.created_by, entry.empty_layer)
            for entry in self.config.history
            if entry.created_by != "base"
        ]
