"""Platforms: `os/architecture[/variant]` (OCI image index specification, "platform")."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError

_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "i386": "386", "i686": "386", "aarch64": "arm64",
    "armv7l": "arm/v7", "armhf": "arm/v7", "armel": "arm/v6", "ppc64el": "ppc64le",
}  # fmt: skip


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, rename={"os_version": "os.version"}):
    """An operating system and a CPU architecture, in Go's names."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host_platform() -> Platform:
    """The platform of the running kernel."""
    return parse_platform(f"linux/{os.uname().machine}")


def parse_platform(text: str) -> Platform:
    """Parse and normalise `os[/arch[/variant]]` or `arch`; arm64's v8 is dropped and arm gets v7.

    Raises `UserError` `invalid-platform`.
    """
    parts = text.strip().lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise UserError.of(
            "invalid-platform",
            f"{text!r} is not a platform",
            hint="write os/arch[/variant], such as linux/amd64",
        )
    if len(parts) == 1:
        parts = (
            [parts[0], host_platform().architecture]
            if parts[0] in ("linux", "windows", "darwin", "freebsd")
            else ["linux", parts[0]]
        )
    os_name, arch = parts[0], _ARCHITECTURES.get(parts[1], parts[1])
    arch, _, variant = arch.partition("/")
    variant = parts[2] if len(parts) == 3 else variant
    if arch == "arm64" and variant in ("8", "v8"):
        variant = ""
    if arch == "arm" and not variant:
        variant = "v7"
    if variant.isdigit():
        variant = "v" + variant
    return Platform(os_name, arch, variant)


def platform_of(fields: dict[str, Any]) -> Platform:
    """The platform that an image config's top level names."""
    return Platform(fields.get("os", "linux"), fields.get("architecture", ""), fields.get("variant", ""))


def matches(have: Platform, want: Platform) -> bool:
    """Whether an image for `have` satisfies `want`: equal but for a variant that `want` leaves open."""
    return (have.os, have.architecture) == (want.os, want.architecture) and (
        not want.variant
        or have.variant == want.variant
        or (have.architecture == "arm64" and have.variant == "v8")
    )
