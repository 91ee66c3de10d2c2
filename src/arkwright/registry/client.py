"""One repository at one registry (OCI distribution specification 1.1): reading, tags, deletion.

`Registry` also carries the requests of `upload`. A `ref` is a tag or a digest. Every method raises
`RemoteError` (see `registry.errors`) and retries what is worth it, except where it says otherwise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlencode

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest, parse_digest
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import Reference
from arkwright.registry.access import Access, Opener, Server
from arkwright.registry.auth import Scopes, repository_scope
from arkwright.registry.hosts import Endpoint

MANIFEST_LIMIT = 4 << 20  # bytes: the size that the specification asks registries to take at least
CONFIG_LIMIT = 8 << 20  # bytes: ours; real configs are a few kilobytes
_TAGS_LIMIT = 4 << 20
_PAGES = 10_000
_KNOWN = (media.MANIFEST, media.INDEX, media.DOCKER_MANIFEST, media.DOCKER_INDEX)
_SCHEMA_1 = frozenset({
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
})  # fmt: skip
_ACCEPT = ", ".join(_KNOWN)
_LINK = re.compile(r'<([^<>]*)>\s*;[^,]*?rel\s*=\s*"?next"?', re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-\d+/(?:\d+|\*)")


class Registry:
    """A repository behind an endpoint. Thread-safe."""

    def __init__(self, access: Access, endpoint: Endpoint) -> None:
        self.access = access
        self.endpoint = endpoint
        self.server: Server = access.server(endpoint)
        self.repository = endpoint.repository
        self.name = f"{endpoint.host}/{endpoint.repository}"

    def head_manifest(self, ref: str) -> Descriptor | None:
        """What the registry says that `ref` is, without fetching it; None when it is not there.

        The digest is the registry's word only. A registry that does not give it is asked for the
        whole manifest.
        """
        try:
            response = self._manifest_request("HEAD", ref)
        except RemoteError as error:
            if error.code == "registry-not-found":
                return None
            raise
        with response:
            digest = response.header("Docker-Content-Digest")
            media_type = _media_type(response)
            size = response.header("Content-Length")
        if is_digest(ref) and digest and digest != ref:
            raise self._corrupt_manifest(ref, digest, "HEAD", response)
        if not is_digest(digest) or not size.isdigit() or not media_type:
            return self.get_manifest(ref)[0]
        return Descriptor(media_type=media_type, digest=digest, size=int(size))

    def get_manifest(self, ref: str) -> tuple[Descriptor, bytes]:
        """A manifest or index and its verified descriptor.

        Raises `RemoteError` `corrupt-manifest` when the bytes have not the digest that was asked
        for or that the registry states, `manifest-too-large`, `invalid-manifest`,
        `schema-1-manifest`.
        """

        def attempt() -> tuple[Descriptor, bytes]:
            response = self._manifest_request("GET", ref, retried=False)
            with response:
                data = response.read(MANIFEST_LIMIT + 1)
            return self._checked_manifest(ref, response, data), data

        return self.access.retry(attempt)

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has the blob."""
        try:
            self.access.retry(lambda: self._request("HEAD", f"blobs/{digest}", f"blob {digest}")).close()
        except RemoteError as error:
            if error.code == "registry-not-found":
                return False
            raise
        return True

    def open_blob(self, digest: str, offset: int = 0) -> tuple[Response, int]:
        """A blob's bytes from `offset` on, and the offset at which they really begin (0 when the
        registry ignores ranges). One attempt; the caller verifies, and closes the response.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._request("GET", f"blobs/{digest}", f"blob {digest}", headers=headers, ok=(200, 206))
        if response.status == 200:
            return response, 0
        begin = _CONTENT_RANGE.fullmatch(response.header("Content-Range"))
        if not offset or begin is None or int(begin[1]) != offset:
            response.close()
            raise remote_error(
                "registry-error",
                f"blob {digest} of {self.name}: the registry sent another range than was asked for",
                method="GET",
                url=response.url,
                retryable=False,
                status=response.status,
                wrong_range=True,
            )
        return response, offset

    def put_manifest(self, ref: str, media_type: str, data: bytes) -> str:
        """Store a manifest under a tag or its digest; returns its digest.

        Raises `RemoteError` `corrupt-manifest` when the registry computed another digest.
        """
        digest = _digest_like(ref if is_digest(ref) else "", data)
        response = self.access.retry(
            lambda: self._request(
                "PUT",
                f"manifests/{quote(ref, safe=':')}",
                f"manifest {self.name}{_joined(ref)}",
                headers={"Content-Type": media_type},
                body=data,
                scopes=self.scopes(push=True),
                ok=(200, 201, 202),
            )
        )
        with response:
            stated = response.header("Docker-Content-Digest")
            response.read(MANIFEST_LIMIT)
        if is_digest(stated) and stated.partition(":")[0] == "sha256" and stated != _digest_like("", data):
            raise self._corrupt_manifest(digest, stated, "PUT", response)
        return digest

    def delete_manifest(self, ref: str) -> None:
        """Delete a manifest by digest, or a tag."""
        self._delete(f"manifests/{quote(ref, safe=':')}", f"manifest {self.name}{_joined(ref)}")

    def delete_blob(self, digest: str) -> None:
        self._delete(f"blobs/{digest}", f"blob {digest} of {self.name}")

    def tags(self, page_size: int = 0) -> Iterator[str]:
        """The repository's tags, in the registry's order; `page_size` asks for pages of so many."""
        import msgspec

        class Page(msgspec.Struct):
            tags: tuple[str, ...] | None = None

        path = self.url("tags/list" + (f"?{urlencode({'n': page_size})}" if page_size else ""))
        seen: set[str] = set()
        while path and path not in seen and len(seen) < _PAGES:
            seen.add(path)
            response, data = self.access.retry(lambda: self._page(path))  # noqa: B023
            try:
                yield from msgspec.json.decode(data, type=Page).tags or ()
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise self._unreadable("the list of tags", response) from error
            following = _LINK.search(response.header("Link"))
            path = self.server.url(following[1], response.url) if following else ""

    def scopes(self, *, push: bool = False, delete: bool = False, mount_from: str = "") -> Scopes:
        """The scopes that a request in this repository needs."""
        actions = ("pull", *(["push"] if push else []), *(["delete"] if delete else []))
        own = repository_scope(self.repository, *actions)
        return (own, repository_scope(mount_from, "pull")) if mount_from else (own,)

    def request_upload(
        self,
        method: str,
        location: str,
        what: str,
        *,
        ok: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | Opener | None = None,
        length: int | None = None,
        mount_from: str = "",
    ) -> Response:
        """One request of an upload, in the push scope; `location` as in `Server.request`."""
        return self.server.request(
            method,
            location,
            scopes=self.scopes(push=True, mount_from=mount_from),
            what=what,
            headers=headers,
            body=body,
            length=length,
            ok=ok,
        )

    def path(self, rest: str) -> str:
        """The URL's path of something in this repository."""
        return f"/v2/{self.repository}/{rest}"

    def url(self, rest: str) -> str:
        """The whole URL of something in this repository, to be shown."""
        return f"{self.server.base()}{self.path(rest)}"

    def _request(
        self,
        method: str,
        rest: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        scopes: Scopes | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Response:
        path = rest if rest.startswith(("http://", "https://")) else self.path(rest)
        return self.server.request(
            method, path, scopes=scopes or self.scopes(), what=what, headers=headers, body=body, ok=ok
        )

    def _manifest_request(self, method: str, ref: str, *, retried: bool = True) -> Response:
        def attempt() -> Response:
            return self._request(
                method,
                f"manifests/{quote(ref, safe=':')}",
                f"manifest {self.name}{_joined(ref)}",
                headers={"Accept": _ACCEPT},
            )

        return self.access.retry(attempt) if retried else attempt()

    def _page(self, path: str) -> tuple[Response, bytes]:
        with self._request("GET", path, f"tags of {self.name}") as response:
            return response, response.read(_TAGS_LIMIT)

    def _delete(self, rest: str, what: str) -> None:
        scopes = self.scopes(push=True, delete=True)
        self.access.retry(
            lambda: self._request("DELETE", rest, what, scopes=scopes, ok=(200, 202, 204))
        ).close()

    def _checked_manifest(self, ref: str, response: Response, data: bytes) -> Descriptor:
        if len(data) > MANIFEST_LIMIT:
            raise remote_error(
                "manifest-too-large",
                f"manifest {self.name}{_joined(ref)} is larger than {MANIFEST_LIMIT} bytes",
                method="GET", url=response.url, retryable=False, status=response.status,
            )  # fmt: skip
        if _media_type_said(response) in _SCHEMA_1:
            # Its digest leaves out the signatures within: parsing refuses it with the true reason.
            self._true_media_type("", data, response)
        stated = response.header("Docker-Content-Digest")
        for expected in (ref, stated):
            if is_digest(expected) and _digest_like(expected, data) != expected:
                raise self._corrupt_manifest(expected, _digest_like(expected, data), "GET", response)
        media_type = self._true_media_type(_media_type(response), data, response)
        digest = _digest_like(ref if is_digest(ref) else "", data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def _true_media_type(self, stated: str, data: bytes, response: Response) -> str:
        try:
            document = parse(data, stated)
        except UserError as error:
            raise remote_error(
                error.code,
                f"{self.name}: {error.diagnostics[0].message}",
                method="GET", url=response.url, retryable=False, status=response.status,
                hint=error.diagnostics[0].hint,
            ) from error  # fmt: skip
        if document.media_type or stated:
            return document.media_type or stated
        if not isinstance(document, Manifest):
            return media.INDEX
        is_docker = document.config.media_type == media.DOCKER_CONFIG
        return media.DOCKER_MANIFEST if is_docker else media.MANIFEST

    def _corrupt_manifest(self, expected: str, actual: str, method: str, response: Response) -> RemoteError:
        return remote_error(
            "corrupt-manifest",
            f"manifest {expected} of {self.name} has the digest {actual}",
            method=method,
            url=response.url,
            retryable=False,
            status=response.status,
            hint="the registry, or something on the way, is damaged or alters what it sends",
            expected=expected,
            actual=actual,
        )

    def _unreadable(self, what: str, response: Response) -> RemoteError:
        return remote_error(
            "registry-error",
            f"{self.name}: {what} is not the expected JSON",
            method="GET",
            url=response.url,
            retryable=False,
            status=response.status,
        )


def open_registries(access: Access, reference: Reference, *, push: bool = False) -> tuple[Registry, ...]:
    """The repository at each place where `reference` may be: mirrors first, for a push the one
    place. Raises `Denied` `registry-blocked`.
    """
    return tuple(Registry(access, endpoint) for endpoint in access.endpoints(reference, push=push))


def _media_type(response: Response) -> str:
    """The content type, if it is a manifest's at all: proxies invent others."""
    stated = _media_type_said(response)
    return stated if stated in _KNOWN else ""


def _media_type_said(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip().lower()


def _digest_like(pattern: str, data: bytes) -> str:
    """The digest of `data` in the algorithm of another digest; sha256 for ""."""
    algorithm = parse_digest(pattern)[0] if pattern else "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _joined(ref: str) -> str:
    return f"@{ref}" if is_digest(ref) else f":{ref}"
