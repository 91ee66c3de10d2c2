"""What is answered: statuses, header fields, bodies, and the errors of the distribution specification
(section "Error Codes")."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

import msgspec

from arkwright.diagnostics.errors import ArkwrightError

Code = Literal[
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNKNOWN",
    "UNSUPPORTED",
]
_JSON = "application/json"


class Slice(msgspec.Struct, frozen=True):
    """A part of a blob's file, to be sent as it is."""

    path: str
    offset: int
    count: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `length` is the announced one where no body is sent though there would be one."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    blob: Slice | None = None
    length: int = -1


class Problem(Exception):
    """A request that is refused, as the specification's error body says it."""

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        *,
        detail: Any = None,
        headers: dict[str, str] | None = None,
        more: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def answer(self) -> Answer:
        """The answer that says so."""
        errors = [
            {"code": one.code, "message": one.message, **({"detail": one.detail} if one.detail else {})}
            for one in (self, *self.more)
        ]
        body = msgspec.json.encode({"errors": errors})
        return Answer(status=self.status, headers={"Content-Type": _JSON, **self.headers}, body=body)


def json_answer(document: Any, media_type: str = _JSON, **headers: str) -> Answer:
    """A JSON document with status 200; `headers` are written with underscores for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(
        status=200, headers={"Content-Type": media_type, **named}, body=msgspec.json.encode(document)
    )


def of_store(error: ArkwrightError) -> Problem:
    """What went wrong in the store, without its paths."""
    if error.code == "no-space":
        return Problem(507, "UNKNOWN", "the disk of the registry is full")
    if error.code == "store-busy":
        return Problem(503, "UNKNOWN", "the store is busy", headers={"Retry-After": "5"})
    if error.code == "corrupt-blob":
        return Problem(400, "DIGEST_INVALID", "what was sent does not have the digest that was announced")
    if error.code == "missing-blob":
        return Problem(404, "BLOB_UNKNOWN", "a clean-up has just deleted it")
    return Problem(500, "UNKNOWN", f"the store failed: {error.code}")


def head_bytes(answer: Answer, *, keep_alive: bool) -> bytes:
    """The status line and the header fields; values that would break out of a line are dropped."""
    count = answer.blob.count if answer.blob else len(answer.body)
    fields = {"Docker-Distribution-Api-Version": "registry/2.0", **answer.headers}
    if answer.status not in (204, 304):
        fields["Content-Length"] = str(answer.length if answer.length >= 0 else count)
    if not keep_alive:
        fields["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value.isprintable()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
