"""`--filter`: conditions on the things of a store, as `docker buildx du` and `prune` have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from arkwright.cache.items import KINDS, Item
from arkwright.diagnostics.errors import UsageError

# What BuildKit calls the things that we call otherwise.
_ALIASES = {
    "regular": ("step", "base"), "exec.cachemount": ("cache-mount",),
    "source.git.checkout": ("git",), "source.http": ("download",), "internal": ("history",),
}  # fmt: skip
_TEXTS: dict[str, Callable[[Item], str]] = {
    "id": lambda item: item.id, "name": lambda item: item.name, "description": lambda item: item.name,
    "build": lambda item: item.build,
}  # fmt: skip
_FLAGS: dict[str, Callable[[Item], bool]] = {
    "shared": lambda item: item.users > 1, "unique": lambda item: item.users <= 1,
    "private": lambda item: item.users <= 1, "inuse": lambda item: item.needed,
    "reclaimable": lambda item: not item.needed,
}  # fmt: skip
_AGES = ("until", "unused-for")
_SHAPE = re.compile(r"([a-z-]+)(?:(==|!?~?=)(.*))?", re.DOTALL)


class Condition(msgspec.Struct, frozen=True):
    """One condition: `operator` is `=`, `!=`, `~=` (contains the regular expression) or `!~=`; `age_s`
    is what `until` and `unused-for` say."""

    field: str
    operator: str
    value: str
    age_s: float = 0

    def holds(self, item: Item, now_ns: int) -> bool:
        """Whether it is true of a thing."""
        return self._plainly(item, now_ns) is not self.operator.startswith("!")

    def _plainly(self, item: Item, now_ns: int) -> bool:
        if self.field in _AGES:
            return item.used_at < now_ns - int(self.age_s * 1e9)
        if self.field in _FLAGS:
            return _FLAGS[self.field](item) is (self.value not in ("false", "0"))
        if self.field == "type":
            return item.kind in _ALIASES.get(self.value, (self.value,))
        text = _TEXTS[self.field](item)
        if self.operator.endswith("~="):
            return re.search(self.value, text) is not None
        return text == self.value or (
            self.field == "id" and bool(self.value) and _abbreviates(self.value, text)
        )


def _abbreviates(short: str, text: str) -> bool:
    return text.removeprefix("sha256:").startswith(short.removeprefix("sha256:"))


def parse_filters(texts: Sequence[str], duration_s: Callable[[str, str], float]) -> tuple[Condition, ...]:
    """Conditions, all of which must hold. A text may hold several, with commas between them.

    `duration_s` reads a duration of an option. Raises `UsageError` `invalid-option-value`.
    """
    return tuple(_parse(part.strip(), duration_s) for text in texts for part in text.split(","))


def _parse(text: str, duration_s: Callable[[str, str], float]) -> Condition:
    matched = _SHAPE.fullmatch(text)
    field, operator, value = (group or "" for group in matched.groups()) if matched else ("", "", "")
    if text[:1] == "!" and text[1:] in _FLAGS:
        return Condition(text[1:], "!=", "true")
    if field in _FLAGS:
        return Condition(field, "!=" if operator == "!=" else "=", value or "true")
    if not operator or not (field in _TEXTS or field in _AGES or field == "type"):
        known = ", ".join(["type", *_TEXTS, *_AGES, *_FLAGS])
        raise _invalid(text, "not a condition", f"write FIELD=VALUE; fields are {known}")
    operator = "=" if operator == "==" else operator
    if field in _AGES:
        return Condition(field, operator, value, duration_s("--filter", value))
    if field == "type" and value not in KINDS and value not in _ALIASES:
        raise _invalid(text, f"there is no type {value!r}", "known are " + ", ".join(KINDS))
    if operator.endswith("~="):
        try:
            re.compile(value)
        except re.error as error:
            raise _invalid(text, f"not a regular expression: {error}", "escape with a backslash") from error
    return Condition(field, operator, value)


def _invalid(text: str, why: str, hint: str) -> UsageError:
    error = UsageError.of("invalid-option-value", f"--filter {text}: {why}", hint=hint)
    assert isinstance(error, UsageError)
    return error
