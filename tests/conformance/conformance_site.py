"""The web server of the conformance suite: a case's files, and its git repositories."""

from __future__ import annotations

import os
import subprocess
import urllib.parse
from pathlib import Path

from loopback_server import Exchange, Loopback


class CaseSite(Loopback):
    """`files` by path, all from one moment in 2001; `repositories` by path, over smart HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, Path] = {}

    def respond(self, exchange: Exchange) -> None:
        path = urllib.parse.urlsplit(exchange.path).path
        repository = next((name for name in self.repositories if path.startswith(f"{name}/")), None)
        if repository is not None:
            self._git(exchange, repository)
        elif path in self.files:
            exchange.reply(200, self.files[path], Last_Modified="Sun, 09 Sep 2001 01:46:40 GMT")
        else:
            exchange.reply(404)

    def _git(self, exchange: Exchange, name: str) -> None:
        """Answer by git's own CGI program."""
        parts = urllib.parse.urlsplit(exchange.path)
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(self.repositories[name].parent),
            "PATH_INFO": f"/{self.repositories[name].name}{parts.path.removeprefix(name)}",
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": exchange.command,
            "CONTENT_TYPE": exchange.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(exchange.body)),
            "HTTP_CONTENT_ENCODING": exchange.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": exchange.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], env=env, input=exchange.body, capture_output=True, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, {}
        for line in head.decode().splitlines():
            key, _, value = line.partition(": ")
            if key == "Status":
                status = int(value.split()[0])
            else:
                headers[key.replace("-", "_")] = value
        exchange.reply(status, body, **headers)
