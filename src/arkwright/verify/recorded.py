"""What a provenance statement records of a build: enough to do it again. Statements come from outside."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from arkwright.attest import statement as in_toto
from arkwright.attest.provenance import PREDICATE, TREE
from arkwright.attest.statement import ResourceDescriptor, Statement
from arkwright.build.contexts import MAIN
from arkwright.build.recipe import request_of
from arkwright.build.request import BuildRequest
from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError

_STRONG = {"sha256": 64, "sha512": 128}
_COMMITS = {"sha1": 40, "sha256": 64, "gitCommit": 40}
_HEX = re.compile(r"[0-9a-f]+")
_DOCKERFILE = "Dockerfile"
IMAGES = ("docker-image://", "oci-layout://")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A build to do again. `digests` are those of its images; `sources` what it used, as recorded; `data` the
    statement's bytes. `dockerfile` is text, `dockerfile_path` its name; `hidden_args` need values; `started` and
    `finished` are RFC 3339."""

    digests: tuple[str, ...]
    request: BuildRequest
    dockerfile: str
    dockerfile_path: str
    sources: tuple[ResourceDescriptor, ...]
    hidden_args: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    compression: str = ""
    gaps: int = 0
    started: str = ""
    finished: str = ""
    versions: dict[str, str] = {}
    data: bytes = b""

    def local_contexts(self) -> tuple[str, ...]:
        """Contexts that came from the machine of the build: `context`, or the names of named ones."""
        found = [one.name for one in self.sources if TREE in one.digest]
        names = [name.removeprefix("context:") for name in found]
        remote = {name for name, value in self.request.named_contexts.items() if value}
        if self.request.context:
            remote.add(MAIN)
        return tuple(name for name in names if name not in remote)


class _Id(msgspec.Struct):
    id: str = ""


class _Config(msgspec.Struct):
    path: str = _DOCKERFILE


class _Request(msgspec.Struct):
    frontend: str = ""
    secrets: list[_Id] = []
    ssh: list[_Id] = []


class _External(msgspec.Struct, rename="camel"):
    config_source: _Config = msgspec.field(default_factory=_Config)
    request: _Request = msgspec.field(default_factory=_Request)


class _Internal(msgspec.Struct):
    recipe: dict[str, Any] | None = None
    compression: str = ""
    gaps: list[Any] = []


class _Definition(msgspec.Struct, rename="camel"):
    external_parameters: _External = msgspec.field(default_factory=_External)
    internal_parameters: _Internal = msgspec.field(default_factory=_Internal)
    resolved_dependencies: list[ResourceDescriptor] = []


class _Builder(msgspec.Struct):
    version: dict[str, str] = {}


class _Metadata(msgspec.Struct, rename="camel"):
    started_on: str = ""
    finished_on: str = ""


class _Run(msgspec.Struct):
    builder: _Builder = msgspec.field(default_factory=_Builder)
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Predicate(msgspec.Struct, rename="camel"):
    build_definition: _Definition
    run_details: _Run = msgspec.field(default_factory=_Run)


def read_recorded(data: bytes, *, trusted: bool = False) -> Recorded:
    """What a statement of provenance records; one that was made here is `trusted` to name places of this machine.

    Raises `UserError` `invalid-statement`, `invalid-record`, `record-incomplete`; `Denied` `weak-digest`,
    `record-refused`.
    """
    claim = in_toto.parse(data)
    if claim.predicate_type != PREDICATE:
        raise _invalid(f"it is of the type {claim.predicate_type}, not {PREDICATE}")
    try:
        said = msgspec.convert(claim.predicate, type=_Predicate)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    definition, run = said.build_definition, said.run_details
    recipe = definition.internal_parameters.recipe
    if definition.external_parameters.request.frontend == "container":
        raise UserError.of(
            "record-incomplete", "the image is the commit of a working container, of which a script is the recipe",
            hint="run the script again: the same steps give the same digest",
        )  # fmt: skip
    text = _dockerfile(definition.resolved_dependencies)
    if recipe is None or text is None:
        raise UserError.of(
            "record-incomplete", "the provenance leaves out what is needed to build again",
            hint="build with --provenance=mode=max, or verify where the image was built",
        )  # fmt: skip
    _check_digests(definition.resolved_dependencies)
    external = definition.external_parameters
    return Recorded(
        digests=tuple(_subjects(claim)),
        request=request_of(recipe, trusted=trusted),
        dockerfile=text,
        dockerfile_path=external.config_source.path,
        sources=tuple(definition.resolved_dependencies),
        hidden_args=_names(recipe.get("hiddenArgs", [])),
        secrets=tuple(one.id for one in external.request.secrets),
        agents=tuple(one.id for one in external.request.ssh),
        compression=definition.internal_parameters.compression,
        gaps=len(definition.internal_parameters.gaps),
        started=run.metadata.started_on,
        finished=run.metadata.finished_on,
        versions=run.builder.version,
        data=data,
    )


def _subjects(claim: Statement) -> Iterator[str]:
    for one in claim.subject:
        strong = one.digest.get("sha256", "")
        if not _is_hex(strong, 64):
            raise _weak(f"the statement names an image by {_said(one)} only")
        yield f"sha256:{strong}"


def _check_digests(sources: list[ResourceDescriptor]) -> None:
    """Everything that was used must be known by a digest that nobody can make another content for."""
    for one in sources:
        allowed = {**_STRONG, TREE: 64}
        if "signature" in one.annotations:
            allowed |= _COMMITS
        if not any(_is_hex(one.digest.get(name, ""), length) for name, length in allowed.items()):
            raise _weak(f"{one.name or one.uri} is recorded by {_said(one)} only")


def _dockerfile(sources: list[ResourceDescriptor]) -> str | None:
    """The text, which must be what its digest says. None when only the digest was kept."""
    for one in sources:
        if one.name != _DOCKERFILE or one.uri:
            continue
        if not one.content:
            return None
        try:
            data = base64.b64decode(one.content, validate=True)
            text = data.decode()
        except (binascii.Error, ValueError) as error:
            raise _invalid(f"the text of the Dockerfile: {error}") from error
        import hashlib

        if one.digest.get("sha256") != hashlib.sha256(data).hexdigest():
            raise Denied.of(
                "record-altered", "the record's Dockerfile is another one than its digest says",
                details={"rule": "record", "evidence": _DOCKERFILE},
            )  # fmt: skip
        return text
    return None


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _invalid("hiddenArgs is no list of names")
    return tuple(value)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and _HEX.fullmatch(text) is not None


def _said(one: ResourceDescriptor) -> str:
    return ", ".join(f"{name}:{value[:12]}" for name, value in one.digest.items()) or "no digest"


def _weak(why: str) -> ArkwrightError:
    return Denied.of(
        "weak-digest", why, details={"rule": "digest", "evidence": why},
        hint="nothing can be checked against a digest that others can make content for; SHA-256 is",
    )  # fmt: skip


def _invalid(why: str) -> ArkwrightError:
    return UserError.of("invalid-record", f"the statement cannot be used: {why}")
