"""Contexts of a request, made ready: directories in place, archives and git fetched and unpacked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from arkwright.build.request import BuildRequest
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import SourceOp
from arkwright.sources.base import FileSource, HostTree
from arkwright.sources.ignore import read_ignore_file

MAIN = "context"
_IMAGE_SCHEMES = ("docker-image://", "oci-layout://")
_WEB = ("http://", "https://")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class Contexts(msgspec.Struct, kw_only=True):
    """`trees` by context name; `inputs` maps named contexts to source identifiers; `dockerfile` is
    its text and `dockerfile_path` the name to show; `commit_epoch` comes from a git context."""

    trees: dict[str, HostTree] = {}
    inputs: dict[str, str] = {}
    dockerfile: str = ""
    dockerfile_path: str = "Dockerfile"
    commit_epoch: int | None = None


class ContextLoader:
    """Prepares contexts below the directory that `scratch` gives; `file_source` gives the source
    of a scheme."""

    def __init__(self, scratch: Callable[[], str], file_source: Callable[[str], FileSource]) -> None:
        self._scratch = scratch
        self._file_source = file_source
        self._count = 0

    def load(self, request: BuildRequest) -> Contexts:
        """Raises `UserError` `context-not-found`, `dockerfile-not-found`, `context-is-empty`."""
        contexts = Contexts()
        for name, value in request.named_contexts.items():
            contexts.inputs[name.lower()] = self._named(name.lower(), value, contexts)
        root = self._main(request, contexts)
        if not contexts.dockerfile:
            self._read_dockerfile(request, root, contexts)
        exclude: tuple[str, ...] = ()
        if root:
            lines, _ = read_ignore_file(root, self._ignore_base(request, root, contexts))
            exclude = tuple(lines)
        contexts.trees[MAIN] = HostTree(root=root or self._fresh(), exclude=exclude)
        return contexts

    def _main(self, request: BuildRequest, contexts: Contexts) -> str:
        text = request.context
        if text == "-":
            return self._standard_input(contexts, sys.stdin.buffer)
        if os.path.isdir(text):
            return os.path.realpath(text)
        remote = self._remote(text, contexts)
        if remote is not None:
            return remote
        near = nearest(os.path.basename(text), _listing(os.path.dirname(text) or "."))
        raise UserError.of(
            "context-not-found", f"the build context {text} is not a directory",
            hint=f"did you mean {os.path.join(os.path.dirname(text), near)}?" if near else "name a directory, a URL, or - for standard input",
        )  # fmt: skip

    def _remote(self, text: str, contexts: Contexts) -> str | None:
        from arkwright.sources.git import commit_epoch, parse_git_url

        git = parse_git_url(text)
        if git is not None:
            source = self._file_source("git")
            pinned = source.pin(git)
            directory = self._fresh()
            source.materialise(pinned, directory)
            contexts.commit_epoch = commit_epoch(source, pinned)
            return directory
        if not text.startswith(_WEB):
            return None
        with open(self._download(text), "rb") as file:
            return self._bytes(file, contexts, _shown(text))

    def _download(self, url: str) -> str:
        source = self._file_source("https")
        pinned = source.pin(SourceOp(identifier=url))
        directory = self._fresh()
        source.materialise(pinned, directory)
        return os.path.join(directory, os.listdir(directory)[0])

    def _standard_input(self, contexts: Contexts, stream: BinaryIO) -> str:
        spool_path = os.path.join(self._fresh(), "stdin")
        with open(spool_path, "w+b") as spool:
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            return self._bytes(spool, contexts, "<stdin>")

    def _bytes(self, file: BinaryIO, contexts: Contexts, name: str) -> str:
        """An archive becomes the context; any other bytes are a Dockerfile without a context."""
        head = file.read(512)
        file.seek(0)
        if not head:
            raise UserError.of("context-is-empty", f"{name} gave no bytes")
        if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
            from arkwright.sources.local import unpack_context

            directory = self._fresh()
            unpack_context(file, directory)
            return directory
        contexts.dockerfile = _text(file.read(), name)
        contexts.dockerfile_path = name
        return ""

    def _read_dockerfile(self, request: BuildRequest, root: str, contexts: Contexts) -> None:
        if request.dockerfile == "-":
            contexts.dockerfile = _text(sys.stdin.buffer.read(), "<stdin>")
            contexts.dockerfile_path = "<stdin>"
            return
        if request.dockerfile.startswith(_WEB):
            shown = _shown(request.dockerfile)
            with open(self._download(request.dockerfile), "rb") as file:
                contexts.dockerfile, contexts.dockerfile_path = _text(file.read(), shown), shown
            return
        path = self._dockerfile_path(request, root)
        try:
            with open(path, "rb") as file:
                contexts.dockerfile = _text(file.read(), path)
        except OSError as error:
            near = nearest(os.path.basename(path), _listing(os.path.dirname(path) or "."))
            raise UserError.of(
                "dockerfile-not-found", f"cannot read {path}: {error.strerror}",
                hint=f"did you mean {near}? name it with -f" if near else "name it with -f",
            ) from error  # fmt: skip
        contexts.dockerfile_path = request.dockerfile or os.path.basename(path)

    def _dockerfile_path(self, request: BuildRequest, root: str) -> str:
        if request.dockerfile:
            local = request.dockerfile
            remote_context = not os.path.isdir(request.context)
            inside = os.path.join(root, local)
            return (
                inside if remote_context or (not os.path.exists(local) and os.path.exists(inside)) else local
            )
        for name in ("Dockerfile", "dockerfile", "Containerfile"):
            if os.path.isfile(os.path.join(root, name)):
                return os.path.join(root, name)
        return os.path.join(root, "Dockerfile")

    def _ignore_base(self, request: BuildRequest, root: str, contexts: Contexts) -> str:
        return request.dockerfile if request.dockerfile not in ("", "-") else contexts.dockerfile_path

    def _named(self, name: str, value: str, contexts: Contexts) -> str:
        if value.startswith(_IMAGE_SCHEMES):
            return value
        scratch = Contexts()
        root = os.path.realpath(value) if os.path.isdir(value) else self._remote(value, scratch)
        if root is None:
            raise UserError.of(
                "context-not-found", f"the named context {name}={value} is neither a directory, a URL nor an image",
                hint="write NAME=PATH, NAME=docker-image://REF, NAME=oci-layout:///PATH:TAG, or a URL",
            )  # fmt: skip
        lines, _ = read_ignore_file(root, "")
        contexts.trees[name] = HostTree(root=root, exclude=tuple(lines))
        return f"local://{name}"

    def _fresh(self) -> str:
        self._count += 1
        path = os.path.join(self._scratch(), f"context-{self._count}")
        os.makedirs(path, mode=0o700)
        return path


def _shown(url: str) -> str:
    from arkwright.net.redact import redact_url

    return redact_url(url)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError.of(
            "dockerfile-not-text", f"{name} is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error


def _listing(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
