"""Values of options as Docker's and Buildah's users write them."""

from __future__ import annotations

import os
import re
from typing import NoReturn

from arkwright.diagnostics.errors import UsageError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import Ulimit
from arkwright.oci.platform import Platform, host_platform, parse_platform

_SIZE = r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?"
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_DURATION = r"(?:[0-9]+(?:\.[0-9]+)?[smhdw])+"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_ULIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip


def invalid(option: str, value: str, why: str, hint: str | None = None) -> NoReturn:
    """Raise `UsageError` `invalid-option-value`."""
    raise UsageError.of("invalid-option-value", f"{option} {value}: {why}", hint=hint)


def csv_fields(option: str, text: str) -> list[str]:
    """The fields of one CSV record (RFC 4180): a field in double quotes may hold commas, and a
    doubled quote in it stands for one."""
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            field, position = _quoted(option, text, position + 1)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field, position = text[position:end], end
            if '"' in field:
                invalid(option, text, "a quote must enclose a whole field", _QUOTING)
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


_QUOTING = "write for example 'type=local,\"dest=a,b\"'"


def _quoted(option: str, text: str, position: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        end = text.find('"', position)
        if end < 0:
            invalid(option, text, "a quote is not closed", _QUOTING)
        parts.append(text[position:end])
        position = end + 1
        if text.startswith('"', position):
            parts.append('"')
            position += 1
            continue
        if position < len(text) and text[position] != ",":
            invalid(option, text, "a quote must enclose a whole field", _QUOTING)
        return "".join(parts), position


def attributes(option: str, text: str, known: tuple[str, ...] = ()) -> dict[str, str]:
    """`key=value,…` as a dict with lower-case keys; a key alone means an empty value.

    `known`, when given, lists the keys that are allowed. Raises `UsageError`.
    """
    found: dict[str, str] = {}
    for field in csv_fields(option, text):
        key, _, value = field.partition("=")
        key = key.strip().lower()
        if not key:
            invalid(option, text, "a field has no key", "write key=value,key=value")
        if key in found:
            invalid(option, text, f"{key} is given twice")
        if known and key not in known:
            near = nearest(key, known)
            invalid(
                option,
                text,
                f"unknown key {key!r}",
                f"did you mean {near}?" if near else "known are " + ", ".join(known),
            )
        found[key] = value
    return found


def pair(option: str, text: str) -> tuple[str, str]:
    """`NAME=VALUE`; the value may hold further equals signs."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        invalid(option, text, "write NAME=VALUE")
    return name, value


def pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """Several `NAME=VALUE`; the last of a name wins."""
    return dict(pair(option, text) for text in texts)


def settings(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the value in the environment (left out when there is none)."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            invalid(option, text, "write NAME=VALUE, or NAME to take it from the environment")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def platforms(texts: tuple[str, ...]) -> tuple[Platform, ...]:
    """Platforms from repeated, comma-separated values, each once; `local` is this host's."""
    found: list[Platform] = []
    for text in listed(texts):
        platform = host_platform() if text == "local" else parse_platform(text)
        if platform not in found:
            found.append(platform)
    return tuple(found)


def listed(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The non-empty parts of repeated, comma-separated values."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def size(option: str, text: str) -> int:
    """Bytes from a number with an optional unit (`b k m g t p`, powers of 1024)."""
    matched = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if not matched:
        invalid(option, text, "not a size", "write a number with a unit, such as 64m or 2g")
    return int(float(matched[1]) * (1 << _UNITS[matched[2].lower()]))


def duration_s(option: str, text: str) -> float:
    """Seconds from `90s`, `48h`, `7d`, `1h30m`."""
    if text == "0":
        return 0.0
    if not re.fullmatch(_DURATION, text):
        invalid(option, text, "not a duration", "write a number with a unit, such as 90s, 48h or 7d")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([smhdw])", text))


def ulimit(text: str) -> Ulimit:
    """`name=soft[:hard]`; -1 or `unlimited` is no limit."""
    name, value = pair("--ulimit", text)
    if name not in _ULIMITS:
        near = nearest(name, _ULIMITS)
        invalid(
            "--ulimit",
            text,
            f"unknown limit {name!r}",
            f"did you mean {near}?" if near else "known are " + ", ".join(_ULIMITS),
        )
    soft_text, colon, hard_text = value.partition(":")
    soft = _limit(text, soft_text)
    hard = _limit(text, hard_text) if colon else soft
    if hard != -1 and (soft == -1 or soft > hard):
        invalid("--ulimit", text, "the soft limit is above the hard limit")
    return Ulimit(name, soft, hard)


def _limit(text: str, number: str) -> int:
    if number in ("-1", "unlimited"):
        return -1
    if not number.isdecimal():
        invalid("--ulimit", text, "not a limit", "write name=soft[:hard], such as nofile=1024:4096")
    return int(number)


def extra_host(text: str) -> tuple[str, str]:
    """`NAME:ADDRESS` or `NAME=ADDRESS`; IPv6 addresses may stand in brackets."""
    equals, colon = text.find("="), text.find(":")
    at = equals if equals > 0 and (colon < 0 or equals < colon) else colon
    name, address = text[: max(at, 0)], text[at + 1 :]
    address = address.removeprefix("[").removesuffix("]")
    if not name or not address:
        invalid("--add-host", text, "write NAME:ADDRESS")
    if address != "host-gateway" and not _is_address(address):
        invalid("--add-host", text, f"{address!r} is not an IP address")
    return name, address


def _is_address(text: str) -> bool:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False
