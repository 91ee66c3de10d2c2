"""Edits of an image's config (image specification, config.md, with Docker's additions)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from arkwright.images.mutate import Fields, Image, put_field, with_history

Clearable = Literal[
    "env", "labels", "entrypoint", "cmd", "workdir", "user", "ports", "volumes", "stop-signal",
    "healthcheck", "shell", "onbuild", "author", "variant", "os-version", "history",
]  # fmt: skip

_IN_CONFIG: dict[str, str] = {
    "env": "Env", "labels": "Labels", "entrypoint": "Entrypoint", "cmd": "Cmd", "workdir": "WorkingDir",
    "user": "User", "ports": "ExposedPorts", "volumes": "Volumes", "stop-signal": "StopSignal",
    "healthcheck": "Healthcheck", "shell": "Shell", "onbuild": "OnBuild",
}  # fmt: skip
_AT_TOP: dict[str, str] = {"author": "author", "variant": "variant", "os-version": "os.version"}


class ConfigEdit(msgspec.Struct, frozen=True, kw_only=True):
    """What to change; None and empty leave a field as it is. `clear` is done first.

    Durations of the health check are nanoseconds. `ports` are as in the config (`80/tcp`). `platform`
    holds `os`, `architecture`, `variant`, `os.version`.
    """

    clear: frozenset[Clearable] = frozenset()
    env: Mapping[str, str] = {}
    unset_env: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    unset_labels: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    workdir: str | None = None
    user: str | None = None
    ports: tuple[str, ...] = ()
    unset_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    unset_volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    healthcheck: tuple[str, ...] | None = None
    healthcheck_times: Mapping[str, int] = {}
    shell: tuple[str, ...] | None = None
    onbuild: tuple[str, ...] = ()
    author: str | None = None
    created: str | None = None
    platform: Mapping[str, str] = {}
    history_comment: str = ""
    history: bool = True

    @property
    def changes(self) -> tuple[str, ...]:
        """The names of the fields that it touches, for the history."""
        told = {"history", "history_comment"}
        names = [name for name in self.__struct_fields__ if name not in told]
        default = ConfigEdit()
        return tuple(
            name.replace("_", "-") for name in names if getattr(self, name) != getattr(default, name)
        )

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing at all."""
        return not self.changes and not self.history_comment


def edit_config(image: Image, edit: ConfigEdit, created: str) -> Image:
    """The image with its config edited; `created` is its RFC 3339 time unless the edit says one.

    Setting a field to what it is already gives the image as it is. The entrypoint and the command are
    two fields: setting one leaves the other.
    """
    top = {key: value for key, value in image.config.items() if key not in _cleared(edit, _AT_TOP)}
    if "history" in edit.clear:
        top.pop("history", None)
    inner = _edit_execution(dict(image.config.get("config") or {}), edit)
    if inner != (image.config.get("config") or {}):
        top["config"] = inner
    if edit.author is not None:
        top["author"] = edit.author
    top.update(edit.platform)
    if top == image.config and not edit.history_comment and edit.created in (None, top.get("created")):
        return image
    top = _with_entry(top, edit, len(image.layers), edit.created or created)
    return msgspec.structs.replace(image, config=top)


def _with_entry(top: Fields, edit: ConfigEdit, layers: int, created: str) -> Fields:
    if not edit.history or "history" in edit.clear:
        return {**top, "created": created}
    entry: Fields = {"created_by": "arkwright config " + " ".join(edit.changes), "empty_layer": True}
    if edit.history_comment:
        entry["comment"] = edit.history_comment
    return with_history(
        top, {**entry, "created_by": entry["created_by"].strip()}, layers=layers, created=created
    )


def _cleared(edit: ConfigEdit, names: Mapping[str, str]) -> set[str]:
    return {key for name, key in names.items() if name in edit.clear}


def _edit_execution(fields: Fields, edit: ConfigEdit) -> Fields:
    for key in _cleared(edit, _IN_CONFIG):
        fields.pop(key, None)
    if edit.env or edit.unset_env:
        put_field(fields, "Env", _edited_env(fields.get("Env") or [], edit))
    for key, added, gone in (
        ("Labels", dict(edit.labels), edit.unset_labels),
        ("ExposedPorts", {port: {} for port in edit.ports}, edit.unset_ports),
        ("Volumes", {path: {} for path in edit.volumes}, edit.unset_volumes),
    ):
        if added or gone:
            left = {name: value for name, value in (fields.get(key) or {}).items() if name not in gone}
            put_field(fields, key, {**left, **added})
    lists = (("Entrypoint", edit.entrypoint), ("Cmd", edit.cmd), ("Shell", edit.shell))
    for key, words in lists:
        if words is not None:
            fields[key] = list(words)
    for key, text in (("WorkingDir", edit.workdir), ("User", edit.user), ("StopSignal", edit.stop_signal)):
        if text is not None:
            fields[key] = text
    if edit.onbuild:
        fields["OnBuild"] = [*(fields.get("OnBuild") or []), *edit.onbuild]
    if edit.healthcheck is not None or edit.healthcheck_times:
        check = dict(fields.get("Healthcheck") or {})
        if edit.healthcheck is not None:
            check["Test"] = list(edit.healthcheck)
        fields["Healthcheck"] = {**check, **edit.healthcheck_times}
    return fields


def _edited_env(env: Iterable[str], edit: ConfigEdit) -> list[str]:
    """A variable that is set keeps its place; of one that is there twice, as runtimes do, the last
    counts."""
    found = {item.partition("=")[0]: item for item in env}
    for name in edit.unset_env:
        found.pop(name, None)
    for name, value in edit.env.items():
        found[name] = f"{name}={value}"
    return list(found.values())
