"""Steps of past builds, found by what people call them."""

from __future__ import annotations

import msgspec

from arkwright.cache.explain import find_build
from arkwright.cache.inventory import layers_of
from arkwright.cache.records import Records
from arkwright.diagnostics.errors import UserError
from arkwright.events.journal import journal_path, read_journal
from arkwright.events.types import CacheHit, Declared, Failed, Opened, Started
from arkwright.store.store import Store


class PastStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a build: its cache key, empty when it was neither run nor cached by one, and
    whether it failed. `context` is what the build was given as its main context."""

    build: str
    vertex: str
    name: str
    key: str = ""
    failed: bool = False
    context: str = ""


def find_step(root_path: str, build: str = "", wanted: str = "") -> PastStep:
    """A step of a build (the last one by default) by its name, a part of it, or the beginning of its
    digest; without a name the one that failed.

    Raises `UserError` `unknown-build`, `unknown-step`, `ambiguous-step`, `corrupt-journal`.
    """
    build = find_build(root_path, build)
    steps = _steps(root_path, build)
    if not wanted:
        failed = [step for step in steps if step.failed]
        if failed:
            return failed[0]
        raise _unknown(build, f"no step of build {build} failed")
    matching = [step for step in steps if step.name == wanted]
    matching = matching or [
        step for step in steps if wanted in step.name or step.vertex.startswith((wanted, f"sha256:{wanted}"))
    ]
    if not matching:
        raise _unknown(build, f"build {build} has no step with {wanted!r} in its name")
    if len(matching) > 1:
        raise UserError.of(
            "ambiguous-step", f"{wanted!r} is in the names of {len(matching)} steps of build {build}",
            notes=tuple(step.name for step in matching[:8]), hint="write more of the name",
        )  # fmt: skip
    return matching[0]


def tree_of(store: Store, step: PastStep) -> tuple[str, ...]:
    """The layers of what a step made, lowest first. Raises `UserError` `step-not-kept`."""
    record = Records(store.metadata).find(step.key) if step.key else None
    layers = layers_of(record.results) if record is not None else ()
    if layers:
        return layers
    why = (
        "it failed"
        if step.failed
        else "the cache has it no more"
        if step.key
        else "it made no tree of its own"
    )
    raise UserError.of(
        "step-not-kept", f"the tree of the step {step.name!r} is not in the store: {why}",
        hint="see `arkwright debug`" if step.failed else "build again, or choose the step after it",
    )  # fmt: skip


def _steps(root_path: str, build: str) -> list[PastStep]:
    found: dict[str, PastStep] = {}
    context = ""
    for event in read_journal(journal_path(root_path, build)):
        match event:
            case Opened():
                context = event.context
            case Declared():
                found[event.vertex] = PastStep(
                    build=build, vertex=event.vertex, name=event.name, context=context
                )
            case Started() | CacheHit() if event.vertex in found:
                found[event.vertex] = msgspec.structs.replace(found[event.vertex], key=event.key)
            case Failed() if event.vertex in found and not event.cancelled:
                found[event.vertex] = msgspec.structs.replace(found[event.vertex], failed=True)
    return list(found.values())


def _unknown(build: str, message: str) -> UserError:
    error = UserError.of("unknown-step", message, hint=f"see `arkwright history show {build}`")
    assert isinstance(error, UserError)
    return error
