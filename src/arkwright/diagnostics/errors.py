"""The tree of errors.

    ArkwrightError
    ├── UserError         the input is wrong                     exit 1
    │   └── StepFailed    a command of a step failed             exit 1
    ├── UsageError        the command line is wrong              exit 2
    ├── Denied            policy, signature, entitlement         exit 3
    ├── HostUnsupported   kernel or tool lacks something         exit 4
    └── RemoteError       registry, git, HTTP                    exit 5

Anything else that escapes is our own fault and exits with 70. Errors of libraries and of the
operating system are wrapped once, at the package that owns the boundary, with `raise … from`.
Every error carries one or more `Diagnostic`s; each diagnostic has a kebab-case code with a page
under `docs/reference/errors/`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from arkwright.diagnostics.spans import Span


class Severity(enum.Enum):
    """How much a diagnostic matters: only errors fail a build."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Label(msgspec.Struct, frozen=True):
    """A span with the words that stand beside its carets."""

    span: Span
    text: str = ""


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One finding: what, where, why, and what to try.

    `labels[0]` is the primary place; the others are notes about further places.
    """

    code: str
    message: str
    severity: Severity = Severity.ERROR
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str | None = None


class ArkwrightError(Exception):
    """Base of everything that Arkwright raises on purpose.

    `details` holds the machine-readable facts that the class promises (see each class); values
    are JSON types, and never secrets.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, *diagnostics: Diagnostic, details: dict[str, Any] | None = None) -> None:
        if not diagnostics:
            raise ValueError("an error needs at least one diagnostic")
        self.diagnostics = diagnostics
        self.details: dict[str, Any] = details or {}
        super().__init__(diagnostics[0].message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.diagnostics, self.details))

    @classmethod
    def of(
        cls,
        code: str,
        message: str,
        *labels: Label | Span | None,
        notes: tuple[str, ...] = (),
        hint: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> ArkwrightError:
        """Build an error with a single diagnostic; a `Span` stands for an unnamed label."""
        places = tuple(
            item if isinstance(item, Label) else Label(item) for item in labels if item is not None
        )
        found = Diagnostic(code=code, message=message, labels=places, notes=notes, hint=hint)
        return cls(found, details=details)

    @property
    def code(self) -> str:
        """The code of the first diagnostic."""
        return self.diagnostics[0].code

    def with_label(self, label: Label) -> ArkwrightError:
        """The same error; the label becomes the place of each diagnostic that has none yet."""
        placed = tuple(
            found if found.labels else msgspec.structs.replace(found, labels=(label,))
            for found in self.diagnostics
        )
        return _rebuild(type(self), placed, self.details)


class UserError(ArkwrightError):
    """The input is wrong: a Dockerfile, a context, an argument's value."""

    exit_code = 1


class StepFailed(UserError):
    """A command failed. `details`: `vertex` digest, `command` (display form), `status` (int),
    `signal` (int or None), `oom` (bool), `tail` (list of the last log lines), `shell` (the command
    that opens a shell where it failed, or None)."""


class UsageError(ArkwrightError):
    """The command line is wrong: unknown or contradicting flags, a flag that is not built yet."""

    exit_code = 2


class Denied(ArkwrightError):
    """Refused by policy, signature check or entitlement. `details`: `rule`, `evidence`."""

    exit_code = 3


class HostUnsupported(ArkwrightError):
    """Kernel, file system or tool lacks something. `details`: `probe`, `fix`."""

    exit_code = 4


class RemoteError(ArkwrightError):
    """A registry, git or HTTP server failed. `details`: `method`, `url` (redacted), `status`,
    `remote_code`, `retryable` (bool), `attempts` (int)."""

    exit_code = 5


class Cancelled(ArkwrightError):
    """The user, or the failure of a sibling, stopped the work; exit as a shell reports SIGINT."""

    exit_code = 130


def joined(failures: Sequence[ArkwrightError], *, skipped: int = 0) -> ArkwrightError:
    """Several failures as one error of the class of the first, with the diagnostics of all in their
    order. `details`: those of the first, `failures` (each as `encode` has it) and `skipped`, how
    many steps did not run because of them. A single failure that kept nothing from running stays
    as it is."""
    first = failures[0]
    if len(failures) == 1 and not skipped:
        return first
    diagnostics = tuple(found for failure in failures for found in failure.diagnostics)
    wires = [_Wire(type(failure).__name__, failure.diagnostics, failure.details) for failure in failures]
    details = {**first.details, "failures": msgspec.to_builtins(wires), "skipped": skipped}
    return _rebuild(type(first), diagnostics, details)


def parts(error: ArkwrightError) -> tuple[ArkwrightError, ...]:
    """The failures that an error was joined from; the error alone if it was not."""
    wires = msgspec.convert(error.details.get("failures", []), type=list[_Wire])
    return tuple(_of_wire(wire) for wire in wires) or (error,)


_CLASSES = {
    cls.__name__: cls
    for cls in (UserError, StepFailed, UsageError, Denied, HostUnsupported, RemoteError, Cancelled)
}


class _Wire(msgspec.Struct):
    cls: str
    diagnostics: tuple[Diagnostic, ...]
    details: dict[str, Any]


def _rebuild(
    cls: type[ArkwrightError], diagnostics: tuple[Diagnostic, ...], details: dict[str, Any]
) -> ArkwrightError:
    return cls(*diagnostics, details=details)


def encode(error: ArkwrightError) -> bytes:
    """The error as JSON, to cross a process boundary."""
    return msgspec.json.encode(_Wire(type(error).__name__, error.diagnostics, error.details))


def decode(data: bytes) -> ArkwrightError:
    """The inverse of `encode`.

    Raises `msgspec.DecodeError` for anything that `encode` did not write.
    """
    return _of_wire(msgspec.json.decode(data, type=_Wire))


def _of_wire(wire: _Wire) -> ArkwrightError:
    return _CLASSES.get(wire.cls, ArkwrightError)(*wire.diagnostics, details=wire.details)
