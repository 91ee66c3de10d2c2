"""`arkwright serve registry` for tests: the real program, and a client that sends what it is told."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from registry_images import PASSWORD, USER, needs

from arkwright.oci import descriptor as media
from arkwright.registry.server.context import Shared
from arkwright.registry.server.depot import Depot
from arkwright.registry.server.guard import Guard
from arkwright.registry.server.listener import Server
from arkwright.registry.server.repository import Images
from arkwright.registry.server.uploads import Uploads
from building import Builder

CONFIG = "application/vnd.test.config+json"
OCTETS = "application/octet-stream"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str:
        return self.headers.get(name) or ""

    @property
    def codes(self) -> list[str]:
        """The codes of the error body."""
        return [one["code"] for one in self.json()["errors"]]

    @property
    def digest(self) -> str:
        return self.header("Docker-Content-Digest")


class Client:
    """One connection to a registry."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._connection = http.client.HTTPConnection(host, timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(
        self, method: str, path: str, body: Any = None, *, chunked: bool = False, **headers: str
    ) -> Reply:
        """Send a request; underscores of header names are dashes. A location may be absolute."""
        parts = urlsplit(path)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, target, body, sent, encode_chunked=chunked)
        response = self._connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def begin(self, repository: str) -> str:
        """The location of a new upload."""
        reply = self.call("POST", f"/v2/{repository}/blobs/uploads/")
        assert reply.status == 202
        return reply.header("Location")

    def put_blob(self, repository: str, data: bytes) -> str:
        digest = sha256(data)
        location = self.begin(repository)
        reply = self.call("PUT", f"{location}?digest={digest}", data, Content_Type=OCTETS)
        assert reply.status == 201, reply
        return digest

    def put_manifest(
        self, repository: str, ref: str, document: dict[str, Any], **headers: str
    ) -> tuple[Reply, bytes]:
        data = json.dumps(document).encode()
        headers.setdefault("Content_Type", document["mediaType"])
        where = sha256(data) if ref == "digest" else ref
        return self.call("PUT", f"/v2/{repository}/manifests/{where}", data, **headers), data

    def put_image(self, repository: str, ref: str, seed: str, **more: Any) -> tuple[str, dict[str, Any]]:
        """Push an image of one layer; its digest and its manifest."""
        document = image(self, repository, seed, **more)
        reply, data = self.put_manifest(repository, ref, document)
        assert reply.status == 201, reply
        return sha256(data), document


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def image(client: Client, repository: str, seed: str, **more: Any) -> dict[str, Any]:
    """A manifest whose blobs are pushed."""
    config, layer = f'{{"seed":"{seed}"}}'.encode(), f"layer {seed}".encode()
    for data in (config, layer):
        client.put_blob(repository, data)
    return {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": described(config, CONFIG),
        "layers": [described(layer, media.LAYER_TAR)],
        **more,
    }


class Serving:
    """`arkwright serve registry` as some user. A context manager."""

    def __init__(self, builder: Builder, *options: str) -> None:
        self.builder = builder
        self._options = options
        self.host = ""

    def __enter__(self) -> Self:
        listen = () if "--listen" in self._options else ("--listen", "127.0.0.1:0")
        self.process = self.builder.start("serve", "registry", *listen, *self._options)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line + self.process.stderr.read()
        self.host = urlsplit(line.split()[-1]).netloc
        self.said: list[str] = []
        stderr = self.process.stderr
        self._reader = threading.Thread(target=lambda: self.said.extend(stderr))
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal; the exit status."""
        if self.process.poll() is None:
            # The prefix of another user execs, so this is the program itself.
            os.kill(self.process.pid, number)
        status = self.process.wait(120)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    def client(self) -> Client:
        return Client(self.host)


@contextmanager
def in_process(root: Path, *, guard: Guard | None = None, **more: Any) -> Iterator[Server]:
    """A server in a thread of this process. `read_only`, `uploads` and `depot_idle_s` replace ours."""
    depot = Depot(str(root), idle_s=more.pop("depot_idle_s", 5.0), push_idle_s=more.pop("push_idle_s", 5.0))
    shared = Shared(depot, Images(), more.pop("uploads", None) or Uploads(), more.pop("read_only", False))
    server = Server("127.0.0.1", 0, shared, guard=guard, **more)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        depot.close()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that only time brings about."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def htpasswd(path: Path, user: str = USER, password: str = PASSWORD) -> Path:
    needs("htpasswd")
    done = subprocess.run(["htpasswd", "-iBn", "-C", "4", user], input=password, check=True, capture_output=True,
                          text=True)  # fmt: skip
    path.write_text(done.stdout.strip() + "\n")
    return path


def tool(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
