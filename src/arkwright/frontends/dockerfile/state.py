"""A stage while it is converted, and one step of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.bases import Base
from arkwright.frontends.dockerfile.draft import Draft, Ref, clean
from arkwright.frontends.dockerfile.plan import Planned
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Instruction
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.frontends.dockerfile.words import Rules, expand_token
from arkwright.graph.definition import VertexMetadata
from arkwright.oci.config import Execution, History, ImageConfig
from arkwright.oci.platform import Platform

if TYPE_CHECKING:
    from arkwright.sources.ignore import Matcher

HISTORY_COMMENT = "arkwright.dockerfile.v0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME_LIMIT = 120
_HINTS = 50


class StageState:
    """What instructions change: the tree, the image config, the environment of steps.

    `env` holds ENV and ARG together, in the order of their last assignment: what was said last
    wins in a step, while the image keeps only ENV.
    """

    def __init__(self, planned: Planned, platform: Platform, image: ImageConfig, tree: Ref | None) -> None:
        self.planned = planned
        self.platform = platform
        self.image = image
        self.tree = tree
        self.config: Execution = image.config
        self.author = image.author
        self.history: list[History] = list(image.history)
        self.env: dict[str, str] = {}
        self.args: dict[str, str | None] = {}
        self.cmd_given = False
        self.workdir_given = False
        self.step = 0
        self.steps = 0
        self.triggers: list[str] = list(image.config.on_build)
        # The image's ENV with the place of each name, and the tables of `config` that are ours to
        # change: a copy per instruction would make long files quadratic.
        self._entries: list[str] = list(image.config.env)
        self._places: dict[str, int] = {}
        for place, entry in enumerate(self._entries):
            self._places.setdefault(entry.partition("=")[0], place)
        self._owned: set[str] = set()

    def inherit(self, planned: Planned) -> StageState:
        """The state of a stage that begins where this one ends."""
        child = StageState(planned, self.platform, self.image, self.tree)
        child.config = msgspec.structs.replace(self.config, on_build=())
        child.triggers = []
        child._entries = list(self._entries)
        child._places = dict(self._places)
        child.author = self.author
        child.history = list(self.history)
        child.env = dict(self.env)
        child.args = dict(self.args)
        child.workdir_given = self.workdir_given
        return child

    def start_environment(self) -> None:
        """Take the image's ENV as the steps' environment; a PATH is always there."""
        for entry in self.config.env:
            name, _, value = entry.partition("=")
            self.assign(name, value)
        if "PATH" not in self.env and self.platform.os != "windows":
            self.set_env("PATH", DEFAULT_PATH)

    def assign(self, name: str, value: str) -> None:
        """Set a variable for steps, behind all others."""
        self.env.pop(name, None)
        self.env[name] = value

    def set_env(self, name: str, value: str) -> None:
        """Set a variable for steps and in the image, where it keeps its place."""
        self.assign(name, value)
        place = self._places.setdefault(name, len(self._entries))
        self._entries[place : place + 1] = [f"{name}={value}"]

    def extend(self, table: Literal["labels", "exposed_ports", "volumes"], items: Mapping[str, Any]) -> None:
        """Add to a table of `config`."""
        if table not in self._owned:
            self._owned.add(table)
            self.configure(**{table: dict(getattr(self.config, table))})
        getattr(self.config, table).update(items)

    def configure(self, **changes: object) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)

    @property
    def workdir(self) -> str:
        return clean(self.config.working_dir)

    def result(self, target: Platform | None, labels: Mapping[str, str]) -> ImageConfig:
        """The image config; `target` is set when the user asked for a platform."""
        config = msgspec.structs.replace(self.config, env=tuple(self._entries), on_build=tuple(self.triggers))
        if labels:
            config = msgspec.structs.replace(config, labels={**config.labels, **labels})
        image = msgspec.structs.replace(
            self.image, created="", author=self.author, config=config, history=tuple(self.history)
        )
        if target is None:
            return image
        same = (image.os, image.architecture) == (target.os, target.architecture)
        return msgspec.structs.replace(
            image,
            os=target.os,
            architecture=target.architecture,
            variant=target.variant or (image.variant if same else ""),
            os_version=target.os_version or (image.os_version if same else ""),
        )


class Build:
    """What all stages of one platform share."""

    def __init__(
        self,
        request: FrontendRequest,
        platform: Platform,
        args: dict[str, str],
        escape: str,
        draft: Draft,
        tree_of: Callable[[Base, Token], Ref | None],
        warn: Callable[[Diagnostic], None],
        external: Callable[[Token, str], Base],
    ) -> None:
        self.request = request
        self.platform = platform
        self.args = args
        self.rules = Rules(escape=escape)
        self.draft = draft
        self.tree_of = tree_of
        self.warn = warn
        self.external = external
        self.states: dict[int, StageState] = {}
        self.used_args: set[str] = set()
        self.many_platforms = len(request.platforms) > 1
        self.single_stage = False
        self.hints = _HINTS
        self._ignored: Matcher | None = None

    def ignored(self, path: str) -> bool:
        """Whether the ignore file excludes a path of the context and all that is below it."""
        if not self.request.context_exclude:
            return False
        if self._ignored is None:
            from arkwright.sources.ignore import Matcher

            self._ignored = Matcher(self.request.context_exclude)
        return self._ignored.may_prune(path)

    def context(self) -> Ref:
        """The tree of the build's main context."""
        identifier = self.request.context_source
        metadata = VertexMetadata(name="[internal] load build context")
        if identifier.startswith("local://"):
            return self.draft.local(identifier, metadata)
        from arkwright.graph.ops import SourceOp

        return self.draft.add(SourceOp(identifier=identifier), metadata=metadata)

    def ignores_cache(self, state: StageState) -> bool:
        """Whether the user wants the stage's steps to run again."""
        stage = state.planned.stage
        names = {name.lower() for name in self.request.no_cache_filter}
        return self.request.no_cache or bool(names & ({stage.name, stage.title} - {""}))


class Step:
    """One instruction of a stage on its way into the graph."""

    def __init__(self, build: Build, state: StageState, instruction: Instruction, trigger: bool) -> None:
        self.build = build
        self.state = state
        self.instruction = instruction
        self.trigger = trigger

    def expand(self, token: Token, rules: Rules | None = None) -> Token:
        """The token with variables replaced; variables that nothing sets are warned about."""
        return Token(self.expanded(token, rules)[0], token.span)

    def expanded(self, token: Token, rules: Rules | None = None) -> tuple[str, tuple[str, ...]]:
        """The expansion as one text, and as words."""
        found = expand_token(token, self.state.env, rules or self.build.rules)
        for name, (start, end) in found.unset.items():
            if name not in self.state.args:
                self.build.warn(
                    warning(
                        "undefined-var",
                        f"${name} is not set: it expands to nothing",
                        token.part(start, end),
                        hint=self._similar(name),
                    )
                )
        return found.text, found.words

    def _similar(self, name: str) -> str | None:
        """A hint at a variable of a similar name; only the first findings get one, each costs a
        look at every name."""
        if self.build.hints == 0:
            return None
        self.build.hints -= 1
        known = [*self.state.env, *self.state.args]
        return did_you_mean(f"${name}", [f"${option}" for option in known])

    def optional(self, token: Token | None) -> Token | None:
        """`expand`, where there may be nothing; what expands to nothing is nothing."""
        if token is None:
            return None
        found = self.expand(token)
        return found if found.text else None

    def fail(
        self, code: str, message: str, span: Span | None = None, hint: str | None = None
    ) -> ArkwrightError:
        return UserError.of(code, message, span or self.instruction.span, hint=hint)

    def record(self, created_by: str, *, layer: bool = False) -> None:
        """Add a line to the image's history."""
        self.state.history.append(
            History(created_by=created_by, comment=HISTORY_COMMENT, empty_layer=not layer)
        )

    def metadata(self) -> VertexMetadata:
        """Name, stage and place of the step's vertex; counts the step."""
        return self.number(self.instruction.source, self.instruction.name, self.instruction.span)

    def number(self, text: str, label: str, span: Span) -> VertexMetadata:
        return numbered(self.build, self.state, text, label, (span,), onbuild=self.trigger, cache=True)


def numbered(
    build: Build,
    state: StageState,
    text: str,
    label: str,
    spans: tuple[Span, ...],
    *,
    onbuild: bool = False,
    cache: bool = False,
) -> VertexMetadata:
    """Metadata for the next counted step of a stage: `[builder 2/4] RUN make`."""
    state.step += 1
    title = state.planned.stage.title
    parts = [str(state.platform)] if build.many_platforms else []
    if not build.single_stage:
        parts.append(title)
    parts.append(f"{state.step:{len(str(state.steps))}}/{state.steps}")
    prefix = "ONBUILD " if onbuild else ""
    return VertexMetadata(
        name=f"[{' '.join(parts)}] {prefix}{_first_line(text)}",
        ignore_cache=cache and build.ignores_cache(state),
        group=title,
        spans=spans,
        label=label,
    )


def _first_line(text: str) -> str:
    keyword, blank, rest = text.strip().partition(" ")
    line = (keyword.upper() + blank + rest).split("\n")[0]
    line = " ".join(line.split())
    return line if len(line) <= _NAME_LIMIT else line[: _NAME_LIMIT - 3] + "..."
