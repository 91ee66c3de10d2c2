"""One platform of a build: the needed stages, in order, into a graph and an image config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from arkwright.diagnostics.errors import Diagnostic, UserError
from arkwright.frontends.base import Bridge, FrontendImage, FrontendRequest
from arkwright.frontends.dockerfile import convert_config, syntax
from arkwright.frontends.dockerfile.bases import (
    Base,
    Bases,
    External,
    ImageBase,
    Scratch,
    StageBase,
    describe,
)
from arkwright.frontends.dockerfile.buildargs import global_args
from arkwright.frontends.dockerfile.convert_copy import convert_transfer
from arkwright.frontends.dockerfile.convert_run import convert_run
from arkwright.frontends.dockerfile.convert_workdir import convert_workdir
from arkwright.frontends.dockerfile.draft import Draft, Ref
from arkwright.frontends.dockerfile.lint_stage import wrong_platform
from arkwright.frontends.dockerfile.plan import Planned, Planner
from arkwright.frontends.dockerfile.stages import StageTable
from arkwright.frontends.dockerfile.state import DEFAULT_PATH, Build, StageState, Step, numbered
from arkwright.frontends.dockerfile.syntax import Instruction
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.graph.definition import VertexMetadata
from arkwright.graph.ops import CopyAction, FileOp, SourceOp
from arkwright.oci.config import Execution, ImageConfig, RootFS
from arkwright.oci.platform import Platform

MAX_PROBLEMS = 20
_COUNTED = (syntax.Run, syntax.Transfer, syntax.Workdir)

_CONVERTERS: dict[type[Instruction], Callable[[Step, Any], None]] = {
    syntax.Run: convert_run,
    syntax.Copy: convert_transfer,
    syntax.Add: convert_transfer,
    syntax.Workdir: convert_workdir,
    syntax.Env: convert_config.convert_env,
    syntax.LabelSet: convert_config.convert_label,
    syntax.Arg: convert_config.convert_arg,
    syntax.User: convert_config.convert_user,
    syntax.Expose: convert_config.convert_expose,
    syntax.Volume: convert_config.convert_volume,
    syntax.Cmd: convert_config.convert_cmd,
    syntax.Entrypoint: convert_config.convert_entrypoint,
    syntax.Shell: convert_config.convert_shell,
    syntax.StopSignal: convert_config.convert_stop_signal,
    syntax.Healthcheck: convert_config.convert_healthcheck,
    syntax.Maintainer: convert_config.convert_maintainer,
    syntax.Onbuild: convert_config.convert_onbuild,
}


class Converter:
    """Compiles one file for one platform."""

    def __init__(
        self,
        bridge: Bridge,
        request: FrontendRequest,
        table: StageTable,
        platform: Platform,
        escape: str,
        warn: Callable[[Diagnostic], None],
    ) -> None:
        self._request = request
        self._table = table
        self._escape = escape
        self._platform = platform
        self._draft = Draft()
        self._bases = Bases(bridge, table)
        self._target = table.target(request.target)
        title = request.target.lower() or self._target.name
        self._args = global_args(table.args, request, platform, title, escape)
        self.build = Build(
            request, platform, self._args, escape, self._draft, self._tree, warn, self._external
        )
        self.build.single_stage = len(table.stages) == 1
        self._problems: list[Diagnostic] = []

    def convert(self) -> FrontendImage:
        """The graph and the config. Raises `UserError` with all problems of the needed stages."""
        planner = Planner(self._table, self._bases, self._args, self._platform, self._escape)
        for planned in planner.plan(self._target):
            self.build.states[planned.stage.index] = self._stage(planned)
        if self._problems:
            raise UserError(*self._problems[:MAX_PROBLEMS])
        state = self.build.states[self._target.index]
        asked = self._platform if self._request.platforms else None
        config = state.result(asked, self._request.labels)
        platform = asked or Platform(config.os, config.architecture, config.variant, config.os_version)
        definition = self._draft.finish(self._as_layers(state))
        return FrontendImage(platform=platform, definition=definition, config=config)

    def _stage(self, planned: Planned) -> StageState:
        state = self._start(planned)
        for trigger in planned.triggers:
            self._step(state, trigger, True)
        for instruction in planned.instructions:
            self._step(state, instruction, False)
        return state

    def _start(self, planned: Planned) -> StageState:
        steps = sum(isinstance(item, _COUNTED) for item in (*planned.triggers, *planned.instructions))
        base = planned.base
        if isinstance(base, StageBase):
            parent = self.build.states[base.index]
            state = parent.inherit(planned)
            state.tree = self._as_layers(parent)
            state.steps = steps
            return state
        image, platform = self._image(base, planned)
        state = StageState(planned, platform, image, None)
        state.steps = steps + (0 if isinstance(base, Scratch) else 1)
        state.start_environment()
        state.tree = self._source(base, planned.base_name, state)
        if not planned.replaced:
            state.tree = self._as_layers(state)
        return state

    def _as_layers(self, state: StageState) -> Ref | None:
        """The tree of a stage as layers: a directory of the host that stands for it is copied.

        A stage that a directory replaces is left alone until it is a base or the target: what only
        copies from it reads no more than the paths that it names.
        """
        planned, tree = state.planned, state.tree
        if tree is None or not self._draft.is_local(tree):
            return tree
        self._draft.use(tree, "")
        action = CopyAction(
            input=-1,
            secondary_input=0,
            output=0,
            src="/",
            dest="/",
            dir_copy_contents=True,
            create_dest_path=True,
        )
        metadata = VertexMetadata(
            name=f"[context {planned.base_name.text}] copy", spans=(planned.base_name.span,), label="FROM"
        )
        return self._draft.add(FileOp(actions=(action,)), (tree,), metadata=metadata)

    def _image(self, base: External, planned: Planned) -> tuple[ImageConfig, Platform]:
        """The config that the stage starts from, without what belongs to the base alone."""
        if not isinstance(base, ImageBase):
            platform = planned.platform
            config = Execution(working_dir="/", env=(f"PATH={DEFAULT_PATH}",))
            empty = ImageConfig(
                os=platform.os,
                architecture=platform.architecture,
                variant=platform.variant,
                os_version=platform.os_version,
                config=config,
            )
            return empty, platform
        image = base.image.config
        found = Platform(image.os, image.architecture, image.variant)
        odd = wrong_platform(planned.base_name, planned.platform, found)
        if odd is not None:
            self.build.warn(odd)
        config = msgspec.structs.replace(image.config, on_build=())
        return msgspec.structs.replace(image, created="", config=config, rootfs=RootFS()), planned.platform

    def _step(self, state: StageState, instruction: Instruction, trigger: bool) -> None:
        step = Step(self.build, state, instruction, trigger)
        try:
            _CONVERTERS[type(instruction)](step, instruction)
        except UserError as error:
            self._problems.extend(error.diagnostics)

    def _external(self, name: Token, what: str) -> External:
        return self._bases.external(name, self._platform, what)

    def _tree(self, base: Base, name: Token) -> Ref | None:
        if isinstance(base, StageBase):
            return self.build.states[base.index].tree
        return self._source(base, name, None)

    def _source(self, base: External, name: Token, state: StageState | None) -> Ref | None:
        """The source vertex of a base; `state` when a stage begins with it."""
        if isinstance(base, Scratch) or (isinstance(base, ImageBase) and not base.identifier):
            return None
        text, spans = describe(base, name.span)
        metadata = VertexMetadata(name=text, spans=spans, label="FROM")
        if state is not None:
            metadata = numbered(self.build, state, text, "FROM", spans)
        if isinstance(base, ImageBase):
            return self._image_source(base, metadata)
        if not base.identifier.startswith("local://"):
            return self._draft.add(SourceOp(identifier=base.identifier), metadata=metadata)
        return self._draft.local(base.identifier, metadata)

    def _image_source(self, base: ImageBase, metadata: VertexMetadata) -> Ref:
        op = SourceOp(identifier=base.identifier)
        return self._draft.add(op, platform=base.platform, metadata=metadata)
