"""Parsed options of `arkwright build` as a `BuildRequest`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arkwright.build.request import BuildRequest
from arkwright.cli import values
from arkwright.cli.outputs import outputs
from arkwright.diagnostics.errors import UsageError
from arkwright.oci.reference import parse_reference


def build_request(context: str, options: Mapping[str, Any]) -> BuildRequest:
    """The request that the options describe. Raises `UsageError` and `UserError`."""
    found = outputs(options["output"], push=options["push"], load=options["load"])
    names = tuple(_name(text) for text in options["tag"])
    dockerfile = options["file"] or ""
    if context == "-" and dockerfile == "-":
        raise UsageError.of(
            "conflicting-options", "context and Dockerfile cannot both come from standard input"
        )
    if any(item.type == "registry" and "name" not in item.attrs for item in found) and not names:
        raise UsageError.of("conflicting-options", "a push needs a name", hint="add -t REGISTRY/NAME")
    return BuildRequest(
        context=context,
        dockerfile=dockerfile,
        names=tuple(dict.fromkeys(names)),
        target=options["target"] or "",
        build_args=values.settings("--build-arg", options["build_arg"]),
        named_contexts=_contexts(options["build_context"]),
        platforms=values.platforms(options["platform"]),
        outputs=found,
        labels=values.pairs("--label", options["label"]),
        annotations=values.pairs("--annotation", options["annotation"]),
        no_cache=options["no_cache"],
        no_cache_filter=values.listed(options["no_cache_filter"]),
        network=options["network"],
        extra_hosts=tuple(values.extra_host(text) for text in options["add_host"]),
        ulimits=tuple(values.ulimit(text) for text in options["ulimit"]),
        shm_size=values.size("--shm-size", options["shm_size"]) if options["shm_size"] else 0,
        pull=options["pull"],
        isolation=options["isolation"],
        jobs=options["jobs"],
        scrub=options["scrub"],
        epoch=options["epoch"],
    )


def _name(text: str) -> str:
    reference = parse_reference(text)
    if reference.digest:
        values.invalid("--tag", text, "a name for a new image cannot have a digest")
    return str(reference)


def _contexts(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, value = values.pair("--build-context", text)
        if not value:
            values.invalid("--build-context", text, "no value is given")
        found[name.lower()] = value
    return found
