"""What the handlers of requests share."""

from __future__ import annotations

import msgspec

from arkwright.registry.server.answers import Problem
from arkwright.registry.server.depot import Depot
from arkwright.registry.server.repository import Images, Repository
from arkwright.registry.server.room import Room
from arkwright.registry.server.uploads import Uploads
from arkwright.registry.server.wire import Body, Request, Wire
from arkwright.store.store import Store


class Shared(msgspec.Struct, frozen=True):
    """What outlives a request. `room` is what the store may grow by."""

    depot: Depot
    images: Images
    uploads: Uploads
    read_only: bool = False
    room: Room = Room()


class Call(msgspec.Struct, frozen=True):
    """One request with the store that it works on, and what its path named."""

    shared: Shared
    store: Store
    request: Request
    body: Body
    wire: Wire
    repository: Repository
    reference: str

    @property
    def heads(self) -> bool:
        """Whether only the header fields are wanted."""
        return self.request.method == "HEAD"

    def url(self, rest: str) -> str:
        """The path of something in the repository, as a `Location`."""
        return f"/v2/{self.repository.path}/{rest}"


def unsupported(message: str, allowed: str = "") -> Problem:
    """A method that is not for this place, or not on this server."""
    return Problem(405, "UNSUPPORTED", message, headers={"Allow": allowed} if allowed else None)
