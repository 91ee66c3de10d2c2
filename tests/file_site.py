"""A web server on loopback with a few files."""

from __future__ import annotations

from loopback_server import Exchange, Loopback


class FileSite(Loopback):
    """`files` by path; all of them are from one moment in 2001."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def respond(self, exchange: Exchange) -> None:
        data = self.files.get(exchange.path)
        if data is None:
            exchange.reply(404)
        else:
            exchange.reply(200, data, Last_Modified="Sun, 09 Sep 2001 01:46:40 GMT")
