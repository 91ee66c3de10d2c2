"""Records taken apart and put together again: digests of what was edited are made right, as a forger would."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATEMENT = "application/vnd.in-toto+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
CONTEXT = "application/vnd.arkwright.context.v1.tar"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Record:
    """An OCI archive in memory."""

    def __init__(self, path: Path) -> None:
        self.files: dict[str, bytes] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    found = archive.extractfile(member)
                    assert found is not None
                    self.files[member.name] = found.read()

    @property
    def index(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.files["index.json"])
        return found

    def blob(self, digest: str) -> bytes:
        return self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]

    def put(self, data: bytes) -> dict[str, Any]:
        digest = sha256(data)
        self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
        return {"digest": digest, "size": len(data)}

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(self.index["manifests"][0]["digest"]))
        return found

    def layer(self, media_type: str) -> bytes:
        [found] = [one for one in self.manifest["layers"] if one["mediaType"] == media_type]
        return self.blob(found["digest"])

    def replace(self, media_type: str, data: bytes) -> None:
        """Another layer in the place of one, with all digests above it."""
        manifest, index = self.manifest, self.index
        manifest["layers"] = [
            {**one, **self.put(data)} if one["mediaType"] == media_type else one for one in manifest["layers"]
        ]
        index["manifests"][0] |= self.put(json.dumps(manifest).encode())
        self.files["index.json"] = json.dumps(index).encode()

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the statement, signed or not; a signature stays as it was."""
        if any(one["mediaType"] == ENVELOPE for one in self.manifest["layers"]):
            envelope = json.loads(self.layer(ENVELOPE))
            statement = json.loads(base64.b64decode(envelope["payload"]))
            change(statement)
            envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
            self.replace(ENVELOPE, json.dumps(envelope).encode())
            return
        statement = json.loads(self.layer(STATEMENT))
        change(statement)
        self.replace(STATEMENT, json.dumps(statement).encode())

    def bases(self, digests: list[dict[str, Any]]) -> None:
        """Other images beside the record."""
        index = self.index
        index["manifests"] = [index["manifests"][0], *digests]
        self.files["index.json"] = json.dumps(index).encode()

    def write(self, path: Path) -> str:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in self.files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
        path.chmod(0o644)
        return str(path)


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A tar with these files, and symbolic links."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return made.getvalue()
