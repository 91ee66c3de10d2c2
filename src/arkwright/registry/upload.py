"""Uploads of blobs: mounted from a sibling repository, in one request, or in chunks with resume
(OCI distribution specification, "Pushing blobs")."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from typing import BinaryIO, Literal
from urllib.parse import urlencode

import msgspec

from arkwright.diagnostics.errors import RemoteError
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.net.retry import retrying
from arkwright.registry.access import Opener
from arkwright.registry.client import Registry
from arkwright.registry.errors import translate

MONOLITHIC_LIMIT = 4 << 20  # bytes; above, an upload is worth to be resumed
_ANSWER_LIMIT = 1 << 16
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")

# An upload that cannot go on where we think it stands; a new one can.
_LOST = frozenset({400, 404, 416})

Outcome = Literal["uploaded", "mounted", "skipped"]


class _State(msgspec.Struct):
    """Where an upload stands: "" before it began."""

    location: str = ""
    offset: int = 0
    mounted: bool = False


def push_blob(
    registry: Registry,
    digest: str,
    size: int,
    opener: Opener,
    *,
    mount_from: str = "",
    chunk_size: int = 0,
    check: bool = True,
) -> Outcome:
    """Make a blob present in the repository.

    `opener` opens the blob's bytes from the start, seekable, any number of times. `mount_from`
    names a repository at the same registry that has the blob. `chunk_size` cuts large uploads into
    requests of so many bytes; 0 sends the rest in one request. An interrupted upload goes on where
    the registry says that it stopped. Raises `RemoteError`.
    """
    if check and registry.has_blob(digest):
        return "skipped"
    upload = _Upload(registry, digest, size, opener, chunk_size)
    upload.mount_from = mount_from
    try:
        return retrying(registry.access.policy, registry.access.clock, upload.attempt)
    except RemoteError as error:
        raise translate(error) from error


def mount_blob(registry: Registry, digest: str, mount_from: str) -> bool:
    """Make a blob present by mounting it from another repository at the same registry; false when
    the registry does not, after which nothing of the try is left there that matters.

    A registry that does not mount answers with a new upload, which is cancelled.
    """
    upload = _Upload(registry, digest, 0, _nothing, 0)
    upload.mount_from = mount_from
    try:
        return retrying(registry.access.policy, registry.access.clock, upload.mount)
    except RemoteError as error:
        raise translate(error) from error


def _nothing() -> BinaryIO:
    return io.BytesIO()


class _Upload:
    def __init__(self, registry: Registry, digest: str, size: int, opener: Opener, chunk_size: int) -> None:
        self.mount_from = ""
        self._registry = registry
        self._digest = digest
        self._size = size
        self._opener = opener
        self._chunk_size = chunk_size
        self._state = _State()
        self._what = f"upload of blob {digest} to {registry.name}"

    def mount(self) -> bool:
        """Whether the registry mounted the blob."""
        self._begin()
        if not self._state.mounted:
            with suppress(RemoteError):
                self._ask("DELETE", self._state.location, ok=(200, 202, 204))
        return self._state.mounted

    def attempt(self) -> Outcome:
        """One try; a later one goes on with the same upload if the registry still knows it."""
        resumes = bool(self._state.location)
        if resumes and not self._recovered():
            # The answer to the last request may be all that was lost.
            if self._registry.has_blob(self._digest):
                return "uploaded"
            self._state, resumes = _State(), False
        try:
            return self._advance()
        except RemoteError as error:
            if resumes and error.details["status"] in _LOST:
                self._state = _State()
                error.details["retryable"] = True
            raise

    def _advance(self) -> Outcome:
        if not self._state.location:
            self._begin()
            if self._state.mounted:
                return "mounted"
        if self._size <= MONOLITHIC_LIMIT and not self._chunk_size and not self._state.offset:
            self._finish(self._size)
            return "uploaded"
        while self._state.offset < self._size:
            self._send_chunk()
        self._finish(0)
        return "uploaded"

    def _begin(self) -> None:
        query = urlencode({"mount": self._digest, "from": self.mount_from}) if self.mount_from else ""
        path = self._registry.path("blobs/uploads/") + (f"?{query}" if query else "")
        try:
            response = self._ask("POST", path, ok=(201, 202), mount_from=self.mount_from)
        except RemoteError as error:
            # A registry may refuse the mount for rights in the other repository alone.
            if not self.mount_from or error.code not in ("registry-denied", "registry-not-found"):
                raise
            self.mount_from = ""
            self._begin()
            return
        if response.status == 201:
            if not self.mount_from:
                raise self._unexpected(response, "it says that an upload is complete that did not begin")
            self._state.mounted = True
            return
        self._follow(response)
        # The length in bytes that each chunk but the last must have at least.
        least = response.header("OCI-Chunk-Min-Length")
        if self._chunk_size and least.isdigit():
            self._chunk_size = max(self._chunk_size, int(least))

    def _send_chunk(self) -> None:
        begin = self._state.offset
        count = min(self._chunk_size or self._size, self._size - begin)
        response = self._ask(
            "PATCH",
            self._state.location,
            ok=(202, 204),
            headers={"Content-Type": _OCTETS, "Content-Range": f"{begin}-{begin + count - 1}"},
            body=lambda: self._open_at(begin),
            length=count,
        )
        self._follow(response)
        done = _received(response)
        if done == 0 and begin + count == 1:
            done = 1
        if done is not None and not begin < done <= begin + count:
            raise self._unexpected(response, f"it counts {done} bytes of {begin + count} sent")
        self._state.offset = begin + count if done is None else done

    def _finish(self, count: int) -> None:
        joint = "&" if "?" in self._state.location else "?"
        location = f"{self._state.location}{joint}{urlencode({'digest': self._digest})}"
        self._ask(
            "PUT",
            location,
            ok=(201, 204),
            headers={"Content-Type": _OCTETS},
            body=(lambda: self._open_at(0)) if count else None,
            length=count if count else None,
        )

    def _recovered(self) -> bool:
        """Ask how much of the upload arrived; false when it must begin anew."""
        try:
            response = self._ask("GET", self._state.location, ok=(204, 200, 202))
        except RemoteError as error:
            if error.details["retryable"]:
                raise
            return False
        done = _received(response)
        if done is None or done > self._size:
            return False
        self._follow(response)
        self._state.offset = done
        return True

    def _ask(
        self,
        method: str,
        location: str,
        *,
        ok: tuple[int, ...],
        headers: dict[str, str] | None = None,
        body: Opener | None = None,
        length: int | None = None,
        mount_from: str = "",
    ) -> Response:
        response = self._registry.request_upload(
            method,
            location,
            self._what,
            ok=ok,
            headers=headers,
            body=body,
            length=length,
            mount_from=mount_from,
        )
        with response:
            response.read(_ANSWER_LIMIT)
        return response

    def _follow(self, response: Response) -> None:
        location = response.header("Location")
        if location:
            self._state.location = self._registry.server.url(location, response.url)
        elif not self._state.location:
            raise self._unexpected(response, "it names no location for the upload")

    def _open_at(self, offset: int) -> BinaryIO:
        stream = self._opener()
        stream.seek(offset)
        return stream

    def _unexpected(self, response: Response, why: str) -> RemoteError:
        return remote_error(
            "registry-error",
            f"{self._what}: the registry is not as specified: {why}",
            method=response.method,
            url=response.url,
            retryable=False,
            status=response.status,
        )


def _received(response: Response) -> int | None:
    """Bytes that the registry says it has; None when it does not say.

    `Range: 0-0` is both one byte and none (older registries); none is meant before any chunk.
    """
    found = _RANGE.fullmatch(response.header("Range"))
    if found is None:
        return None
    last = int(found[1])
    return last + 1 if last else 0
