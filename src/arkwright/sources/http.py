"""Files from HTTP servers: downloaded into the content store when pinned, asked for again only as
long as the server says that they are the same (RFC 9110, conditional requests)."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.diagnostics.wire import ready
from arkwright.graph.ops import SourceOp
from arkwright.net.redact import redact_url
from arkwright.net.response import Response
from arkwright.net.retry import RetryPolicy, SystemClock, retrying
from arkwright.net.transport import Transport
from arkwright.oci.digest import is_digest
from arkwright.sources.base import Pinned
from arkwright.sources.pinning import attributes, checksum_mismatch, pin_key
from arkwright.store.store import Store

BUCKET = "http"
_KNOWN = frozenset({"checksum", "filename", "mode", "uid", "gid"})
_NAME_LIMIT = 255  # bytes, NAME_MAX
_FALLBACK_NAME = "download"
_CHUNK = 1 << 18


class Fetched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a URL gave last: kept in the metadata bucket, under the hash of the URL."""

    digest: str
    etag: str = ""
    last_modified: str = ""
    name: str = ""


ready(Fetched)


class PinnedFile(Pinned, frozen=True, kw_only=True):
    """A downloaded file: its name in the tree, its time in nanoseconds (0: unknown)."""

    name: str
    mtime_ns: int = 0


class HttpSource:
    """A `FileSource` for `http` and `https`. Thread-safe. `leads_to` is asked before a redirection is followed."""

    def __init__(
        self,
        store: Store,
        *,
        transport: Transport | None = None,
        retry: RetryPolicy | None = None,
        leads_to: Callable[[str], None] | None = None,
    ) -> None:
        self._leads_to = leads_to
        self._content = store.content
        self._metadata = store.metadata
        self._transport = transport
        self._retry = retry or RetryPolicy()

    def pin(self, op: SourceOp) -> PinnedFile:
        """Download, or find in the store what the server says has not changed.

        With a checksum, a file that is in the store already is taken without asking.
        Raises `UserError` `invalid-checksum`, `checksum-mismatch`, `invalid-filename`,
        `invalid-source-attribute`; `RemoteError` `http-status` and those of `net.failures`.
        """
        attrs = attributes(op, _KNOWN)
        checksum = attrs.get("checksum", "")
        if checksum and not is_digest(checksum):
            raise UserError.of(
                "invalid-checksum", f"{checksum!r} is not a checksum", hint="write sha256:<64 hex digits>"
            )
        _require_numbers(attrs)
        given_name = _given_name(attrs)
        fetched = self._fetch(op.identifier, checksum, named=bool(given_name))
        if checksum and fetched.digest != checksum:
            raise checksum_mismatch(redact_url(op.identifier), checksum, fetched.digest)
        # The blob's time says when it was last asked for, which is what clean-up goes by.
        with suppress(OSError):
            os.utime(self._content.path(fetched.digest))
        name = given_name or fetched.name or _url_name(op.identifier)
        placed = {"name": name, **{key: attrs.get(key, "") for key in ("mode", "uid", "gid")}}
        return PinnedFile(
            op=op,
            key=pin_key("http", digest=fetched.digest, **placed),
            uri=redact_url(op.identifier),
            digest=fetched.digest,
            name=name,
            mtime_ns=_mtime_ns(fetched.last_modified),
        )

    def materialise(self, pinned: Pinned, directory: str) -> None:
        """Write the file: mode 0600 unless told, the time that the server gave.

        Raises `UserError` `missing-blob`, `unwritable-tree`.
        """
        assert isinstance(pinned, PinnedFile)
        attrs = dict(pinned.op.attrs)
        path = os.path.join(directory, pinned.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with (
                self._content.open(pinned.digest) as blob,
                os.fdopen(os.open(path, flags, 0o600), "wb") as file,
            ):
                while chunk := blob.read(_CHUNK):
                    file.write(chunk)
                # A write by an unprivileged user takes setuid away again, and so does a chown.
                file.flush()
                if "uid" in attrs or "gid" in attrs:
                    os.fchown(file.fileno(), int(attrs.get("uid") or 0), int(attrs.get("gid") or 0))
                os.fchmod(file.fileno(), int(attrs.get("mode") or "600", 8))
            if pinned.mtime_ns:
                os.utime(path, ns=(pinned.mtime_ns, pinned.mtime_ns))
        except OSError as error:
            raise UserError.of("unwritable-tree", f"cannot write {pinned.name}: {error.strerror}") from error

    def time(self, pinned: Pinned) -> int | None:
        """What the server gave as Last-Modified."""
        assert isinstance(pinned, PinnedFile)
        return pinned.mtime_ns // 1_000_000_000 or None

    def _fetch(self, url: str, checksum: str, *, named: bool) -> Fetched:
        cache_key = hashlib.sha256(url.encode()).hexdigest()
        known = self._known(cache_key)
        if checksum:
            if known is not None and known.digest == checksum:
                return known
            if named and self._content.has(checksum):
                return Fetched(checksum)
        fetched = retrying(self._retry, SystemClock(), lambda: self._request(url, known, checksum))
        if fetched is not known:
            self._metadata.put(BUCKET, cache_key, msgspec.json.encode(fetched))
        return fetched

    def _known(self, cache_key: str) -> Fetched | None:
        data = self._metadata.get(BUCKET, cache_key)
        if data is None:
            return None
        try:
            known = msgspec.json.decode(data, type=Fetched)
        except msgspec.MsgspecError:
            return None
        return known if self._content.has(known.digest) else None

    def _request(self, url: str, known: Fetched | None, checksum: str) -> Fetched:
        headers = _headers(url)
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        elif known is not None and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        with ExitStack() as stack:
            transport = self._transport or stack.enter_context(Transport())
            response = stack.enter_context(
                transport.request("GET", _without_userinfo(url), headers=headers, leads_to=self._leads_to)
            )
            if response.status == 304 and known is not None:
                return known
            if response.status != 200:
                raise _bad_status(response)
            return Fetched(
                self._receive(response, url, checksum),
                response.header("ETag"),
                response.header("Last-Modified"),
                _disposition_name(response),
            )

    def _receive(self, response: Response, url: str, checksum: str) -> str:
        with self._content.ingest(expected=checksum, size=response.length) as ingest:
            buffer = bytearray(_CHUNK)
            while count := response.readinto(buffer):
                ingest.write(memoryview(buffer)[:count])
            try:
                return ingest.commit()
            except UserError as error:
                actual = error.details.get("actual")
                if error.code != "corrupt-blob" or not checksum or not actual:
                    raise
                raise checksum_mismatch(redact_url(url), checksum, actual) from error


def _headers(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def _without_userinfo(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _bad_status(response: Response) -> RemoteError:
    hints = {401: "the server wants credentials", 403: "the server refuses it", 404: "is the URL right?"}
    error = RemoteError.of(
        "http-status",
        f"{redact_url(response.url)} answered with status {response.status}",
        hint=hints.get(response.status),
        details={
            "method": response.method,
            "url": redact_url(response.url),
            "status": response.status,
            "remote_code": "",
            "retryable": response.status in RetryPolicy().statuses,
            "attempts": 1,
        },
    )
    assert isinstance(error, RemoteError)
    return error


def _mtime_ns(last_modified: str) -> int:
    try:
        moment = email.utils.parsedate_to_datetime(last_modified)
        return max(0, int(moment.timestamp())) * 1_000_000_000
    except (ValueError, OverflowError, OSError):
        return 0


def _given_name(attrs: dict[str, str]) -> str:
    name = attrs.get("filename", "")
    if name and not _is_name(name):
        raise UserError.of("invalid-filename", f"{name!r} is not the name of a file")
    return name


def _disposition_name(response: Response) -> str:
    """The name that Content-Disposition (RFC 6266) proposes, empty if it is not a plain name."""
    try:
        proposed = response.headers.get_filename("") if "Content-Disposition" in response.headers else ""
    except (ValueError, LookupError, TypeError):
        return ""
    name = proposed.replace("\\", "/").rpartition("/")[2]
    return name if _is_name(name) else ""


def _url_name(url: str) -> str:
    """The last component of the URL's path, as BuildKit names downloads."""
    name = unquote(urlsplit(url).path.rpartition("/")[2], errors="replace").rpartition("/")[2]
    return name if _is_name(name) else _FALLBACK_NAME


def _is_name(name: str) -> bool:
    plain = name not in ("", ".", "..") and not any(char == "/" or ord(char) < 32 for char in name)
    return plain and len(name.encode("utf-8", "surrogatepass")) <= _NAME_LIMIT and name.isprintable()


def _require_numbers(attrs: dict[str, str]) -> None:
    for key, base in (("mode", 8), ("uid", 10), ("gid", 10)):
        value = attrs.get(key, "0") or "0"
        limit = 0o7777 if key == "mode" else 0xFFFFFFFE
        try:
            fits = value.isascii() and value.isdigit() and 0 <= int(value, base) <= limit
        except ValueError:
            fits = False
        if not fits:
            raise UserError.of("invalid-source-attribute", f"{key}={value} is not a valid {key}")
