"""What a build that attaches package lists looks at besides its images: stages and the context, as
BUILDKIT_SBOM_SCAN_STAGE and BUILDKIT_SBOM_SCAN_CONTEXT ask for (BuildKit: docs/attestations/sbom.md), and who looks.

Each is one more target of the build, behind those of the images: so it is solved with them, cached as they are,
and nothing is run twice. A stage that the image does not need is never built for its list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from arkwright.attest.sbom.generator import CORE
from arkwright.build.means import Means
from arkwright.build.request import Attest
from arkwright.build.scans import Scan
from arkwright.frontends.base import FrontendImage, FrontendRequest, FrontendResult
from arkwright.graph import state as graph
from arkwright.graph.definition import Definition, Edge
from arkwright.graph.state import State
from arkwright.oci import config as image_config
from arkwright.oci.config import ImageConfig
from arkwright.oci.platform import host_platform

_STAGE, _CONTEXT = "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SBOM_SCAN_CONTEXT"


def scans_of(
    wanted: Attest, targets: Sequence[tuple[FrontendRequest, FrontendResult]], means: Means
) -> tuple[tuple[Scan, ...], tuple[FrontendImage, ...]]:
    """The scans, and a target for each. Raises what `containers.pinned_image` raises, and `UserError`
    `no-command`."""
    scans: list[Scan] = []
    found: list[FrontendImage] = []
    tool = _Generator(wanted, means) if wanted.generator else None
    number = 0
    for asked, made in targets:
        for image in made.images:
            extras = dict(_extras(asked, image))
            if tool is not None:
                scans.append(Scan(number, CORE, generated=True))
                found.append(_target(image, tool.over(_tree(image), extras)))
            else:
                scans += [Scan(number, f"{CORE}-{name}") for name in extras]
                found += [_target(image, state) for state in extras.values()]
            number += 1
    return tuple(scans), tuple(found)


class _Generator:
    """The generator image, pinned once."""

    def __init__(self, wanted: Attest, means: Means) -> None:
        from arkwright.build.containers import pinned_image

        self._name = wanted.generator
        self._parameters = wanted.parameters
        self._state, pinned = pinned_image(wanted.generator, host_platform(), means)
        self._config = image_config.parse(pinned.config)

    def over(self, tree: State, extras: Mapping[str, State]) -> State:
        from arkwright.attest.sbom import generator

        return generator.scanning(
            self._state, self._config, tree, extras, name=self._name, parameters=self._parameters
        )


def _target(image: FrontendImage, state: State) -> FrontendImage:
    config = ImageConfig(architecture=image.platform.architecture, os=image.platform.os)
    return FrontendImage(platform=image.platform, definition=state.marshal(), config=config)


def _tree(image: FrontendImage) -> State:
    definition = image.definition
    return State(edge=definition.target, vertices=definition.vertices, metadata=definition.metadata)


def _extras(asked: FrontendRequest, image: FrontendImage) -> Iterator[tuple[str, State]]:
    """The stages that an image needs and that ask for it, and the context when the target does."""
    for stage in _switches(asked, image):
        if stage.target and stage.context:
            tree = graph.source(asked.context_source)
            yield "context", graph.scratch().copy(tree, "/", "/", name="[sbom] read the context")
        elif stage.scan and not stage.target:
            last = _last(image.definition, stage.name)
            if last is not None:
                yield stage.name, msgspec.structs.replace(_tree(image), edge=Edge(last))


def _last(definition: Definition, group: str) -> str | None:
    """The vertex of a stage on which no other of it is built; None when the image needs nothing that the
    stage made."""
    own = [digest for digest in definition.walk() if definition.describe(digest).group == group]
    inside = {edge.vertex for digest in own for edge in definition.vertices[digest].inputs}
    return next((digest for digest in reversed(own) if digest not in inside), None)


class _Stage(NamedTuple):
    """What a stage asks for; `name` is that of its group in the graph."""

    name: str
    target: bool
    scan: bool
    context: bool


def _switches(asked: FrontendRequest, image: FrontendImage) -> Iterator[_Stage]:
    if not asked.source or ("BUILDKIT_SBOM_SCAN" not in asked.source):
        return
    from arkwright.frontends.dockerfile.buildargs import global_args
    from arkwright.frontends.dockerfile.parser import decode, parse
    from arkwright.frontends.dockerfile.stages import group
    from arkwright.frontends.dockerfile.syntax import Arg
    from arkwright.frontends.dockerfile.words import Rules, expand_token

    source, _ = decode(asked.source.encode(errors="surrogateescape"), asked.filename)
    parsed = parse(source)
    table = group(parsed)
    outside = global_args(table.args, asked, image.platform, "", parsed.escape)
    target = table.target(asked.target)
    for stage in table.stages:
        said = {name: outside[name] for name in (_STAGE, _CONTEXT) if name in outside}
        for instruction in stage.instructions:
            for item in instruction.items if isinstance(instruction, Arg) else ():
                name = item.name.text
                if name not in (_STAGE, _CONTEXT):
                    continue
                if name in asked.build_args:
                    said[name] = asked.build_args[name]
                elif item.default is not None:
                    said[name] = expand_token(item.default, outside, Rules(escape=parsed.escape)).text
        yield _Stage(
            stage.title,
            stage.index == target.index,
            _is_on(said.get(_STAGE, ""), stage.name),
            _is_on(said.get(_CONTEXT, ""), stage.name),
        )


def _is_on(text: str, stage: str) -> bool:
    """True, false, or the names of the stages that it is true for."""
    from arkwright.frontends.dockerfile.values import parse_bool

    try:
        return parse_bool(text) if text else False
    except ValueError:
        return stage.lower() in (name.strip().lower() for name in text.split(","))
