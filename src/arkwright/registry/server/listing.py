"""Lists: the tags of a repository, the repositories of the store; in pages (RFC 8288 links)."""

from __future__ import annotations

from urllib.parse import urlencode

from arkwright.registry.server.answers import Answer, Problem, json_answer
from arkwright.registry.server.context import Call
from arkwright.registry.server.repository import catalog
from arkwright.registry.server.wire import Request
from arkwright.store.store import Store


def list_tags(call: Call) -> Answer:
    """GET. Raises `Problem`."""
    found = list(call.repository.tags())
    if not found and not call.repository.exists():
        raise Problem(
            404, "NAME_UNKNOWN", "there is no such repository", detail={"name": call.repository.path}
        )
    page, link = _page(call.request, found, call.url("tags/list"))
    return json_answer({"name": call.repository.path, "tags": page}, **link)


def list_repositories(store: Store, request: Request) -> Answer:
    """GET. Raises `Problem`."""
    page, link = _page(request, catalog(store), "/v2/_catalog")
    return json_answer({"repositories": page}, **link)


def _page(request: Request, found: list[str], path: str) -> tuple[list[str], dict[str, str]]:
    last, count = request.query.get("last", ""), request.query.get("n", "")
    rest = [one for one in found if one > last] if last else found
    if not count:
        return rest, {}
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise Problem(400, "SIZE_INVALID", "n is not a number", detail={"n": count[:300]})
    page = rest[: int(count)]
    if not page or len(page) == len(rest):
        return page, {}
    return page, {"Link": f'<{path}?{urlencode({"n": count, "last": page[-1]})}>; rel="next"'}
