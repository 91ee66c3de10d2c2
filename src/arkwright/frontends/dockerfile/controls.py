"""Build arguments that are meant for the builder: `BUILDKIT_*` and SOURCE_DATE_EPOCH."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from arkwright.diagnostics.errors import Diagnostic, Label, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import Bridge, FrontendRequest
from arkwright.frontends.dockerfile import gitref, values
from arkwright.frontends.dockerfile.bases import SCRATCH
from arkwright.frontends.dockerfile.buildargs import EPOCH, global_args, is_seconds
from arkwright.frontends.dockerfile.stages import Stage, StageTable
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Add, Arg, ArgItem
from arkwright.frontends.dockerfile.tokens import warning
from arkwright.frontends.dockerfile.words import Rules, expand_token
from arkwright.graph.ops import SourceOp

MULTI_PLATFORM = "BUILDKIT_MULTI_PLATFORM"
_INLINE_CACHE = "BUILDKIT_INLINE_CACHE"
_SCANS = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_Warn = Callable[[Diagnostic], None]


def control_switch(build_args: Mapping[str, str], name: str) -> bool:
    """Whether a build argument switches something on. Raises `UserError` `invalid-control-argument`."""
    text = build_args.get(name, "")
    try:
        return values.parse_bool(text) if text else False
    except ValueError as error:
        raise UserError.of("invalid-control-argument", f"{name} is {text!r}: {error}") from error


def check_controls(request: FrontendRequest, table: StageTable, warn: _Warn) -> None:
    """Refuse or tell what an argument asks for and nothing does.

    Raises `UserError` `invalid-control-argument`.
    """
    build_args = request.build_args
    several = control_switch(build_args, MULTI_PLATFORM)
    if build_args.get(MULTI_PLATFORM) and not several and len(request.platforms) > 1:
        raise UserError.of(
            "invalid-control-argument",
            f"{MULTI_PLATFORM}={build_args[MULTI_PLATFORM]} does not go with {len(request.platforms)} platforms",
            hint="leave it away: an image of several platforms is an index",
        )
    # The build itself obeys it, as `--cache-to type=inline`.
    control_switch(build_args, _INLINE_CACHE)
    for name, span in _scans(build_args, table):
        message = f"{name} asks for a scan, and no attestations are made yet"
        warn(warning("no-attestations", message, *([span] if span else [])))


def _scans(build_args: Mapping[str, str], table: StageTable) -> Iterator[tuple[str, Span | None]]:
    for name in _SCANS:
        if build_args.get(name, "false").lower() not in ("", "false", "0"):
            yield name, None
            return
    for item in _declared(table):
        asked = item.default is not None and item.default.text.lower() not in ("", "false", "0")
        if item.name.text in _SCANS and asked:
            yield item.name.text, item.name.span
            return


def _declared(table: StageTable) -> Iterator[ArgItem]:
    for instruction in (*table.args, *(item for stage in table.stages for item in stage.instructions)):
        if isinstance(instruction, Arg):
            yield from instruction.items


def resolve_epoch(
    bridge: Bridge, request: FrontendRequest, table: StageTable, escape: str, warn: _Warn
) -> tuple[FrontendRequest, int | None]:
    """The request with SOURCE_DATE_EPOCH as a number, and the number; None when nobody gives one.

    It may be given as a number of seconds, as nothing, as `context`, as a named context, or as a
    stage that only fetches; as a build argument or by the file's own global ARG.
    Raises `UserError` `invalid-epoch` and what fetching the source raises.
    """
    given = request.build_args.get(EPOCH)
    reader = _Epochs(bridge, request, table, escape, warn)
    if given is not None:
        number = reader.number(given, None) if given else None
        kept = {name: value for name, value in request.build_args.items() if name != EPOCH}
        if number is not None or not given:
            kept[EPOCH] = "" if number is None else str(number)
        return msgspec.structs.replace(request, build_args=kept), number
    defaults = [item.default for found in table.args for item in found.items if item.name.text == EPOCH]
    if not defaults or defaults[-1] is None:
        return request, None
    text = expand_token(defaults[-1], reader.args, Rules(escape=escape)).text
    number = reader.number(text, defaults[-1].span) if text else None
    return msgspec.structs.replace(request, declared_epoch=number), number


class _Epochs:
    """Reads the forms of SOURCE_DATE_EPOCH."""

    def __init__(
        self, bridge: Bridge, request: FrontendRequest, table: StageTable, escape: str, warn: _Warn
    ) -> None:
        self._bridge = bridge
        self._table = table
        self._rules = Rules(escape=escape)
        self._warn = warn
        self._build_args = request.build_args
        self._context = request.context_source
        platform = (request.platforms or (request.build_platform,))[0]
        self.args = global_args(table.args, request, platform, "", escape)

    def number(self, text: str, span: Span | None) -> int | None:
        if is_seconds(text):
            return int(text)
        op = self._source(text, span)
        time = self._bridge.source_time(op)
        if time is None:
            message = f"{EPOCH} is {text!r}, and that has no time of its own: the default is used"
            hint = (
                "directories of this host have none; give a number, such as that of `git log -1 --format=%ct`"
            )
            self._warn(warning("epoch-without-time", message, *([span] if span else []), hint=hint))
        return time

    def _source(self, text: str, span: Span | None) -> SourceOp:
        if text == "context":
            return SourceOp(identifier=self._context)
        inputs = self._bridge.inputs()
        if text.lower() in inputs:
            return SourceOp(identifier=inputs[text.lower()])
        index = self._table.anywhere(text)
        if index is None:
            known = ["context", *inputs, *(stage.name for stage in self._table.stages if stage.name)]
            raise UserError.of(
                "invalid-epoch",
                f"{EPOCH} is {text!r}: neither a number of seconds, nor `context`, a named context or a stage",
                *([span] if span else []),
                hint=did_you_mean(text, known),
            )
        return self._stage(self._table.stages[index], span)

    def _stage(self, stage: Stage, span: Span | None) -> SourceOp:
        """The one source of a stage that does nothing but fetch it."""
        env = dict[str, str]()
        sources: list[str] = []
        only = stage.head.base.text == SCRATCH
        for instruction in stage.instructions:
            if isinstance(instruction, Arg):
                for item in instruction.items:
                    default = expand_token(item.default, env, self._rules).text if item.default else None
                    name = item.name.text
                    found = self._build_args.get(
                        name, default if default is not None else self.args.get(name)
                    )
                    env[name] = found or ""
            elif isinstance(instruction, Add) and not instruction.heredocs:
                sources += [expand_token(token, env, self._rules).text for token in instruction.sources]
            else:
                only = False
        if not only or len(sources) != 1 or not gitref.is_url(sources[0]):
            labels = [Label(span)] if span else []
            raise UserError.of(
                "invalid-epoch",
                f"{EPOCH} names the stage {stage.title}, which does more than fetch one source",
                *labels,
                Label(stage.head.span, "it must be FROM scratch with one ADD of a git or HTTP URL"),
            )
        return _fetched(sources[0])


def _fetched(url: str) -> SourceOp:
    if not gitref.is_git(url):
        return SourceOp(identifier=url)
    try:
        found = gitref.parse_git_ref(url)
    except ValueError as error:
        raise UserError.of("invalid-source", f"{url}: {error}") from error
    attrs = {"ref": found.ref, "checksum": found.checksum, "submodules": "false"}
    if found.fetch_by_commit:
        attrs["fetch-by-commit"] = "true"
    pairs = tuple(sorted((key, value) for key, value in attrs.items() if value))
    return SourceOp(identifier=f"git://{found.remote}", attrs=pairs)
