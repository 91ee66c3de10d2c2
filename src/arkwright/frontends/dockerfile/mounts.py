"""The value of `RUN --mount`: comma-separated fields `key[=value]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast, get_args

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.frontends.dockerfile import values
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.graph.ops import MountType, Sharing

_ALIASES = {
    "src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite",
}  # fmt: skip
_KEYS = (
    "type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required", "size", "mode",
    "uid", "gid", "env",
)  # fmt: skip
_TYPES = get_args(MountType)
_SHARING = get_args(Sharing)
_SWITCHES = ("readonly", "readwrite", "required")
_OWNED = ("secret", "ssh", "cache")
_VARIABLE = re.compile(r"\$.")

Expander = Callable[[Token], Token]


class RunMount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of a RUN, as written; None for what was not said."""

    span: Token
    type: MountType = "bind"
    origin: Token | None = None
    source: Token | None = None
    target: Token | None = None
    writable: bool | None = None
    identity: str = ""
    sharing: Sharing | None = None
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


class _Field(msgspec.Struct, frozen=True):
    key: str
    value: Token | None
    whole: Token


def mount_origin(mount: Token) -> Token | None:
    """The `from` of a mount, before anything is expanded. Raises `UserError`."""
    found = None
    for field in _fields(mount):
        if field.key == "from" and field.value is not None:
            if _VARIABLE.search(field.value.text):
                raise UserError.of(
                    "variable-in-from",
                    "variables are not expanded in from of --mount",
                    field.value.span,
                    hint="give the stage a fixed name: FROM ${IMAGE} AS name",
                )
            found = field.value
    return found if found is not None and found.text else None


def mount_type(mount: Token) -> str:
    """The type of a mount, before anything is expanded."""
    given = [field.value.text for field in _fields(mount) if field.key == "type" and field.value is not None]
    return given[-1].lower() if given else "bind"


def parse_mount(mount: Token, expand: Expander) -> RunMount:
    """Read one mount; values but `from` are expanded.

    Raises `UserError` `invalid-mount`, `unknown-mount-key`.
    """
    reader = _MountReader(mount, expand)
    for field in _fields(mount):
        reader.take(field)
    return reader.finish()


class _MountReader:
    def __init__(self, mount: Token, expand: Expander) -> None:
        self.mount = mount
        self.expand = expand
        self.found: dict[str, Token] = {}
        self.writable: bool | None = None
        self.required: Token | None = None
        self.is_required = False

    def take(self, field: _Field) -> None:
        key = field.key
        if key not in _KEYS:
            hint = did_you_mean(key, [*_KEYS, *_ALIASES])
            raise UserError.of(
                "unknown-mount-key", f"--mount has no key {key!r}", field.whole.span, hint=hint
            )
        if key in _SWITCHES:
            self._switch(field)
        elif field.value is None:
            raise _invalid(f"the key {key!r} needs a value", field.whole)
        else:
            self.found[key] = field.value if key == "from" else self.expand(field.value)

    def _switch(self, field: _Field) -> None:
        value = True
        if field.value is not None:
            given = self.expand(field.value)
            try:
                value = values.parse_bool(given.text)
            except ValueError as error:
                raise _invalid(f"{field.key} is {given.text!r}: {error}", field.whole) from error
        if field.key == "required":
            self.required, self.is_required = field.whole, value
        else:
            self.writable = value == (field.key == "readwrite")

    def finish(self) -> RunMount:
        kind = cast(MountType, self._choice("type", _TYPES) or "bind")
        mount = RunMount(
            span=self.mount,
            type=kind,
            origin=self._token("from"),
            source=self._token("source"),
            target=self._token("target"),
            writable=self.writable,
            identity=self.found["id"].text if "id" in self.found else "",
            sharing=cast("Sharing | None", self._choice("sharing", _SHARING)),
            required=self.is_required,
            size=self._size(),
            mode=self._number("mode", 8),
            uid=self._number("uid", 10),
            gid=self._number("gid", 10),
            env=self.found["env"].text if "env" in self.found else None,
        )
        self._check(mount)
        return mount

    def _token(self, key: str) -> Token | None:
        token = self.found.get(key)
        return token if token is not None and token.text else None

    def _choice(self, key: str, options: tuple[str, ...]) -> str | None:
        token = self.found.get(key)
        if token is None:
            return None
        if token.text.lower() not in options:
            hint = did_you_mean(token.text, options) or f"one of {', '.join(options)}"
            raise UserError.of(
                "invalid-mount", f"{key} of --mount can't be {token.text!r}", token.span, hint=hint
            )
        return token.text.lower()

    def _size(self) -> int:
        token = self.found.get("size")
        if token is None:
            return 0
        try:
            return values.parse_size(token.text)
        except ValueError as error:
            raise _invalid(f"size is {token.text!r}: {error}", token) from error

    def _number(self, key: str, base: int) -> int | None:
        token = self.found.get(key)
        if token is None:
            return None
        digits = "[0-7]{1,11}" if base == 8 else "[0-9]{1,10}"
        if not re.fullmatch(digits, token.text) or int(token.text, base) > 2**32 - 1:
            raise _invalid(f"{key} is {token.text!r}, not a number in base {base}", token)
        return int(token.text, base)

    def _check(self, mount: RunMount) -> None:
        kind = mount.type
        allowed = {
            "size": kind == "tmpfs", "sharing": kind == "cache", "env": kind == "secret",
            "mode": kind in _OWNED, "uid": kind in _OWNED, "gid": kind in _OWNED,
        }  # fmt: skip
        for key, fits in allowed.items():
            if key in self.found and not fits:
                raise _invalid(f"{key} is not for mounts of type {kind}", self.found[key])
        if self.required is not None and kind not in ("secret", "ssh"):
            raise _invalid(f"required is not for mounts of type {kind}", self.required)
        if kind == "secret":
            self._check_secret(mount)
        if kind == "ssh" and mount.source is not None:
            raise _invalid("a mount of type ssh has no source", mount.source)

    def _check_secret(self, mount: RunMount) -> None:
        if mount.origin is not None:
            raise _invalid("a mount of type secret has no from", mount.origin)
        if mount.source is not None and mount.identity:
            raise _invalid("source and id of a secret are the same: give one", mount.source)
        if mount.source is None and mount.target is None and not mount.identity:
            raise _invalid("a secret needs an id or a target", self.mount)


def _fields(mount: Token) -> list[_Field]:
    fields: list[_Field] = []
    offset = 0
    for text in _split(mount):
        place = mount.part(offset, offset + len(text)) if '"' not in mount.text else mount.span
        key, equals, value = text.partition("=")
        whole = Token(text, place)
        key = _ALIASES.get(key.lower(), key.lower())
        token = Token(value, whole.part(len(text) - len(value), len(text))) if equals else None
        fields.append(_Field(key, token, whole))
        offset += len(text) + 1
    return fields


def _split(mount: Token) -> list[str]:
    if '"' not in mount.text:
        return mount.text.split(",")
    import csv

    try:
        rows = list(csv.reader([mount.text], strict=True))
    except csv.Error as error:
        raise _invalid(f"the quotes of --mount do not match: {error}", mount) from error
    return rows[0] if rows else [""]


def _invalid(message: str, token: Token) -> ArkwrightError:
    return UserError.of("invalid-mount", message, token.span)
