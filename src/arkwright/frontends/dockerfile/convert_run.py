"""RUN: an exec op with its mounts, environment and command."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Literal, cast

from arkwright.diagnostics.errors import Denied
from arkwright.frontends.dockerfile import arguments, syntax
from arkwright.frontends.dockerfile.convert_config import with_shell
from arkwright.frontends.dockerfile.draft import Inputs, Ref, clean, join
from arkwright.frontends.dockerfile.mounts import RunMount, parse_mount
from arkwright.frontends.dockerfile.plan import origin_key
from arkwright.frontends.dockerfile.state import Step
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Heredoc
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.graph.definition import VertexMetadata
from arkwright.graph.ops import ExecOp, FileOp, MkFileAction, Mount, SecretEnv

Network = Literal["default", "none", "host"]
Security = Literal["sandbox", "insecure"]
_SCRIPTS = "/dev/pipes/"
_SSH_AGENT = "/run/buildkit/ssh_agent."


def convert_run(step: Step, instruction: syntax.Run) -> None:
    """Run a command in the stage's tree; its result is the new tree."""
    state, build = step.state, step.build
    if instruction.devices:
        raise step.fail("unsupported-flag", "RUN --device is not supported yet", instruction.devices[0].span)
    mounts = _Mounts(step)
    args = _arguments(step, instruction, mounts)
    for mount in instruction.mounts:
        mounts.add(parse_mount(mount, step.expand))
    request = build.request
    op = ExecOp(
        args=args,
        env=tuple(f"{name}={value}" for name, value in mounts.environment().items()),
        cwd=state.workdir,
        user=state.config.user,
        hostname=request.hostname or request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        mounts=mounts.all(),
        network=_network(step, instruction.network),
        security=_security(step, instruction.security),
        extra_hosts=request.extra_hosts,
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        secret_env=tuple(mounts.secret_env),
    )
    state.tree = build.draft.add(op, mounts.inputs.refs, platform=state.platform, metadata=step.metadata())
    step.record("RUN " + " ".join([*_shown_args(step), *args]), layer=True)


def _shown_args(step: Step) -> list[str]:
    """`|2 A=1 B=2`, as histories show the build arguments of a step."""
    shown = [f"{name}={step.state.env.get(name, value or '')}" for name, value in step.state.args.items()]
    return [f"|{len(shown)}", *shown] if shown else []


def _arguments(step: Step, instruction: syntax.Run, mounts: _Mounts) -> tuple[str, ...]:
    command, heredocs = instruction.command, instruction.heredocs
    if not heredocs:
        return with_shell(step.state, command)
    text = command.words[0].text
    if arguments.parse_heredoc_word(text) is None:
        # The shell reads the heredocs itself: give them back to it as they were.
        bodies = "".join(f"\n{heredoc.content.text}{heredoc.name}" for heredoc in heredocs)
        return with_shell(step.state, command, text + bodies)
    body = heredocs[0].body()
    if body.startswith("#!") and step.state.platform.os != "windows":
        return with_shell(step.state, command, mounts.add_script(heredocs[0], body))
    return with_shell(step.state, command, body)


def _network(step: Step, flag: Token | None) -> Network:
    if flag is None or flag.text == "default":
        return cast(Network, step.build.request.network or "default")
    if flag.text not in ("none", "host"):
        raise step.fail(
            "invalid-network",
            f"--network={flag.text} is not default, none or host",
            flag.span,
            hint=did_you_mean(flag.text, ("default", "none", "host")),
        )
    # Who gives every step the host's network has allowed it.
    if flag.text == "host" and step.build.request.network != "host":
        _require_entitlement(step, flag, "network.host", "asks for the network of the host")
    return cast(Network, flag.text)


def _security(step: Step, flag: Token | None) -> Security:
    if flag is None or flag.text == "sandbox":
        return "sandbox"
    if flag.text != "insecure":
        raise step.fail(
            "invalid-security",
            f"--security={flag.text} is not sandbox or insecure",
            flag.span,
            hint=did_you_mean(flag.text, ("sandbox", "insecure")),
        )
    _require_entitlement(step, flag, "security.insecure", "asks to run without its sandbox")
    return "insecure"


def _require_entitlement(step: Step, flag: Token, entitlement: str, wish: str) -> None:
    """Raise `Denied` (`entitlement-missing`) unless the build allows what the flag asks for."""
    if entitlement in step.build.request.allow:
        return
    raise Denied.of(
        "entitlement-missing",
        f"the step {wish}, and the build does not allow that",
        flag.span,
        hint=f"pass --allow {entitlement} if you trust this Dockerfile",
        details={"rule": entitlement, "evidence": f"--{entitlement.partition('.')[0]}={flag.text}"},
    )


class _Mounts:
    """The mounts of one RUN with the inputs that they need; the root file system comes first."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.inputs = Inputs()
        self.root = Mount(dest="/", input=self.inputs.index(step.state.tree), output=0)
        self.secret_env: list[SecretEnv] = []
        self._found: list[Mount] = []
        self._agents: list[str] = []
        self._default_agents = 0

    def all(self) -> tuple[Mount, ...]:
        """The root, then the others, parents before what is mounted below them."""
        return (self.root, *sorted(self._found, key=lambda mount: mount.dest.split("/")))

    def environment(self) -> dict[str, str]:
        env = dict(self.step.state.env)
        if self._agents:
            env.setdefault("SSH_AUTH_SOCK", self._agents[0])
        return env

    def add_script(self, heredoc: Heredoc, body: str) -> str:
        """Mount a heredoc as an executable file; returns its path."""
        action = MkFileAction(input=-1, output=0, path="/" + heredoc.name, mode=0o755, data=body.encode())
        metadata = VertexMetadata(name="[internal] preparing inline document", spans=(heredoc.word.span,))
        script = self.step.build.draft.add(FileOp(actions=(action,)), metadata=metadata)
        self._found.append(Mount(dest=_SCRIPTS.rstrip("/"), input=self.inputs.index(script), readonly=True))
        return posixpath.join(_SCRIPTS, heredoc.name)

    def add(self, mount: RunMount) -> None:
        for key, token in _ignored(mount):
            message = f"{key} means nothing for a mount of type {mount.type}"
            self.step.build.warn(warning("ignored-mount-key", message, token.span))
        if mount.type == "secret":
            self._secret(mount)
        elif mount.type == "ssh":
            self._ssh(mount)
        elif mount.type == "tmpfs":
            self._tmpfs(mount)
        elif mount.type == "cache":
            self._cache(mount)
        else:
            self._bind(mount)

    def _bind(self, mount: RunMount) -> None:
        tree, source = self._tree(mount), clean(mount.source.text if mount.source else "/")
        self.step.build.draft.use(tree, source)
        self._found.append(
            Mount(
                dest=self._target(mount),
                input=self.inputs.index(tree),
                selector="" if source == "/" else source,
                readonly=not mount.writable,
            )
        )

    def _cache(self, mount: RunMount) -> None:
        tree = self._tree(mount) if mount.origin is not None else None
        source = clean(mount.source.text if mount.source else "/")
        self.step.build.draft.use(tree, source)
        namespace = self.step.build.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
        # POSIX keeps two slashes at the beginning; the names of two spellings of a path must be one.
        target = re.sub("^/+", "/", mount.target.text) if mount.target else "."
        identity = mount.identity or posixpath.normpath(target)
        self._found.append(
            Mount(
                dest=self._target(mount),
                type="cache",
                input=self.inputs.index(tree),
                selector="" if source == "/" else source,
                readonly=mount.writable is False,
                cache_id=f"{namespace}/{identity}" if namespace else identity,
                sharing=mount.sharing or "shared",
                mode=-1 if mount.mode is None else mount.mode,
                uid=mount.uid or 0,
                gid=mount.gid or 0,
            )
        )

    def _tmpfs(self, mount: RunMount) -> None:
        self._found.append(
            Mount(
                dest=self._target(mount),
                type="tmpfs",
                tmpfs_size=mount.size,
                readonly=mount.writable is False,
            )
        )

    def _secret(self, mount: RunMount) -> None:
        target = mount.target.text if mount.target is not None else ""
        identity = mount.source.text if mount.source is not None else mount.identity
        identity = identity or posixpath.basename(target.rstrip("/"))
        if mount.env is not None:
            self.secret_env.append(SecretEnv(mount.env, identity, mount.required))
            if not target:
                return
        dest = (
            join(self.step.state.workdir, target)
            if target
            else "/run/secrets/" + posixpath.basename(identity)
        )
        self._found.append(self._credential(mount, dest, identity, 0o400))

    def _ssh(self, mount: RunMount) -> None:
        if mount.target is not None:
            dest = join(self.step.state.workdir, mount.target.text)
        else:
            dest = f"{_SSH_AGENT}{self._default_agents}"
            self._default_agents += 1
        self._agents.append(dest)
        self._found.append(self._credential(mount, dest, mount.identity or "default", 0o600))

    def _credential(self, mount: RunMount, dest: str, identity: str, mode: int) -> Mount:
        return Mount(
            dest=dest,
            type=mount.type,
            secret_id=identity,
            required=mount.required,
            readonly=not mount.writable,
            mode=mode if mount.mode is None else mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
        )

    def _target(self, mount: RunMount) -> str:
        target = join(self.step.state.workdir, mount.target.text if mount.target is not None else ".")
        if target == "/":
            place = mount.target or mount.span
            raise self.step.fail("invalid-mount", "nothing can be mounted over /", place.span)
        return target

    def _tree(self, mount: RunMount) -> Ref | None:
        build, origin = self.step.build, mount.origin
        if origin is None:
            return build.context()
        index = self.step.state.planned.origins.get(origin_key(origin))
        if index is not None:
            return build.states[index].tree
        return build.tree_of(build.external(origin, f"--mount from={origin.text}"), origin)


def _ignored(mount: RunMount) -> Iterator[tuple[str, Token]]:
    """Keys that are accepted for the habit of it, and change nothing."""
    if mount.type in ("bind", "tmpfs") and mount.identity:
        yield "id", mount.span
    if mount.type in ("tmpfs", "ssh") and mount.origin is not None:
        yield "from", mount.origin
    if mount.type == "tmpfs" and mount.source is not None:
        yield "source", mount.source
    if mount.type in ("secret", "ssh") and mount.writable:
        yield "rw", mount.span
