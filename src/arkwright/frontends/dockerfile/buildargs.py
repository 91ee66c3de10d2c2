"""ARG: what is predefined, what the user gave, what the file declares before its first stage."""

from __future__ import annotations

from collections.abc import Mapping

from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.syntax import Arg
from arkwright.frontends.dockerfile.words import Rules, expand_token
from arkwright.oci.platform import Platform

EPOCH = "SOURCE_DATE_EPOCH"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
# Build args that are meant for the builder and never declared by a file.
_CONTROLS = (
    "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM", "BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_SYNTAX", "BUILDKIT_BUILD_NAME",
    "BUILDKIT_DOCKERFILE_CHECK", "BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE", EPOCH,
)  # fmt: skip
# Declared for the builder's eyes only: they never reach a step's environment.
NOT_IN_ENVIRONMENT = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")


def platform_args(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The predefined global arguments, TARGET* and BUILD*."""
    found: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found[f"{prefix}PLATFORM"] = str(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}OSVERSION"] = platform.os_version
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = platform.variant
    found["TARGETSTAGE"] = stage or "default"
    return found


def global_args(
    declared: tuple[Arg, ...], request: FrontendRequest, target: Platform, stage: str, escape: str
) -> dict[str, str]:
    """What FROM lines may use, and what a stage gets that declares a name without a default.

    Raises `UserError` `invalid-expansion`.
    """
    found = platform_args(target, request.build_platform, stage)
    for name in found:
        found[name] = request.build_args.get(name, found[name])
    for instruction in declared:
        for item in instruction.items:
            name = item.name.text
            if name in request.build_args:
                found[name] = request.build_args[name]
            elif item.default is not None:
                found[name] = expand_token(item.default, found, Rules(escape=escape)).text
    found.setdefault(EPOCH, request.build_args.get(EPOCH, str(request.epoch)))
    if found[EPOCH] and not is_seconds(found[EPOCH]):
        # The name of something with a time: `controls.resolve_epoch` has looked it up.
        found[EPOCH] = str(request.epoch if request.declared_epoch is None else request.declared_epoch)
    return found


def proxy_environment(build_args: Mapping[str, str]) -> list[str]:
    """`NAME=value` in both spellings for each proxy that was given as a build argument."""
    found: dict[str, str] = {}
    for name in sorted(build_args):
        if name.lower() in _PROXIES:
            found[name.lower()] = build_args[name]
    return [
        entry for name, value in found.items() for entry in (f"{name.upper()}={value}", f"{name}={value}")
    ]


def is_predefined(name: str) -> bool:
    """Whether a build argument needs no declaration."""
    return (
        name.lower() in _PROXIES
        or name in _CONTROLS
        or name in platform_args(Platform("linux", ""), Platform("linux", ""), "")
    )


def is_seconds(text: str) -> bool:
    """Whether a text is a number of seconds that a date can hold."""
    return text.isascii() and text.isdecimal() and len(text) <= 10
