"""Parsed options of `arkwright build` as a `BuildRequest`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from arkwright.build.request import BuildRequest, BuildTarget
from arkwright.cache.remote_options import RemoteSpec, parse_cache_from, parse_cache_to
from arkwright.cli import values
from arkwright.cli.attest_options import attest_wanted, provenance_wanted
from arkwright.cli.build_options import ENTITLEMENTS
from arkwright.cli.limits import step_limits
from arkwright.cli.targets import targets
from arkwright.cli.weights import step_weights
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.layer.stamps import Rule

_EXPORT_TIMEOUT_S = 300.0
_INLINE = "BUILDKIT_INLINE_CACHE"


def build_request(context: str, options: Mapping[str, Any]) -> BuildRequest:
    """The request that the options describe. Raises `UsageError` and `UserError`."""
    found = targets(
        options["target"], options["tag"], options["output"], push=options["push"], load=options["load"]
    )
    dockerfile = options["file"] or ""
    if context == "-" and dockerfile == "-":
        raise UsageError.of(
            "conflicting-options", "context and Dockerfile cannot both come from standard input"
        )
    build_args = values.settings("--build-arg", options["build_arg"])
    provenance = provenance_wanted(options)
    alone = found[0] if len(found) == 1 else BuildTarget(target="")
    return BuildRequest(
        context=context,
        dockerfile=dockerfile,
        names=alone.names,
        target=alone.target,
        targets=found if len(found) > 1 else (),
        build_args=build_args,
        named_contexts=named_contexts(options["build_context"]),
        platforms=values.platforms(options["platform"]),
        outputs=alone.outputs,
        labels=values.pairs("--label", options["label"]),
        annotations=values.pairs("--annotation", options["annotation"]),
        no_cache=options["no_cache"],
        no_cache_filter=values.listed(options["no_cache_filter"]),
        network=options["network"],
        extra_hosts=tuple(values.extra_host(text) for text in options["add_host"]),
        ulimits=tuple(values.ulimit(text) for text in options["ulimit"]),
        shm_size=values.size("--shm-size", options["shm_size"]) if options["shm_size"] else 0,
        pull=options["pull"],
        isolation="auto" if options["isolation"] == "default" else options["isolation"],
        limits=step_limits(options),
        allow=_entitlements(options["allow"]),
        jobs=options["jobs"],
        memory=values.size("--jobs-memory", options["jobs_memory"]) if options["jobs_memory"] else 0,
        step_weights=step_weights(options["step_weight"]),
        keep_going=options["keep_going"],
        on_error="shell" if options["on_error"] == "shell" else "",
        cache_from=tuple(map(parse_cache_from, dict.fromkeys(options["cache_from"]))),
        cache_to=cache_to(options["cache_to"], build_args),
        cache_export_timeout_s=_timeout_s(options["cache_export_timeout"]),
        provenance=provenance.mode,
        builder_id=provenance.builder_id,
        attest=attest_wanted(options),
        scrub=options["scrub"],
        epoch=options["epoch"],
        hermetic=_hermetic(options),
        policies=policies(options["policy"]),
        lock=_lock(options),
        lock_file=options["lock_file"] or "",
        timestamps=_rule(options["timestamps"], options["cache_to"], build_args),
    )


def cache_to(texts: tuple[str, ...], build_args: Mapping[str, str]) -> tuple[RemoteSpec, ...]:
    """What `--cache-to` and the build argument BUILDKIT_INLINE_CACHE ask for.

    Raises what `parse_cache_to` raises, and `UserError` `invalid-control-argument`.
    """
    inline: tuple[str, ...] = ()
    if _INLINE in build_args:
        from arkwright.build.contexts import control_switch

        inline = ("type=inline",) if control_switch(build_args, _INLINE) else ()
    return tuple(map(parse_cache_to, dict.fromkeys((*texts, *inline))))


def _hermetic(options: Mapping[str, Any]) -> bool:
    if options["hermetic"] and options["network"] == "host":
        raise UsageError.of("conflicting-options", "a hermetic build has no step with the host's network")
    return bool(options["hermetic"])


def policies(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Policies that were named, and that of the environment."""
    inherited = os.environ.get("ARKWRIGHT_POLICY", "")
    return (*((inherited,) if inherited else ()), *paths)


def _lock(options: Mapping[str, Any]) -> Literal["use", "must", "ignore"]:
    if options["no_lock"]:
        if options["locked"] or options["lock_file"]:
            raise UsageError.of("conflicting-options", "--no-lock does not go with --locked and --lock-file")
        return "ignore"
    return "must" if options["locked"] else "use"


def _rule(rule: Rule, texts: tuple[str, ...], build_args: Mapping[str, str]) -> Rule:
    """Layers that leave with other times than they were made with are not what a record says."""
    if rule == "source" and any(spec.type == "inline" for spec in cache_to(texts, build_args)):
        raise UsageError.of(
            "conflicting-options", "an inline cache does not go with --timestamps=source",
            hint="publish the cache apart: --cache-to type=registry,ref=NAME",
        )  # fmt: skip
    return rule


def _timeout_s(text: str | None) -> float:
    if text is None:
        return _EXPORT_TIMEOUT_S
    return values.duration_s("--cache-export-timeout", text)


def _entitlements(texts: tuple[str, ...]) -> tuple[str, ...]:
    found = values.listed(texts)
    for text in found:
        if text.partition("=")[0] == "device":
            raise UsageError.of(
                "not-built-yet", "--allow device is not built yet: devices will fill it",
                hint="leave it away for now",
            )  # fmt: skip
        if text not in ENTITLEMENTS:
            values.invalid("--allow", text, "no such entitlement", "known are " + ", ".join(ENTITLEMENTS))
    return found


def named_contexts(texts: tuple[str, ...]) -> dict[str, str]:
    """`--build-context`, by lower-cased name. Raises `UsageError`."""
    found: dict[str, str] = {}
    for text in texts:
        name, value = values.pair("--build-context", text)
        if not value:
            values.invalid("--build-context", text, "no value is given")
        found[name.lower()] = value
    return found
