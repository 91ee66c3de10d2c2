"""The errors of archives, as the other modules of this package raise them."""

from __future__ import annotations

from arkwright.diagnostics.errors import UserError


def _fault(code: str, message: str, hint: str | None = None) -> UserError:
    error = UserError.of(code, message, hint=hint)
    assert isinstance(error, UserError)
    return error


def invalid(message: str) -> UserError:
    """`invalid-archive`: it breaks the tar format."""
    return _fault("invalid-archive", f"not a valid tar archive: {message}")


def truncated(message: str) -> UserError:
    """`truncated-archive`: it ends too early."""
    return _fault("truncated-archive", f"the archive ends too early: {message}")


def too_large(message: str) -> UserError:
    """`archive-too-large`: it exceeds one of the `Limits`."""
    return _fault("archive-too-large", f"the archive exceeds a limit: {message}")


def corrupt(message: str) -> UserError:
    """`corrupt-archive`: its compressed data are damaged."""
    return _fault("corrupt-archive", f"the compressed data are damaged: {message}")


def escapes(path: str, what: str) -> UserError:
    """`path-escapes-root`: it names something outside the root."""
    return _fault("path-escapes-root", f"{what} {path!r} leaves the root of the archive")


def reserved(path: str) -> UserError:
    """`reserved-name`: a `.wh.` name where it has no meaning, or would get a wrong one."""
    return _fault(
        "reserved-name",
        f"{path!r} begins with .wh., which layers reserve for deletions",
        "give the file another name",
    )
