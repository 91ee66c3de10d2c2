"""Image configs (OCI image specification, config.md) with Docker's extensions.

Docker's additions (Healthcheck, OnBuild, Shell) are kept in OCI configs too, as BuildKit does.
A config that came from outside keeps its bytes in the store; this struct is the view that builds extend.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.wire import ready


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """Docker's health check; times in nanoseconds, 0 inherits."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an image's history."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """The layers' diffIDs, lowest first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class Execution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """The config's `config` object: how a container of the image starts."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, str]] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()


class ImageConfig(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
    rename={"os_version": "os.version", "cache": "dev.arkwright.cache.v1"},
):  # fmt: skip
    """An image config. Times are RFC 3339 strings. `cache` belongs to `cache.inline`, which alone
    knows its form; a derived image never takes it over."""

    created: str = ""
    author: str = ""
    architecture: str
    variant: str = ""
    os: str
    os_version: str = ""
    config: Execution = Execution()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()
    cache: Any = None


ready(ImageConfig, Execution)


def encode(config: ImageConfig) -> bytes:
    """The canonical bytes: JSON in field order, maps sorted, `rootfs` and `config` always there."""
    fields: dict[str, Any] = msgspec.to_builtins(config)
    fields.setdefault("config", {})
    fields.setdefault("rootfs", msgspec.to_builtins(config.rootfs))
    return msgspec.json.encode(fields, order="sorted")


def parse(data: bytes) -> ImageConfig:
    """Read an image config, forgiving `null` where a writer meant absent.

    Raises `UserError` `invalid-image-config`.
    """
    try:
        fields = _without_nulls(msgspec.json.decode(data))
        return msgspec.convert(fields, ImageConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError.of("invalid-image-config", f"not an image config: {error}") from error


def check(fields: dict[str, Any]) -> None:
    """Refuse a config whose fields are of other types than they must be; `rootfs` and `history`, and
    whether a platform is named, are not looked at.

    Raises `UserError` `invalid-image-config`.
    """
    known = {key: value for key, value in fields.items() if key not in ("rootfs", "history")}
    parse(msgspec.json.encode({"architecture": "", "os": "", **_without_nulls(known)}))


def rfc3339(seconds: int) -> str:
    """Seconds since 1970 as the specification's `date-time`, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(created: str) -> int | None:
    """An RFC 3339 time in seconds since 1970; None for none."""
    try:
        return int(datetime.fromisoformat(created).timestamp())
    except (ValueError, OverflowError):
        return None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
