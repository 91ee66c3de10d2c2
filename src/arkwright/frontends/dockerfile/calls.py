"""What a file can be asked without building it: its findings, its targets, the inputs of a target."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, RemoteError, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import Bridge, FrontendRequest
from arkwright.frontends.dockerfile import mounts, syntax
from arkwright.frontends.dockerfile.build import Opened, open_file, warn_unused
from arkwright.frontends.dockerfile.buildargs import global_args
from arkwright.frontends.dockerfile.convert import Converter
from arkwright.frontends.dockerfile.findings import checks_failed
from arkwright.frontends.dockerfile.lint_stage import refused_platform, unconverted
from arkwright.frontends.dockerfile.stages import Stage, StageTable, origins
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.frontends.dockerfile.words import Rules, WordError, expand
from arkwright.oci.platform import Platform

_ALL = 1 << 30


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """`findings` are warnings; `errors` what a build would fail with, `checks-failed` included;
    `skipped` says why some checks could not run."""

    path: str
    findings: tuple[Diagnostic, ...] = ()
    errors: tuple[Diagnostic, ...] = ()
    skipped: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A stage as a target. `base` and `platform` are as written."""

    name: str
    description: str
    default: bool
    base: str
    platform: str
    span: Span


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """A build argument; `value` is None when it has none."""

    name: str
    description: str
    value: str | None
    span: Span


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """A secret, agent or cache that steps mount."""

    name: str
    required: bool
    span: Span


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What can be given to the build of a target."""

    name: str
    description: str
    args: tuple[Argument, ...]
    secrets: tuple[Need, ...]
    ssh: tuple[Need, ...]
    caches: tuple[Need, ...]


def check(bridge: Bridge, request: FrontendRequest) -> CheckReport:
    """All findings of a file. Every stage is converted, or those of `request.target`; nothing runs.

    Without a base image's config, the checks that need it are left out for its stages.
    """
    found: list[Diagnostic] = []
    try:
        opened = open_file(bridge, request, found.append, _ALL)
        if request.target:
            opened.table.target(request.target)
    except UserError as error:
        return CheckReport(path=request.filename, findings=tuple(found), errors=error.diagnostics)
    run = _Check(bridge, request, opened)
    for platform in request.platforms or (request.build_platform,):
        run.platform(platform)
    if opened.findings.fatal:
        run.errors += checks_failed(opened.findings.names).diagnostics
    place = {id(item): number for number, item in enumerate(found)}
    found.sort(key=lambda item: (item.labels[0].span.start if item.labels else _ALL, place[id(item)]))
    return CheckReport(
        path=request.filename,
        findings=tuple(found),
        errors=tuple(dict.fromkeys(run.errors)),
        skipped=tuple(dict.fromkeys(run.skipped)),
    )


class _Check:
    """Converts stages for what conversion warns about."""

    def __init__(self, bridge: Bridge, request: FrontendRequest, opened: Opened) -> None:
        self.bridge = bridge
        self.request = request
        self.opened = opened
        self.errors: list[Diagnostic] = []
        self.skipped: list[str] = []

    def platform(self, platform: Platform) -> None:
        table = self.opened.table
        wanted = [table.target(self.request.target)] if self.request.target else reversed(table.stages)
        done: set[int] = set()
        failed: set[int] = set()
        used: set[str] = set()
        offline = False
        for stage in wanted:
            if stage.index in done:
                continue
            if offline:
                failed.add(stage.index)
                self.skipped.append(f"checks that need the base image of {stage.title} did not run either")
                continue
            converter = self._converter(stage, platform)
            try:
                converter.convert()
            except RemoteError as error:
                offline = True
                self._skip(stage, error)
            except UserError as error:
                if error.code == "unknown-image":
                    self._skip(stage, error)
                elif error.code == "no-matching-platform":
                    self.opened.findings.add(refused_platform(error))
                else:
                    self.errors += error.diagnostics
            reached = set(converter.build.states)
            done |= reached
            failed |= {stage.index} - reached
            used |= converter.build.used_args
        findings = self.opened.findings
        for found in unconverted(table, failed - done):
            findings.add(found)
        if not failed:
            warn_unused(self.request, self.opened.file, used, findings)

    def _converter(self, stage: Stage, platform: Platform) -> Converter:
        request = msgspec.structs.replace(self.request, target=str(stage.index))
        file, findings = self.opened.file, self.opened.findings
        return Converter(self.bridge, request, self.opened.table, platform, file.escape, findings.add)

    def _skip(self, stage: Stage, error: ArkwrightError) -> None:
        self.skipped.append(f"checks that need the base image of {stage.title} did not run: {error}")


def targets(bridge: Bridge, request: FrontendRequest) -> tuple[Target, ...]:
    """The stages of a file, in order. Raises `UserError`."""
    table = _opened(bridge, request).table
    return tuple(
        Target(
            name=stage.name or str(stage.index),
            description=_description(stage.head, stage.head.stage),
            default=stage is table.stages[-1],
            base=stage.head.base.text,
            platform=stage.head.platform.text if stage.head.platform is not None else "",
            span=stage.head.span,
        )
        for stage in table.stages
    )


def outline(bridge: Bridge, request: FrontendRequest) -> Outline:
    """What the target takes. Raises `UserError`."""
    opened = _opened(bridge, request)
    table = opened.table
    target = table.target(request.target)
    platform = (request.platforms or (request.build_platform,))[0]
    known = global_args(table.args, request, platform, target.name, opened.file.escape)
    rules = Rules(escape=opened.file.escape)
    stages = _needed(table, target, known, rules)
    args: dict[str, Argument] = {}
    needs: dict[str, dict[str, Need]] = {"secret": {}, "ssh": {}, "cache": {}}
    for arg in table.args:
        _arguments(arg, request, dict(known), rules, args)
    envs: dict[int | None, dict[str, str]] = {}
    for stage in stages:
        base = table.before(_expanded(stage.head.base.text, known, rules), stage.index)
        env = envs[stage.index] = dict(envs.get(base, {}))
        for item in stage.instructions:
            if isinstance(item, syntax.Arg):
                _arguments(item, request, env, rules, args, known)
            elif isinstance(item, syntax.Run):
                for kind, need in _needs(item, {**known, **env}, rules):
                    needs[kind].setdefault(need.name, need)
    return Outline(
        name=target.name,
        description=_description(target.head, target.head.stage),
        args=tuple(args.values()),
        secrets=tuple(needs["secret"].values()),
        ssh=tuple(needs["ssh"].values()),
        caches=tuple(needs["cache"].values()),
    )


def _opened(bridge: Bridge, request: FrontendRequest) -> Opened:
    return open_file(bridge, request, lambda _: None, 0)


def _description(instruction: syntax.Instruction, name: Token | None) -> str:
    """The comment above that begins with the name; "" if there is none."""
    if name is None:
        return ""
    names = (name.text, name.span.text)
    for comment in instruction.comments:
        first, _, rest = comment.text.partition(" ")
        if first in names and rest.strip():
            return rest.strip()
    return ""


def _needed(table: StageTable, target: Stage, args: dict[str, str], rules: Rules) -> list[Stage]:
    """The stages that a target is made of, in the file's order."""
    needed: set[int] = set()
    waiting = [target.index]
    while waiting:
        index = waiting.pop()
        if index in needed:
            continue
        needed.add(index)
        stage = table.stages[index]
        base = table.before(_expanded(stage.head.base.text, args, rules), index)
        waiting += [] if base is None else [base]
        for instruction in stage.instructions:
            found = (table.resolve(origin, index) for origin in origins(instruction))
            waiting += [number for number in found if number is not None]
    return [table.stages[index] for index in sorted(needed)]


def _arguments(
    instruction: syntax.Arg,
    request: FrontendRequest,
    env: dict[str, str],
    rules: Rules,
    found: dict[str, Argument],
    inherited: dict[str, str] | None = None,
) -> None:
    for item in instruction.items:
        name = item.name.text
        value = request.build_args.get(name)
        if value is None and item.default is not None:
            value = _expanded(item.default.text, env, rules)
        if value is None and inherited is not None:
            value = inherited.get(name)
        if value is not None:
            env[name] = value
        earlier = found.get(name)
        description = _description(instruction, item.name) or (earlier.description if earlier else "")
        if earlier is not None and (value is None or not earlier.description):
            found[name] = msgspec.structs.replace(
                earlier, description=description, value=earlier.value if value is None else value
            )
        elif earlier is None:
            found[name] = Argument(name=name, description=description, value=value, span=item.name.span)


def _expanded(text: str, env: dict[str, str], rules: Rules) -> str:
    try:
        return expand(text, env, rules).text
    except WordError:
        return text


def _needs(run: syntax.Run, env: dict[str, str], rules: Rules) -> Iterator[tuple[str, Need]]:
    for token in run.mounts:
        mount = mounts.parse_mount(token, lambda word: Token(_expanded(word.text, env, rules), word.span))
        target = mount.target.text if mount.target is not None else ""
        name = mount.identity
        if mount.type == "secret":
            name = (mount.source.text if mount.source is not None else name) or posixpath.basename(
                target.rstrip("/")
            )
        elif mount.type == "ssh":
            name = name or "default"
        elif mount.type == "cache":
            name = name or posixpath.normpath(target or ".")
        else:
            continue
        yield mount.type, Need(name=name, required=mount.required, span=token.span)
