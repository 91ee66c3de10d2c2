"""From a request to its answer: routes, methods, and what may be said when something fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.registry.server import blobs, listing, manifests, pushing
from arkwright.registry.server.answers import Answer, Problem, json_answer, of_store
from arkwright.registry.server.context import Call, Shared, unsupported
from arkwright.registry.server.repository import Repository
from arkwright.registry.server.wire import Body, Request, Wire

Handler = Callable[[Call], Answer]
_READ = frozenset({"GET", "HEAD"})

# The path of a repository may itself have `blobs` or `manifests` in it: the last one counts.
_ROUTES: tuple[tuple[re.Pattern[str], Mapping[str, Handler]], ...] = (
    (re.compile(r"/v2/(.+)/tags/(list)"), {"GET": listing.list_tags, "HEAD": listing.list_tags}),
    (
        re.compile(r"/v2/(.+)/manifests/([^/]+)"),
        {
            "GET": manifests.get_manifest,
            "HEAD": manifests.get_manifest,
            "PUT": manifests.put_manifest,
            "DELETE": manifests.delete_manifest,
        },
    ),
    (
        re.compile(r"/v2/(.+)/referrers/([^/]+)"),
        {"GET": manifests.list_referrers, "HEAD": manifests.list_referrers},
    ),
    (re.compile(r"/v2/(.+)/blobs/uploads(/?)"), {"POST": pushing.start_upload}),
    (
        re.compile(r"/v2/(.+)/blobs/uploads/([^/]+)"),
        {
            "GET": pushing.get_upload,
            "PATCH": pushing.patch_upload,
            "PUT": pushing.finish_upload,
            "DELETE": pushing.cancel_upload,
        },
    ),
    (
        re.compile(r"/v2/(.+)/blobs/([^/]+)"),
        {"GET": blobs.get_blob, "HEAD": blobs.get_blob, "DELETE": blobs.delete_blob},
    ),
)

_GROWING = (pushing.start_upload, pushing.patch_upload, pushing.finish_upload, manifests.put_manifest)


def respond(shared: Shared, request: Request, body: Body, wire: Wire) -> Answer:
    """The answer to a request that may be made. Raises `Malformed` and `Gone` of a body's reading."""
    try:
        return _answer(shared, request, body, wire)
    except Problem as problem:
        return problem.answer()
    except ArkwrightError as error:
        return of_store(error).answer()


def _answer(shared: Shared, request: Request, body: Body, wire: Wire) -> Answer:
    if shared.read_only and request.method not in _READ:
        raise unsupported("this registry is read-only", "GET, HEAD")
    if request.path in ("/v2", "/v2/", "/v2/_catalog"):
        if request.method not in _READ:
            raise unsupported("this can only be read", "GET, HEAD")
        if request.path != "/v2/_catalog":
            return json_answer({})
        with shared.depot.store() as store:
            return listing.list_repositories(store, request)
    handler, path, reference = _route(request)
    if handler in _GROWING:
        # What is announced is refused before it is sent; what is not, while it comes.
        shared.room.check(max(0, request.length))
    with shared.depot.store() as store:
        repository = Repository(store, shared.images, path)
        return handler(Call(shared, store, request, body, wire, repository, reference))


def _route(request: Request) -> tuple[Handler, str, str]:
    for pattern, handlers in _ROUTES:
        found = pattern.fullmatch(request.path)
        if found is not None:
            handler = handlers.get(request.method)
            if handler is None:
                raise unsupported(f"{request.method} is not for this place", ", ".join(handlers))
            return handler, found[1], found[2]
    raise Problem(404, "UNSUPPORTED", "there is nothing at this path")
