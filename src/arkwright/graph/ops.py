"""The operations of the graph: one frozen struct per op of BuildKit's LLB `Op`.

Names and shapes follow `solver/pb/ops.proto`, so that LLB can be imported and exported without
loss. Nothing here is ever run: ops are data.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Pairs = tuple[tuple[str, str], ...]


class _Op(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op"):
    pass


class SourceOp(_Op, frozen=True, kw_only=True, tag="source"):
    """Bytes from outside. `identifier` is one of

    - `docker-image://NAME[:TAG][@DIGEST]`, `oci-layout:///DIR[:TAG][@DIGEST]`
    - `local://CONTEXT` (a context's name in the session)
    - `http://…`, `https://…`, `git://URL` (any URL that git takes, after the prefix)

    `attrs` are sorted pairs; the keys that each scheme knows are listed in `sources.base`.
    """

    identifier: str
    attrs: Pairs = ()


MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]


class Mount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount of an exec op.

    `input` indexes the vertex' inputs (-1: an empty or generated file system), `selector` a path
    inside it. `output` is the index of the exec's result that a writable mount becomes (-1:
    changes are thrown away). The root mount has `dest="/"`.
    """

    dest: str
    input: int = -1
    output: int = -1
    selector: str = ""
    readonly: bool = False
    type: MountType = "bind"
    cache_id: str = ""
    sharing: Sharing = "shared"
    tmpfs_size: int = 0
    secret_id: str = ""
    required: bool = False
    mode: int = -1
    uid: int = 0
    gid: int = 0


class Ulimit(msgspec.Struct, frozen=True):
    """A resource limit by its ulimit name (`nofile`); -1 is unlimited."""

    name: str
    soft: int
    hard: int


class SecretEnv(msgspec.Struct, frozen=True):
    """A secret handed to a step as an environment variable."""

    name: str
    secret_id: str
    required: bool = False


class ExecOp(_Op, frozen=True, kw_only=True, tag="exec"):
    """Run a command. Output 0 is the root file system after it. `user` is as written
    (`name`, `uid`, `name:group` …) and is resolved inside the root when the step runs."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    mounts: tuple[Mount, ...] = ()
    network: Literal["default", "none", "host"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 0
    cgroup_parent: str = ""
    secret_env: tuple[SecretEnv, ...] = ()
    valid_exit_codes: tuple[int, ...] = (0,)


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ownership as the user wrote it: names or numbers; an empty group means the user's primary
    group for a name, and the same number for a number. Names resolve in the action's base."""

    user: str = ""
    group: str = ""


class CopyAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="copy"):
    """Copy `src` of `secondary_input` to `dest` of `input` (LLB FileActionCopy).

    `mode` is an octal number in text, or a symbolic mode; empty keeps the source's.
    """

    input: int
    secondary_input: int
    output: int = -1
    src: str
    dest: str
    owner: Owner | None = None
    mode: str = ""
    follow_symlink: bool = False
    dir_copy_contents: bool = False
    attempt_unpack: bool = False
    create_dest_path: bool = False
    allow_wildcard: bool = False
    allow_empty_wildcard: bool = False
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    parents: bool = False
    required_paths: tuple[str, ...] = ()
    always_replace_existing_dest_paths: bool = False


class MkFileAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="mkfile"):
    """Write `data` to `path`, replacing a file; `mode` is numeric or, when `symbolic`, applied
    to 0644."""

    input: int
    output: int = -1
    path: str
    mode: int = 0o644
    symbolic: str = ""
    data: bytes = b""
    owner: Owner | None = None
    create_parents: bool = False


class MkDirAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="mkdir"):
    """Make `path`, with its parents when `make_parents`; existing directories are untouched."""

    input: int
    output: int = -1
    path: str
    mode: int = 0o755
    make_parents: bool = False
    owner: Owner | None = None


class SymlinkAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="symlink"):
    """Make a symbolic link `new_path` to `old_path`."""

    input: int
    output: int = -1
    old_path: str
    new_path: str
    owner: Owner | None = None


class RmAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rm"):
    """Remove `path`, a tree too."""

    input: int
    output: int = -1
    path: str
    allow_not_found: bool = False
    allow_wildcard: bool = False


FileAction = CopyAction | MkFileAction | MkDirAction | SymlinkAction | RmAction


class FileOp(_Op, frozen=True, kw_only=True, tag="file"):
    """Ordered file actions. An action's `input` counts the vertex' inputs first, then earlier
    actions' results; -1 is an empty tree. `output` >= 0 makes its result an output."""

    actions: tuple[FileAction, ...]


class MergeOp(_Op, frozen=True, kw_only=True, tag="merge"):
    """Overlay the inputs, later ones above; the layers are joined, not copied."""


class DiffOp(_Op, frozen=True, kw_only=True, tag="diff"):
    """The changes that turn input 0 (`lower`) into input 1 (`upper`); -1 stands for empty."""

    lower: int = -1
    upper: int = -1


class BuildOp(_Op, frozen=True, kw_only=True, tag="build"):
    """Solve a definition that input 0 holds as a file. Carried, not yet solved."""

    attrs: Pairs = ()


class PassthroughOp(_Op, frozen=True, kw_only=True, tag="passthrough"):
    """Outputs are the inputs, re-wired."""

    outputs: tuple[int, ...] = ()


Op = SourceOp | ExecOp | FileOp | MergeOp | DiffOp | BuildOp | PassthroughOp
