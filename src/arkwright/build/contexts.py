"""Contexts of a request, made ready: directories in place, archives and git fetched and unpacked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import BinaryIO

import msgspec

from arkwright.build.request import BuildRequest
from arkwright.diagnostics.errors import UsageError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import SourceOp
from arkwright.oci.platform import parse_platform
from arkwright.sources.base import FileSource, HostTree, Pinned
from arkwright.sources.ignore import read_ignore_file

MAIN = "context"
_DOCKERFILE = "::dockerfile"  # no context has such a name
_IMAGE_SCHEMES = ("docker-image://", "oci-layout://")
_WEB = ("http://", "https://")
# strconv.ParseBool, and nothing said.
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("", "0", "f", "F", "FALSE", "false", "False")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class Contexts(msgspec.Struct, kw_only=True):
    """`trees` by context name; `inputs` maps named contexts to source identifiers; `dockerfile` is
    its text and `dockerfile_path` the name to show. `times` are in seconds since 1970, by context
    name, of those that have one; `commit_epoch` comes from a git context. `pinned` are contexts, and the
    Dockerfile, that came from elsewhere."""

    trees: dict[str, HostTree] = {}
    inputs: dict[str, str] = {}
    times: dict[str, int] = {}
    dockerfile: str = ""
    dockerfile_path: str = "Dockerfile"
    commit_epoch: int | None = None
    pinned: dict[str, Pinned] = {}


class ContextLoader:
    """Prepares contexts below the directory that `scratch` gives; `file_source` gives the source
    of a scheme."""

    def __init__(self, scratch: Callable[[], str], file_source: Callable[[str], FileSource]) -> None:
        self._scratch = scratch
        self._file_source = file_source
        self._count = 0
        self._keep_git = False
        self._commit_times = False

    def load(self, request: BuildRequest) -> Contexts:
        """Raises `UserError` `context-not-found`, `dockerfile-not-found`, `context-is-empty`,
        `invalid-control-argument`."""
        contexts = Contexts()
        self._keep_git = control_switch(request.build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")
        self._commit_times = bool(request.build_args.get("SOURCE_DATE_EPOCH"))
        for given, value in request.named_contexts.items():
            name = _context_name(given)
            contexts.inputs[name] = self._named(name, value, contexts)
        root = self._main(request, contexts)
        if not contexts.dockerfile:
            self._read_dockerfile(request, root, contexts)
        exclude: tuple[str, ...] = ()
        if root:
            lines, _ = read_ignore_file(root, self._ignore_base(request, root, contexts))
            exclude = tuple(lines)
        own = request.context == "-" or not os.path.isdir(request.context)
        contexts.trees[MAIN] = HostTree(root=root or self._fresh(), exclude=exclude, own=own)
        return contexts

    def _main(self, request: BuildRequest, contexts: Contexts) -> str:
        text = request.context
        if text == "-":
            return self._standard_input(contexts, sys.stdin.buffer)
        if os.path.isdir(text):
            return os.path.realpath(text)
        remote = self._remote(text, contexts, MAIN)
        if remote is not None:
            return remote
        near = nearest(os.path.basename(text), _listing(os.path.dirname(text) or "."))
        raise UserError.of(
            "context-not-found", f"the build context {text} is neither a directory nor an archive",
            hint=f"did you mean {os.path.join(os.path.dirname(text), near)}?" if near else "name a directory, a URL, or - for standard input",
        )  # fmt: skip

    def _remote(self, text: str, contexts: Contexts, name: str) -> str | None:
        from arkwright.sources.git import parse_git_url

        if os.path.isfile(text):
            return self._local_archive(text, contexts, name)
        git = parse_git_url(text)
        if git is not None:
            source = self._file_source("git")
            pinned = contexts.pinned[name] = source.pin(self._with_defaults(git))
            directory = self._fresh()
            source.materialise(pinned, directory)
            contexts.commit_epoch = source.time(pinned)
            _note_time(contexts, name, contexts.commit_epoch)
            return directory
        if not text.startswith(_WEB):
            return None
        path, time = self._download(text, contexts, name)
        with open(path, "rb") as file:
            if name == MAIN or _is_archive(file):
                root = self._bytes(file, contexts, _shown(text), name)
            else:
                # A named context is never a Dockerfile: the one file is what it holds.
                root = os.path.dirname(path)
        _note_time(contexts, name, time)
        return root

    def _local_archive(self, path: str, contexts: Contexts, name: str) -> str | None:
        """A local archive, unpacked; None for a file that is none."""
        try:
            with open(path, "rb") as file:
                return self._bytes(file, contexts, path, name) if _is_archive(file) else None
        except OSError as error:
            raise UserError.of("context-not-found", f"cannot read {path}: {error.strerror}") from error

    def _with_defaults(self, git: SourceOp) -> SourceOp:
        """What build arguments say about a checkout, where its URL says nothing."""
        attrs = dict(git.attrs)
        if self._keep_git:
            attrs.setdefault("keep-git-dir", "true")
        if self._commit_times:
            attrs.setdefault("mtime", "commit")
        return SourceOp(identifier=git.identifier, attrs=tuple(sorted(attrs.items())))

    def _download(self, url: str, contexts: Contexts, name: str) -> tuple[str, int | None]:
        """A file's path, and its time if the server says one."""
        source = self._file_source("https")
        pinned = contexts.pinned[name] = source.pin(SourceOp(identifier=url))
        directory = self._fresh()
        source.materialise(pinned, directory)
        return os.path.join(directory, os.listdir(directory)[0]), source.time(pinned)

    def _standard_input(self, contexts: Contexts, stream: BinaryIO) -> str:
        import shutil

        spool_path = os.path.join(self._fresh(), "stdin")
        with open(spool_path, "w+b") as spool:
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            return self._bytes(spool, contexts, "<stdin>", MAIN)

    def _bytes(self, file: BinaryIO, contexts: Contexts, shown: str, name: str) -> str:
        """An archive becomes the context; any other bytes are a Dockerfile without a context."""
        if not file.read(1):
            raise UserError.of("context-is-empty", f"{shown} gave no bytes")
        if _is_archive(file):
            from arkwright.sources.local import unpack_context

            directory = self._fresh()
            _note_time(contexts, name, unpack_context(file, directory))
            return directory
        contexts.dockerfile = _text(file.read(), shown)
        contexts.dockerfile_path = shown
        return ""

    def _read_dockerfile(self, request: BuildRequest, root: str, contexts: Contexts) -> None:
        if request.dockerfile == "-":
            contexts.dockerfile = _text(sys.stdin.buffer.read(), "<stdin>")
            contexts.dockerfile_path = "<stdin>"
            return
        if request.dockerfile.startswith(_WEB):
            shown = _shown(request.dockerfile)
            with open(self._download(request.dockerfile, contexts, _DOCKERFILE)[0], "rb") as file:
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
        if value.startswith("target:"):
            raise UsageError.of(
                "not-built-yet",
                f"--build-context {name}={value}: the result of another target is not built yet",
                hint="make it a stage of this file, or save it and name it with oci-layout://",
            )
        scratch = Contexts()
        own = not os.path.isdir(value)
        root = self._remote(value, scratch, name) if own else os.path.realpath(value)
        if root is None:
            raise UserError.of(
                "context-not-found", f"the named context {name}={value} is neither a directory, an archive, a URL nor an image",
                hint="write NAME=PATH, NAME=docker-image://REF, NAME=oci-layout:///PATH:TAG, or a URL",
            )  # fmt: skip
        lines, _ = read_ignore_file(root, "")
        contexts.trees[name] = HostTree(root=root, exclude=tuple(lines), own=own)
        contexts.times.update(scratch.times)
        contexts.pinned.update(scratch.pinned)
        return f"local://{name}"

    def _fresh(self) -> str:
        self._count += 1
        path = os.path.join(self._scratch(), f"context-{self._count}")
        os.makedirs(path, mode=0o700)
        return path


def control_switch(build_args: Mapping[str, str], name: str) -> bool:
    """A build argument that switches something on, as Go's strconv.ParseBool reads it.

    Raises `UserError` `invalid-control-argument`.
    """
    text = build_args.get(name, "")
    if text in _FALSE:
        return False
    if text not in _TRUE:
        raise UserError.of(
            "invalid-control-argument", f"{name}={text} is neither true nor false", hint="write 1 or 0"
        )
    return True


def _is_archive(file: BinaryIO) -> bool:
    """By its first bytes; leaves the file at its start."""
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"


def _note_time(contexts: Contexts, name: str, time: int | None) -> None:
    if time:
        contexts.times[name] = time


def _context_name(text: str) -> str:
    """The name, with its platform spelt as the front end looks it up (`app::linux/arm64`).

    Raises `UserError` `invalid-platform`.
    """
    name, separator, platform = text.lower().partition("::")
    return f"{name}::{parse_platform(platform)}" if separator else name


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
