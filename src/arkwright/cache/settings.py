"""What a store is set to, and the state of its garbage collection.

Light: a build that finds everything reads it too.
"""

from __future__ import annotations

import os
import re

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.store.metadata import Metadata

SETTINGS = "settings"
QUOTA_VARIABLE = "ARKWRIGHT_QUOTA"
GC_VARIABLE = "ARKWRIGHT_GC"
HISTORY_BUILDS_VARIABLE = "ARKWRIGHT_HISTORY_BUILDS"
HISTORY_HOURS_VARIABLE = "ARKWRIGHT_HISTORY_HOURS"
_QUOTA, _STATE, _GROWTH = "quota", "gc", "growth"
_HOUR_S, _DAY_S = 3600.0, 86400.0
# A build that finds everything leaves a journal and small documents: so many are not worth a look.
_BUILDS_BETWEEN = 50
_SIZE = r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)i?b?"
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules go by. `quota` in bytes, -1 for none; `room` bytes that must be free below the
    quota afterwards, if it can be had. Without a quota it is looked after every `interval_s` seconds
    at most, and never when `off`."""

    quota: int = -1
    room: int = 0
    history_builds: int = 50
    history_s: float = 48 * _HOUR_S
    sources_s: float = 48 * _HOUR_S
    sources_space: int = 512 << 20
    unused_s: float = 60 * _DAY_S
    disk_share: float = 0.1
    least_space: int = 2 << 30
    interval_s: float = 600.0
    off: bool = False


class Growth(msgspec.Struct, frozen=True):
    """The store's size when it was last measured, and what builds write at a time, in bytes."""

    used: int = 0
    grown: int = 0


class State(msgspec.Struct, frozen=True):
    """When the last collection was (seconds since the epoch), and how many builds there were since."""

    at: float = 0
    builds: int = 0


def read_quota(metadata: Metadata) -> int:
    """The store's quota in bytes; -1 for none."""
    data = metadata.get(SETTINGS, _QUOTA) or b""
    return int(data) if data.isdigit() else -1


def write_quota(metadata: Metadata, quota: int) -> None:
    """Set the quota; -1 takes it away."""
    if quota < 0:
        metadata.delete(SETTINGS, _QUOTA)
    else:
        metadata.put(SETTINGS, _QUOTA, b"%d" % quota)


def is_due(metadata: Metadata, limits: Limits, *, now_s: float) -> bool:
    """Count a build, and say whether it is time to collect: after the interval, with a quota also after
    many builds, each of which leaves a little."""
    data = metadata.get(SETTINGS, _STATE)
    try:
        state = State(at=now_s) if data is None else msgspec.json.decode(data, type=State)
    except msgspec.MsgspecError:
        state = State(at=now_s)
    many = limits.quota >= 0 and state.builds >= _BUILDS_BETWEEN
    if many or now_s - state.at >= limits.interval_s:
        return True
    note(metadata, State(state.at, state.builds + 1))
    return False


def note(metadata: Metadata, state: State) -> None:
    """Remember the last collection."""
    metadata.put(SETTINGS, _STATE, msgspec.json.encode(state))


def learn_growth(metadata: Metadata, used: int) -> int:
    """The room that the next build will want, from how the store has grown since it was last measured;
    larger builds of the past are forgotten slowly."""
    last = _growth(metadata)
    grown = max(used - last.used, last.grown * 4 // 5) if last.used else 0
    metadata.put(SETTINGS, _GROWTH, msgspec.json.encode(Growth(used, grown)))
    return grown * 5 // 4


def note_size(metadata: Metadata, used: int) -> None:
    """Remember the store's size after it was shrunk."""
    metadata.put(SETTINGS, _GROWTH, msgspec.json.encode(Growth(used, _growth(metadata).grown)))


def _growth(metadata: Metadata) -> Growth:
    try:
        return msgspec.json.decode(metadata.get(SETTINGS, _GROWTH) or b"{}", type=Growth)
    except msgspec.MsgspecError:
        return Growth()


def read_limits(metadata: Metadata) -> Limits:
    """The limits of a store: its quota, and what the environment says instead.

    Raises `UserError` `invalid-setting` for a variable that cannot be read.
    """
    quota, given = read_quota(metadata), os.environ.get(QUOTA_VARIABLE, "")
    if given:
        quota = -1 if given.lower() == "none" else parse_size(QUOTA_VARIABLE, given)
    found = Limits(quota=quota, off=os.environ.get(GC_VARIABLE, "").lower() in ("off", "0", "false", "no"))
    changes: dict[str, float] = {}
    if builds := os.environ.get(HISTORY_BUILDS_VARIABLE):
        changes["history_builds"] = _number(HISTORY_BUILDS_VARIABLE, builds)
    if hours := os.environ.get(HISTORY_HOURS_VARIABLE):
        changes["history_s"] = _number(HISTORY_HOURS_VARIABLE, hours) * _HOUR_S
    return msgspec.structs.replace(found, **changes) if changes else found


def parse_size(name: str, text: str) -> int:
    """Bytes from a number with an optional unit, powers of 1024. Raises `UserError` `invalid-setting`."""
    matched = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if not matched:
        raise _invalid(name, text, "write a number with a unit, such as 20g, or none")
    return int(float(matched[1]) * (1 << _UNITS[matched[2].lower()]))


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise _invalid(name, text, "write a whole number")
    return int(text)


def _invalid(name: str, text: str, hint: str) -> UserError:
    error = UserError.of("invalid-setting", f"{name} cannot be {text!r}", hint=hint)
    assert isinstance(error, UserError)
    return error
