"""Images, and real registries to put them into."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arkwright.diagnostics.errors import RemoteError
from arkwright.net.credentials import Credentials
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Index, Manifest, encode
from arkwright.oci.platform import Platform

Put = Callable[[bytes], str]
USER, PASSWORD = "alice", "correct horse battery"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs-{tool}: a real registry")


def failure(code: str, call: Callable[[], object]) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        call()
    error = caught.value
    assert (error.code, error.exit_code) == (code, 5)
    assert {"method", "url", "status", "remote_code", "retryable", "attempts"} <= set(error.details)
    return error


def noise(size: int, seed: str = "noise") -> bytes:
    return random.Random(seed).randbytes(size)


def layer(seed: str, size: int) -> tuple[bytes, str]:
    """A gzip layer of about `size` bytes, and its diffID."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(f"data/{seed}")
        entry.size = size
        tar.addfile(entry, io.BytesIO(noise(size, seed)))
    data = out.getvalue()
    return gzip.compress(data, 1, mtime=0), "sha256:" + hashlib.sha256(data).hexdigest()


def image(
    put: Put, seed: str, platform: Platform = AMD64, *, layers: int = 2, size: int = 5000
) -> Descriptor:
    """Put an image; its manifest's descriptor."""
    made = [layer(f"{seed}-{number}", size) for number in range(layers)]
    config = msgspec.json.encode({
        "architecture": platform.architecture, "os": platform.os, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
    })  # fmt: skip
    document = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=Descriptor(media_type=media.CONFIG, digest=put(config), size=len(config)),
        layers=tuple(
            Descriptor(media_type=media.LAYER_GZIP, digest=put(data), size=len(data)) for data, _ in made
        ),
    )
    data = encode(document)
    return Descriptor(media_type=media.MANIFEST, digest=put(data), size=len(data), platform=platform)


def index(put: Put, *children: Descriptor) -> Descriptor:
    data = encode(Index(schema_version=2, media_type=media.INDEX, manifests=children))
    return Descriptor(media_type=media.INDEX, digest=put(data), size=len(data))


class Docker:
    """`docker-registry serve` on a port that the system gives. A context manager."""

    def __init__(self, path: Path, more: dict[str, Any] | None = None) -> None:
        needs("docker-registry")
        http = {"addr": "127.0.0.1:0", "secret": "test", **(more or {}).get("http", {})}
        config = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(path / "data")},
                "delete": {"enabled": True},
            },
            **(more or {}),
            "http": http,
        }
        # JSON is YAML.
        (path / "config.yml").write_text(json.dumps(config))
        self._command = ["docker-registry", "serve", str(path / "config.yml")]
        self.host = ""

    def __enter__(self) -> Docker:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
        said = []
        assert self._process.stderr is not None
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                self.host = found[1].decode()
                break
        assert self.host, b"".join(said)
        self._drain = threading.Thread(target=self._process.stderr.read)
        self._drain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Authority(msgspec.Struct):
    """A CA made with openssl, and a server's certificate for 127.0.0.1 and localhost."""

    ca_path: Path
    certificate_path: Path
    key_path: Path


class Guarded(msgspec.Struct):
    """A docker-registry with TLS and basic authentication."""

    host: str
    certs_path: str
    authority: Authority

    def credentials(self, tmp_path: Path, password: str = PASSWORD) -> Credentials:
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        path = tmp_path / f"auth-{len(password)}.json"
        path.write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return Credentials({"REGISTRY_AUTH_FILE": str(path)})
