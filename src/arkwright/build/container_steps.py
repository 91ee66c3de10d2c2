"""What the commands `run` and `copy` add to a working container's graph.

The vertices are those that the Dockerfile front end makes of RUN and COPY, so that both find each
other's results in the cache. What is read of the host is a context by itself, named by its
content: so the graph says for good what was copied, wherever it has come from.
"""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from arkwright.build import containers
from arkwright.build.containers import Grow, Grown
from arkwright.build.means import Means
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.frontends.dockerfile import values
from arkwright.frontends.dockerfile.draft import Inputs, clean, join
from arkwright.frontends.dockerfile.mounts import RunMount, parse_mount
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.graph.definition import Edge, Vertex, VertexMetadata
from arkwright.graph.ops import CopyAction, ExecOp, FileOp, Mount, Op, Owner, SecretEnv, SourceOp
from arkwright.graph.state import State
from arkwright.images.containers import Container, find_container
from arkwright.oci.platform import Platform
from arkwright.ops.contexts import ContextReader
from arkwright.sources.base import HostTree
from arkwright.sources.patterns import has_wildcard

_WILD = "*?["


class RunCommand(msgspec.Struct, frozen=True, kw_only=True):
    """`arkwright run ID -- args`; `env`, `user` and `cwd` are for this command alone, `mounts` as the
    value of `RUN --mount`, `network` one of `default`, `none`, `host`."""

    args: tuple[str, ...]
    env: Mapping[str, str] = {}
    user: str = ""
    cwd: str = ""
    network: str = "default"
    hostname: str = ""
    mounts: tuple[str, ...] = ()
    no_cache: bool = False


class CopyCommand(msgspec.Struct, frozen=True, kw_only=True):
    """`arkwright copy ID sources destination`; `origin` is an image or a container to copy from."""

    sources: tuple[str, ...]
    destination: str
    origin: str = ""
    chown: str = ""
    chmod: str = ""
    exclude: tuple[str, ...] = ()


def running(command: RunCommand) -> Grow:
    """Run a command in the container's tree.

    The function raises `UserError` `invalid-mount`, `unknown-mount-key`, `copy-source-missing`, and as
    `containers.pinned_image` does.
    """

    def grow(container: Container, means: Means) -> Grown:
        adding = _Adding(container, means)
        config = container.config.config
        env = {one.partition("=")[0]: one.partition("=")[2] for one in config.env}
        for name, value in command.env.items():
            env.pop(name, None)
            env[name] = value
        cwd = join(clean(config.working_dir), command.cwd) if command.cwd else clean(config.working_dir)
        mounts = _Mounts(adding, cwd)
        for text in command.mounts:
            mounts.add(parse_mount(_token("--mount", text), lambda token: token))
        op = ExecOp(
            args=command.args,
            env=tuple(f"{name}={value}" for name, value in mounts.environment(env).items()),
            cwd=cwd,
            user=command.user or config.user,
            hostname=command.hostname,
            mounts=mounts.all(),
            network=cast('Literal["default", "none", "host"]', command.network),
            secret_env=tuple(mounts.secret_env),
        )
        return adding.grown(
            op, f"RUN {shlex.join(command.args)}", "RUN " + " ".join(command.args),
            platform=container.platform, no_cache=command.no_cache,
        )  # fmt: skip

    return grow


def copying(command: CopyCommand) -> Grow:
    """Copy files into the container's tree, as COPY does.

    The function raises `UserError` `copy-source-missing`, `invalid-chown`, `invalid-chmod`,
    `unreadable-path`, and as `containers.pinned_image` does.
    """

    def grow(container: Container, means: Means) -> Grown:
        adding = _Adding(container, means)
        owner = values.parse_owner(_token("--chown", command.chown)) if command.chown else None
        mode = values.parse_mode(_token("--chmod", command.chmod)) if command.chmod else ""
        # Results of actions are numbered behind all inputs, so the inputs are gathered first.
        taken = [_taken(adding, command, source) for source in command.sources]
        workdir = clean(container.config.config.working_dir)
        destination = _destination(workdir, command.destination, len(taken))
        actions, current = [], adding.base
        for number, (index, source, wild) in enumerate(taken):
            actions.append(_action(index, source, wild, current, destination, owner, mode, command.exclude))
            current = len(adding.inputs.refs) + number
        actions[-1] = msgspec.structs.replace(actions[-1], output=0)
        shown = [f"--from={command.origin}"] if command.origin else []
        shown += [f"--chown={command.chown}"] if command.chown else []
        shown += [f"--chmod={mode}"] if mode else []
        text = " ".join(["COPY", *shown, *command.sources, command.destination])
        return adding.grown(FileOp(actions=tuple(actions)), text, text)

    return grow


def _action(
    index: int, source: str, wild: bool, current: int, destination: str, owner: Owner | None, mode: str,
    exclude: tuple[str, ...],
) -> CopyAction:  # fmt: skip
    # Without a character of a pattern it is COPY's own action, whose result the cache may have.
    plain = not any(char in source for char in f"{_WILD}\\")
    return CopyAction(
        input=current, secondary_input=index, src=source, dest=destination, owner=owner, mode=mode,
        exclude_patterns=exclude, create_dest_path=True, follow_symlink=True, dir_copy_contents=True,
        allow_wildcard=wild or plain, allow_empty_wildcard=plain,
    )  # fmt: skip


def _taken(adding: _Adding, command: CopyCommand, source: str) -> tuple[int, str, bool]:
    """The input that has a source, its path there, and whether that is a pattern."""
    if command.origin:
        return adding.origin(command.origin), clean(source), has_wildcard(source)
    path, pattern = os.path.abspath(source), False
    if not os.path.lexists(path) and any(char in source for char in _WILD):
        root, path = _split_pattern(path)
        pattern = True
    elif path == "/":
        root, path = "/", "/"
    else:
        root, path = os.path.split(path)
    probe = _action(0, clean(path), pattern, -1, "/", None, "", command.exclude)
    return adding.host(root, probe), clean(path), pattern


def _split_pattern(path: str) -> tuple[str, str]:
    """The deepest directory that a pattern names literally, and the rest."""
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if any(char in part for char in _WILD))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def _destination(workdir: str, text: str, count: int) -> str:
    """The absolute destination; a slash at its end says that it is a directory."""
    path = join(workdir, text)
    directory = count > 1 or text in ("", ".", "..") or text.endswith(("/", "/.", "/.."))
    return path + "/" if directory and path != "/" else path


class _Adding:
    """One vertex on top of a container's tree, with what it takes of elsewhere."""

    def __init__(self, container: Container, means: Means) -> None:
        self.container = container
        self.means = means
        self.inputs = Inputs()
        self.states: list[State] = []
        self.grown_from: Grown = Grown(state=containers.state_of(container), config=container.config)
        self.base = self.add(self.grown_from.state)

    def add(self, state: State) -> int:
        """The number of an input; -1 for the empty tree."""
        if state.edge is None:
            return -1
        known = [one.edge for one in self.states]
        if state.edge not in known:
            self.states.append(state)
            self.inputs.index(len(self.states) - 1)
            return len(self.states) - 1
        return known.index(state.edge)

    def host(self, root: str, action: CopyAction) -> int:
        """What an action takes of a directory of the host, as a context named by its content.

        Raises `UserError` `copy-source-missing`, `unreadable-path`.
        """
        tree = HostTree(root=os.path.realpath(root))
        try:
            digest = ContextReader(tree, self.means.stat_cache).selection(action)
        except OSError as error:
            code = "unreadable-path" if isinstance(error, PermissionError) else "copy-source-missing"
            raise UserError.of(code, f"cannot read {root}: {error.strerror}") from error
        name = digest.partition(":")[2]
        self._note(trees={name: tree})
        described = VertexMetadata(name=f"[internal] read {action.src.lstrip('/') or root}")
        return self.add(_state(SourceOp(identifier=f"local://{name}"), metadata=described))

    def origin(self, text: str) -> int:
        """The tree of another container, or of an image."""
        other = find_container(self.means.store, text)
        if other is not None:
            self._note(settled=other.settled, held=other.held, roots=other.roots, sources=other.sources)
            return self.add(containers.state_of(other))
        state, pinned = containers.pinned_image(text, self.container.platform, self.means)
        layers = self.means.image_layers.declare(pinned, "from").layers
        self._note(held=layers, roots=(containers.plain(pinned.manifest),))
        return self.add(state)

    def grown(
        self, op: Op, name: str, created_by: str, *, platform: Platform | None = None, no_cache: bool = False
    ) -> Grown:
        """The container with the vertex on top."""
        edges = tuple(state.edge for state in self.states if state.edge is not None)
        vertex = Vertex(op=op, inputs=edges, platform=platform)
        digest = vertex.digest()
        vertices: dict[str, Vertex] = {}
        metadata: dict[str, VertexMetadata] = {}
        for state in self.states:
            vertices.update(state.vertices)
            metadata.update(state.metadata)
        vertices[digest] = vertex
        shown = " ".join(name.split())
        label = name.partition(" ")[0]
        metadata[digest] = VertexMetadata(
            name=f"[{self.container.name}] {shown[:120]}", group=self.container.name, label=label
        )
        config = containers.history(self.container.config, created_by, layer=True)
        state = State(edge=Edge(digest), vertices=vertices, metadata=metadata)
        return msgspec.structs.replace(self.grown_from, state=state, config=config, no_cache=no_cache)

    def _note(
        self, *, trees: dict[str, HostTree] | None = None, settled: dict | None = None,  # type: ignore[type-arg]
        held: Sequence[str] = (), roots: Sequence[object] = (), sources: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        before = self.grown_from
        self.grown_from = msgspec.structs.replace(
            before, trees={**before.trees, **(trees or {})}, settled={**before.settled, **(settled or {})},
            held=(*before.held, *held), roots=(*before.roots, *roots), sources=(*before.sources, *sources),
        )  # fmt: skip


class _Mounts:
    """The mounts of one command; the root comes first."""

    def __init__(self, adding: _Adding, cwd: str) -> None:
        self._adding = adding
        self._cwd = cwd
        self._root = Mount(dest="/", input=adding.base, output=0)
        self._found: list[Mount] = []
        self._agents: list[str] = []
        self.secret_env: list[SecretEnv] = []

    def all(self) -> tuple[Mount, ...]:
        return (self._root, *sorted(self._found, key=lambda mount: mount.dest.split("/")))

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        return {"SSH_AUTH_SOCK": self._agents[0], **env} if self._agents else env

    def add(self, mount: RunMount) -> None:
        kind = mount.type
        target = mount.target.text if mount.target is not None else ""
        if kind in ("bind", "cache"):
            self._found.append(self._tree(mount, self._target(mount, target)))
        elif kind == "tmpfs":
            self._found.append(
                Mount(
                    dest=self._target(mount, target), type="tmpfs", tmpfs_size=mount.size,
                    readonly=mount.writable is False,
                )
            )  # fmt: skip
        elif kind == "secret":
            self._secret(mount, target)
        else:
            dest = join(self._cwd, target) if target else f"/run/buildkit/ssh_agent.{len(self._agents)}"
            self._agents.append(dest)
            self._found.append(_credential(mount, dest, mount.identity or "default", 0o600))

    def _tree(self, mount: RunMount, dest: str) -> Mount:
        source = mount.source.text if mount.source is not None else ""
        index, selector = -1, ""
        if mount.origin is not None:
            index = self._adding.origin(mount.origin.text)
            selector = "" if clean(source) == "/" else clean(source)
        elif mount.type == "bind":
            root, path = os.path.split(os.path.abspath(source or "."))
            action = CopyAction(input=-1, secondary_input=0, src=clean(path), dest="/")
            index, selector = self._adding.host(root, action), clean(path)
        if mount.type == "bind":
            return Mount(dest=dest, input=index, selector=selector, readonly=not mount.writable)
        return Mount(
            dest=dest, type="cache", input=index, selector=selector, readonly=mount.writable is False,
            cache_id=mount.identity or posixpath.normpath(dest), sharing=mount.sharing or "shared",
            mode=-1 if mount.mode is None else mount.mode, uid=mount.uid or 0, gid=mount.gid or 0,
        )  # fmt: skip

    def _secret(self, mount: RunMount, target: str) -> None:
        identity = mount.source.text if mount.source is not None else mount.identity
        identity = identity or posixpath.basename(target.rstrip("/"))
        if mount.env is not None:
            self.secret_env.append(SecretEnv(mount.env, identity, mount.required))
            if not target:
                return
        dest = join(self._cwd, target) if target else "/run/secrets/" + posixpath.basename(identity)
        self._found.append(_credential(mount, dest, identity, 0o400))

    def _target(self, mount: RunMount, text: str) -> str:
        target = join(self._cwd, text or ".")
        if target == "/":
            raise UserError.of("invalid-mount", "nothing can be mounted over /", mount.span.span)
        return target


def _credential(mount: RunMount, dest: str, identity: str, mode: int) -> Mount:
    return Mount(
        dest=dest, type=mount.type, secret_id=identity, required=mount.required, readonly=not mount.writable,
        mode=mode if mount.mode is None else mount.mode, uid=mount.uid or 0, gid=mount.gid or 0,
    )  # fmt: skip


def _state(op: Op, *, metadata: VertexMetadata) -> State:
    vertex = Vertex(op=op)
    digest = vertex.digest()
    return State(edge=Edge(digest), vertices={digest: vertex}, metadata={digest: metadata})


def _token(option: str, text: str) -> Token:
    """A word of the command line, with a place that errors can quote."""
    line = f"{option}={text}"
    return Token(text, Span(SourceFile("<command line>", line), len(option) + 1, len(line)))
