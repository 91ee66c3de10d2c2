"""What the specification demands of the JSON documents of an image, field by field.

Sources: OCI image specification v1.1, descriptor.md, manifest.md, image-index.md, config.md,
annotations.md. Fields that the specification does not know are allowed (considerations.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Problem = tuple[str, str]
"""Where in the document (`config.Env[2]`) and what is wrong."""

_Check = Callable[[Any, str], Iterator[Problem]]

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_REGISTERED = {"sha256": re.compile(r"[a-f0-9]{64}"), "sha512": re.compile(r"[a-f0-9]{128}")}
_TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
_MAX_SIZE = (1 << 63) - 1


def check_manifest(document: Any) -> Iterator[Problem]:
    """An image manifest."""
    yield from _MANIFEST(document, "")


def check_index(document: Any) -> Iterator[Problem]:
    """An image index."""
    yield from _INDEX(document, "")


def check_config(document: Any) -> Iterator[Problem]:
    """An image config."""
    yield from _CONFIG(document, "")


def _text(value: Any, where: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield where, f"is {_kind(value)}, not a string"


def _boolean(value: Any, where: str) -> Iterator[Problem]:
    if not isinstance(value, bool):
        yield where, f"is {_kind(value)}, neither true nor false"


def _version(value: Any, where: str) -> Iterator[Problem]:
    if value != 2 or isinstance(value, bool | float):
        yield where, "is not 2"


def _size(value: Any, where: str) -> Iterator[Problem]:
    if not isinstance(value, int) or isinstance(value, bool):
        yield where, f"is {_kind(value)}, not a number of bytes"
    elif not 0 <= value <= _MAX_SIZE:
        yield where, f"is {value}"


def _matching(pattern: re.Pattern[str], what: str) -> _Check:
    def check(value: Any, where: str) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield where, f"is {_kind(value)}, not a string"
        elif not pattern.fullmatch(value):
            yield where, f"{value[:80]!r} is not {what}"

    return check


def _digest(value: Any, where: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield where, f"is {_kind(value)}, not a string"
        return
    algorithm, _, encoded = value.partition(":")
    if not _DIGEST.fullmatch(value):
        yield where, f"{value[:80]!r} is not a digest"
    elif algorithm in _REGISTERED and not _REGISTERED[algorithm].fullmatch(encoded):
        yield where, f"{value[:80]!r} is not a {algorithm} digest"


def _list_of(check: _Check) -> _Check:
    def checked(value: Any, where: str) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield where, f"is {_kind(value)}, not a list"
            return
        for number, item in enumerate(value):
            yield from check(item, f"{where}[{number}]")

    return checked


def _map_of(check: _Check) -> _Check:
    def checked(value: Any, where: str) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield where, f"is {_kind(value)}, not an object"
            return
        for key, item in value.items():
            # The specification says nothing of what an empty key stands for.
            if key:
                yield from check(item, f"{where}.{key}")

    return checked


def _nullable(check: _Check) -> _Check:
    def checked(value: Any, where: str) -> Iterator[Problem]:
        if value is not None:
            yield from check(value, where)

    return checked


def _object(fields: dict[str, _Check], *required: str) -> _Check:
    def checked(value: Any, where: str) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield where, f"is {_kind(value)}, not an object"
            return
        for name in required:
            if name not in value:
                yield _below(where, name), "is missing"
        for name, check in fields.items():
            if name in value:
                yield from check(value[name], _below(where, name))

    return checked


def _layers_only(value: Any, where: str) -> Iterator[Problem]:
    if value != "layers":
        yield where, "is not `layers`"


def _any_object(value: Any, where: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield where, f"is {_kind(value)}, not an object"


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return kinds.get(type(value), "a number")


_media_type = _matching(_MEDIA_TYPE, "a media type")
_time = _matching(_TIME, "an RFC 3339 time")
_texts = _list_of(_text)
_annotations = _map_of(_text)
_platform = _object(
    {"architecture": _text, "os": _text, "os.version": _text, "os.features": _texts, "variant": _text},
    "architecture",
    "os",
)
_DESCRIPTOR_FIELDS: dict[str, _Check] = {
    "mediaType": _media_type, "digest": _digest, "size": _size, "urls": _texts, "annotations": _annotations,
    "data": _text, "artifactType": _media_type, "platform": _platform,
}  # fmt: skip
_descriptor = _object(_DESCRIPTOR_FIELDS, "mediaType", "digest", "size")
_MANIFEST = _object(
    {
        "schemaVersion": _version, "mediaType": _media_type, "artifactType": _media_type, "config": _descriptor,
        "layers": _list_of(_descriptor), "subject": _descriptor, "annotations": _annotations,
    },
    "schemaVersion", "config", "layers",
)  # fmt: skip
_INDEX = _object(
    {
        "schemaVersion": _version, "mediaType": _media_type, "artifactType": _media_type,
        "manifests": _list_of(_descriptor), "subject": _descriptor, "annotations": _annotations,
    },
    "schemaVersion", "manifests",
)  # fmt: skip
_execution = _object(
    {
        "User": _text, "ExposedPorts": _map_of(_any_object), "Env": _texts, "Entrypoint": _nullable(_texts),
        "Cmd": _nullable(_texts), "Volumes": _nullable(_map_of(_any_object)), "WorkingDir": _text,
        "Labels": _nullable(_annotations), "StopSignal": _text, "ArgsEscaped": _boolean,
    }
)  # fmt: skip
_line = _object(
    {"created": _time, "author": _text, "created_by": _text, "comment": _text, "empty_layer": _boolean}
)
_CONFIG = _object(
    {
        "created": _time, "author": _text, "architecture": _text, "variant": _text, "os": _text,
        "os.version": _text, "os.features": _texts, "config": _execution,
        "rootfs": _object({"type": _layers_only, "diff_ids": _list_of(_digest)}, "type", "diff_ids"),
        "history": _list_of(_line),
    },
    "architecture", "os", "rootfs",
)  # fmt: skip
