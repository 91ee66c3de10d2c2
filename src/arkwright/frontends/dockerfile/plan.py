"""Which stages a target needs on one platform, what each is built on, and its ONBUILD triggers."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Label, UserError
from arkwright.diagnostics.spans import SourceFile
from arkwright.frontends.dockerfile.bases import SCRATCH, Base, Bases, ImageBase, StageBase
from arkwright.frontends.dockerfile.parser import parse
from arkwright.frontends.dockerfile.stages import Stage, StageTable, origins
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Instruction, Onbuild
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.frontends.dockerfile.words import Expanded, Rules, expand_token
from arkwright.oci.platform import Platform, parse_platform


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that will be built. `triggers` run before its own instructions; `replaced` says that
    a named context stands in for the stage, whose instructions are then not run.

    `origins` maps the start of an origin's place to the stage that it names.
    """

    stage: Stage
    base: Base
    base_name: Token
    platform: Platform
    triggers: tuple[Instruction, ...] = ()
    replaced: bool = False
    origins: dict[tuple[str, int], int] = {}

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        return () if self.replaced else self.stage.instructions


class Planner:
    """Plans one platform of one build."""

    def __init__(
        self, table: StageTable, bases: Bases, args: dict[str, str], target: Platform, escape: str
    ) -> None:
        self._table = table
        self._bases = bases
        self._args = args
        self._target = target
        self._rules = Rules(escape=escape)
        self._problems: list[Diagnostic] = []

    def plan(self, target: Stage) -> list[Planned]:
        """The stages that the target needs, itself last, in the file's order.

        Raises `UserError` with every problem of those stages' FROM lines and references.
        """
        self._bases.prepare(self._foreseen(target))
        planned: dict[int, Planned] = {}
        waiting = [target.index]
        while waiting:
            index = waiting.pop()
            if index in planned:
                continue
            try:
                found = self._plan(self._table.stages[index])
            except UserError as error:
                self._problems.extend(error.diagnostics)
                continue
            planned[index] = found
            waiting.extend(found.origins.values())
            if isinstance(found.base, StageBase):
                waiting.append(found.base.index)
        if self._problems:
            raise UserError(*self._problems[:20])
        return [planned[index] for index in sorted(planned)]

    def _foreseen(self, target: Stage) -> list[tuple[str, Platform]]:
        """The images that the target's stages name, but for what triggers of images will name."""
        names: list[tuple[str, Platform]] = []
        seen: set[int] = set()
        waiting = [target.index]
        while waiting:
            stage = self._table.stages[waiting.pop()]
            if stage.index in seen:
                continue
            seen.add(stage.index)
            try:
                platform, base = self._platform(stage), self._base_name(stage).text
                if stage.name and self._bases.named_context(stage.name, platform) is not None:
                    names.append((stage.name, platform))
                    continue
                parent = self._table.before(base, stage.index)
                places = [origin for item in stage.instructions for origin in origins(item)]
                found = [(origin.token.text, self._table.resolve(origin, stage.index)) for origin in places]
            except UserError:
                continue  # planning tells it, with all others
            found.append((base, parent))
            waiting += [index for _, index in found if index is not None]
            names += [
                (name, platform if name == base else self._target) for name, index in found if index is None
            ]
        return names

    def _plan(self, stage: Stage) -> Planned:
        platform = self._platform(stage)
        if stage.head.stage is not None:
            context = self._bases.named_context(stage.name, platform)
            if context is not None:
                what = f"stage {stage.name}"
                base = self._bases.external(stage.head.stage, platform, what)
                return Planned(
                    stage=stage, base=base, base_name=stage.head.stage, platform=platform, replaced=True
                )
        name = self._base_name(stage)
        parent = self._table.before(name.text, stage.index)
        if parent is not None:
            base_: Base = StageBase(parent)
        else:
            base_ = self._bases.external(name, platform, f"FROM {name.text}")
        if name.text == SCRATCH and parent is None:
            platform = self._target
        triggers = self._triggers(stage, base_)
        found = self._origins(stage, triggers)
        return Planned(
            stage=stage, base=base_, base_name=name, platform=platform, triggers=triggers, origins=found
        )

    def _platform(self, stage: Stage) -> Platform:
        token = stage.head.platform
        if token is None:
            return self._target
        expanded = expand_token(token, self._args, self._rules)
        if not expanded.text:
            raise UserError.of(
                "invalid-platform",
                f"--platform={token.text} is empty",
                token.span,
                hint=self._unset_hint(expanded),
            )
        try:
            return parse_platform(expanded.text)
        except ArkwrightError as error:
            raise error.with_label(Label(token.span)) from error

    def _base_name(self, stage: Stage) -> Token:
        token = stage.head.base
        expanded = expand_token(token, self._args, self._rules)
        if not expanded.text:
            raise UserError.of(
                "empty-base-name",
                f"the image's name {token.text} is empty",
                token.span,
                hint=self._unset_hint(expanded),
            )
        return Token(expanded.text, token.span)

    def _unset_hint(self, expanded: Expanded) -> str | None:
        for name in expanded.unset:
            return (
                did_you_mean(name, self._args)
                or f"declare ARG {name} before the first FROM, and give it a value"
            )
        return None

    def _triggers(self, stage: Stage, base: Base) -> tuple[Instruction, ...]:
        if isinstance(base, StageBase):
            parent = self._table.stages[base.index]
            if parent.name and self._bases.named_context(parent.name, self._target) is not None:
                return ()
            return tuple(item.trigger for item in parent.instructions if isinstance(item, Onbuild))
        if not isinstance(base, ImageBase):
            return ()
        return tuple(
            trigger
            for text in base.image.config.config.on_build
            for trigger in self._parse_trigger(stage, text, base.image.reference)
        )

    def _parse_trigger(self, stage: Stage, text: str, image: str) -> tuple[Instruction, ...]:
        parsed = parse(SourceFile(f"ONBUILD of {image}", text))
        label = Label(stage.head.base.span, "the trigger comes from this image")
        if parsed.problems:
            raise UserError(
                *(msgspec.structs.replace(item, labels=(*item.labels, label)) for item in parsed.problems)
            )
        if len(parsed.instructions) != 1 or parsed.instructions[0].name in ("FROM", "ONBUILD", "MAINTAINER"):
            raise UserError.of("invalid-onbuild", f"{text!r} is not one instruction for ONBUILD", label)
        return parsed.instructions

    def _origins(self, stage: Stage, triggers: tuple[Instruction, ...]) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for instruction in (*triggers, *stage.instructions):
            try:
                for origin in origins(instruction):
                    index = self._table.resolve(origin, stage.index)
                    if index is not None:
                        found[origin_key(origin.token)] = index
            except UserError as error:
                self._problems.extend(error.diagnostics)
        return found


def origin_key(token: Token) -> tuple[str, int]:
    """What identifies the place of an origin: a trigger may stand in another file."""
    return token.text, token.span.start
