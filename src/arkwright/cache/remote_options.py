"""`--cache-from` and `--cache-to`: their text, as buildx takes it.

registry  ref=NAME[:TAG], compression, mode, registry.insecure …
local     src=DIR (from), dest=DIR (to), tag=NAME
inline    to only: into the image's config
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from arkwright.diagnostics.errors import UsageError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.oci.reference import parse_reference

_COMMON = ("mounts",)
_FROM = {
    "registry": ("ref", "registry.insecure", *_COMMON),
    "local": ("src", "tag", *_COMMON),
}
_WRITTEN = ("mode", "compression", "ignore-error", *_COMMON)
# What buildx needs said and is always so here.
_ALWAYS = ("image-manifest", "oci-mediatypes", "force-compression")
_TO = {
    "registry": ("ref", "registry.insecure", *_WRITTEN, *_ALWAYS),
    "local": ("dest", "tag", *_WRITTEN, *_ALWAYS),
    "inline": (),
}
_NOT_BUILT = ("gha", "s3", "azblob")
_CODECS = {"gzip": "gzip", "zstd": "zstd", "uncompressed": "none", "none": "none"}
_TRUE, _FALSE = ("true", "1", ""), ("false", "0")
# With a dash and the 64 digits of a key, it must stay a tag (at most 128 characters).
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"


class RemoteSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One remote. `ref` is a normalised reference, `path` absolute, `tag` what names of records
    begin with. `mounts` are ids of cache mounts that travel too, or `all`. The rest is of an export:
    `mode` min or max, `codec` empty for that of the image, `ignore_error` whether a failure is only
    a warning."""

    type: str
    ref: str = ""
    path: str = ""
    tag: str = "latest"
    insecure: bool = False
    mounts: tuple[str, ...] = ()
    mode: str = "min"
    codec: str = ""
    ignore_error: bool = True

    @property
    def name(self) -> str:
        """What events and records of layers call it."""
        return f"registry:{self.ref}" if self.type == "registry" else f"local:{self.path}:{self.tag}"

    def wants_mount(self, cache_id: str) -> bool:
        """Whether the content of this cache mount travels."""
        return "all" in self.mounts or cache_id in self.mounts


def parse_cache_from(text: str) -> RemoteSpec:
    """One `--cache-from`; a lone name is `type=registry`.

    Raises `UserError` `invalid-cache-option`, `invalid-reference`; `UsageError` `not-built-yet`.
    """
    return _parse("--cache-from", text, _FROM)


def parse_cache_to(text: str) -> RemoteSpec:
    """One `--cache-to`; a lone name is `type=registry`. Raises as `parse_cache_from`."""
    return _parse("--cache-to", text, _TO)


def _parse(option: str, text: str, known: Mapping[str, tuple[str, ...]]) -> RemoteSpec:
    fields = text.split(",")
    if len(fields) == 1 and "=" not in fields[0]:
        fields = ["type=registry", f"ref={text}"]
    attrs: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals or not key.strip():
            _refuse(option, text, f"{field!r} is not of the form key=value")
        attrs[key.strip().lower()] = value
    kind = attrs.pop("type", "").lower()
    _check_type(option, text, kind, known)
    for name in attrs:
        if name not in known[kind]:
            near = nearest(name, known[kind])
            _refuse(
                option, text, f"type={kind} has no attribute {name!r}", near and f"did you mean {near!r}?"
            )
    return _spec(option, text, kind, attrs)


def _check_type(option: str, text: str, kind: str, known: Mapping[str, tuple[str, ...]]) -> None:
    if kind in _NOT_BUILT:
        raise UsageError.of(
            "not-built-yet", f"{option} type={kind} is not built yet: an object store will fill it",
            hint="type=registry and type=local work",
        )  # fmt: skip
    if kind not in known:
        why = f"there is no type {kind!r}" if kind else "it names no type"
        _refuse(option, text, why, f"known are {', '.join(known)}")


def _spec(option: str, text: str, kind: str, attrs: dict[str, str]) -> RemoteSpec:
    for name in _ALWAYS:
        if not _flag(option, text, attrs.get(name, "true")):
            _refuse(option, text, f"{name} cannot be switched off")
    mode, codec = attrs.get("mode", "min").lower(), attrs.get("compression", "")
    if mode not in ("min", "max"):
        _refuse(option, text, f"mode={mode} is neither min nor max")
    if codec and codec not in _CODECS:
        _refuse(option, text, f"compression={codec} is none of {', '.join(_CODECS)}")
    ref, tag = attrs.get("ref", ""), attrs.get("tag", "latest")
    if kind == "registry":
        if not ref:
            _refuse(option, text, "it has no ref=")
        reference = parse_reference(ref)
        if reference.digest and option == "--cache-to":
            _refuse(option, text, "a cache is written to a tag, not to a digest")
        ref, tag = str(reference), reference.tag or "latest"
    path = attrs.get("src", attrs.get("dest", ""))
    if kind == "local" and not path:
        _refuse(option, text, "it has no src=" if option == "--cache-from" else "it has no dest=")
    if not re.fullmatch(_TAG, tag):
        _refuse(option, text, f"{tag!r} is not a tag of at most 63 characters")
    return RemoteSpec(
        type=kind, ref=ref, path=os.path.abspath(path) if path else "", tag=tag,
        insecure=_flag(option, text, attrs.get("registry.insecure", "false")),
        mounts=tuple(filter(None, attrs.get("mounts", "").split(";"))), mode=mode,
        codec=_CODECS[codec] if codec else "",
        ignore_error=_flag(option, text, attrs.get("ignore-error", "true")),
    )  # fmt: skip


def _flag(option: str, text: str, value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        _refuse(option, text, f"{value!r} is neither true nor false")
    return value.lower() in _TRUE


def _refuse(option: str, text: str, why: str, hint: str | None = None) -> NoReturn:
    raise UserError.of("invalid-cache-option", f"{option} {text}: {why}", hint=hint)
