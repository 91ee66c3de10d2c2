"""What of a request builds the same again: kept with the facts of a build, and read back by who verifies it.

A recipe is a `BuildRequest` as JSON types, without what is of one machine or one run (paths, names, jobs,
caches, outputs but for how they shape the image), and without values that may be secret. It comes from outside
when an image is verified: `request_of` takes only what cannot reach beyond the build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from arkwright.build.closing import opened
from arkwright.build.compile import with_epoch
from arkwright.build.contexts import MAIN, Contexts
from arkwright.build.request import BuildRequest, BuildTarget
from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError
from arkwright.exporters.annotations import annotation_attribute
from arkwright.exporters.base import Output
from arkwright.exporters.table import needs_image

LAYOUT = "oci-layout://"
# What makes another image of the same inputs; all else in a request says how, not what.
_KEPT = (
    "target", "build_args", "platforms", "labels", "annotations", "network", "extra_hosts", "ulimits", "shm_size",
    "allow", "targets", "scrub", "timestamps", "compression", "cache_to", "outputs", "named_contexts", "context", "hermetic",
)  # fmt: skip
# Where a record may send whoever verifies it.
_ELSEWHERE = ("http://", "https://", "ssh://", "git://", "docker-image://", LAYOUT)
_SHAPING = ("compression", "oci-mediatypes", "rewrite-timestamp")


def recipe_of(
    request: BuildRequest, contexts: Contexts, layouts: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The recipe of a request, and the names of build arguments whose values it lacks.

    `layouts` are digests of images by the `oci-layout://` identifiers that they were found by.
    """
    kept = portable(request, contexts, layouts)
    shown = opened(kept).build_args
    hidden = tuple(sorted(name for name, value in kept.build_args.items() if shown[name] != value))
    arguments = {name: value for name, value in kept.build_args.items() if name not in hidden}
    kept = msgspec.structs.replace(kept, build_args=arguments)
    plain = msgspec.to_builtins(BuildRequest(context=""))
    fields = {name: value for name, value in msgspec.to_builtins(kept).items() if name in _KEPT}
    return {name: value for name, value in fields.items() if value != plain[name]}, hidden


def request_of(recipe: Mapping[str, Any], *, trusted: bool = False) -> BuildRequest:
    """The request that a recipe stands for.

    Raises `UserError` `invalid-record`; `Denied` `record-refused` for a context that is a path or a repository of
    this machine, unless the recipe is `trusted`.
    """
    unknown = sorted(set(recipe) - set(_KEPT) - {"hiddenArgs"})
    if unknown:
        raise _invalid(f"it asks for {', '.join(map(repr, unknown))}, which this version does not know")
    fields = {name: value for name, value in recipe.items() if name in _KEPT}
    try:
        request = msgspec.convert({"context": "", **fields}, type=BuildRequest)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    for name, value in ((MAIN, request.context), *request.named_contexts.items()):
        if value and not (value.startswith(_ELSEWHERE) or (trusted and "://" in value)):
            raise Denied.of(
                "record-refused", f"the record takes the context {name} from {value}, which is not for it to say",
                hint="give the context yourself: --context DIR, --build-context NAME=DIR",
                details={"rule": "record", "evidence": value},
            )  # fmt: skip
    return msgspec.structs.replace(request, outputs=_shaping(request.outputs))


def portable(request: BuildRequest, contexts: Contexts, layouts: Mapping[str, str]) -> BuildRequest:
    """The request without what is of this machine or this run; values that may be secret stay."""
    main = contexts.pinned.get(MAIN)
    plain = BuildRequest(context="")
    fields = {name: getattr(request, name) for name in plain.__struct_fields__ if name in _KEPT}
    kept = msgspec.structs.replace(plain, **fields)
    return msgspec.structs.replace(
        kept,
        context=main.uri if main is not None else "",
        build_args=with_epoch(request),
        named_contexts={
            name: _elsewhere(name, value, contexts, layouts) for name, value in request.named_contexts.items()
        },
        cache_to=tuple(one for one in request.cache_to if one.type == "inline"),
        outputs=_shaping(request.outputs),
        targets=tuple(
            BuildTarget(target=one.target, outputs=_shaping(one.outputs)) for one in request.targets
        ),
    )


def _elsewhere(name: str, value: str, contexts: Contexts, layouts: Mapping[str, str]) -> str:
    """What a named context is elsewhere; empty for a directory or an archive of this machine."""
    pinned = contexts.pinned.get(name)
    if pinned is not None:
        return pinned.uri
    if value.startswith(LAYOUT):
        return f"{LAYOUT}{layouts.get(value.partition('@')[0], '')}"
    return value if value.startswith("docker-image://") else ""


def _shaping(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """What outputs say of the image itself, each once."""
    found: dict[bytes, Output] = {}
    for output in outputs:
        if needs_image(output):
            attrs = {
                name: value
                for name, value in output.attrs.items()
                if name in _SHAPING or annotation_attribute(name) is not None
            }
            kept = Output(type="image", attrs=attrs)
            found[msgspec.json.encode(kept, order="sorted")] = kept
    return tuple(found.values())


def _invalid(why: str) -> ArkwrightError:
    return UserError.of("invalid-record", f"the recipe of the record cannot be used: {why}")
