"""Stages: their names and numbers, and which of them refer to which."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Label, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.dockerfile.mounts import mount_origin, mount_type
from arkwright.frontends.dockerfile.suggest import closest
from arkwright.frontends.dockerfile.syntax import Arg, Copy, Dockerfile, From, Instruction, Onbuild, Run
from arkwright.frontends.dockerfile.tokens import Token, problem
from arkwright.frontends.dockerfile.words import WordError, expand


class Stage(msgspec.Struct, frozen=True):
    """One FROM with what follows it."""

    index: int
    head: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """The name in lower case; empty when it has none."""
        return self.head.stage.text if self.head.stage is not None else ""

    @property
    def title(self) -> str:
        return self.name or f"stage-{self.index}"


class Origin(msgspec.Struct, frozen=True):
    """A place in an instruction that names a tree: `numbers` says that stage numbers count."""

    token: Token
    what: str
    numbers: bool


class StageTable:
    """All stages of a file, in order, with the global ARGs before them."""

    def __init__(self, stages: tuple[Stage, ...], args: tuple[Arg, ...]) -> None:
        self.stages = stages
        self.args = args
        self._by_name: dict[str, list[int]] = {}
        for stage in stages:
            if stage.name:
                self._by_name.setdefault(stage.name, []).append(stage.index)

    def before(self, name: str, index: int) -> int | None:
        """The nearest earlier stage of that name, in whatever case."""
        earlier = [found for found in self._by_name.get(name.lower(), ()) if found < index]
        return earlier[-1] if earlier else None

    def anywhere(self, name: str) -> int | None:
        """The last stage of that name."""
        found = self._by_name.get(name.lower())
        return found[-1] if found else None

    def target(self, name: str) -> Stage:
        """The stage to build; the last one for "". Raises `UserError` `unknown-target`."""
        if not name:
            return self.stages[-1]
        index = self.anywhere(name)
        if index is None and name.isascii() and name.isdecimal() and int(name[:9]) < len(self.stages):
            index = int(name)
        if index is None:
            raise UserError.of(
                "unknown-target",
                f"no stage is called {name!r}",
                hint=self.similar(name) or f"the stages are {', '.join(s.title for s in self.stages[:20])}",
            )
        return self.stages[index]

    def similar(self, name: str) -> str | None:
        """`did you mean "builder" (line 3)?`, or None."""
        found = closest(name, self._by_name)
        if found is None:
            return None
        stage = self.stages[self._by_name[found][-1]]
        return f'did you mean "{found}" (line {stage.head.span.line})?'

    def resolve(self, origin: Origin, index: int) -> int | None:
        """The stage that an origin in stage `index` names; None when it is none of this file.

        Raises `UserError` `unknown-stage` for numbers that no stage has and for stages that come
        later, `circular-stages` for the stage itself.
        """
        name = origin.token.text
        if origin.numbers and name.lstrip("+-").isdecimal() and name.isascii():
            found: int | None = int(name[:9])
            if not 0 <= int(name[:9]) < len(self.stages):
                raise UserError.of(
                    "unknown-stage", f"{origin.what} is no stage's number", Label(origin.token.span)
                )
        else:
            found = self.before(name, index)
            found = self.anywhere(name) if found is None else found
        if found is not None and found >= index:
            raise self._not_yet(origin, index, found)
        return found

    def _not_yet(self, origin: Origin, index: int, found: int) -> ArkwrightError:
        head = self.stages[found].head.span
        if found == index:
            return UserError.of(
                "circular-stages", f"{origin.what} names the stage that it is in", origin.token.span
            )
        return UserError.of(
            "unknown-stage",
            f"{origin.what} names a stage that comes later",
            Label(origin.token.span, f"it is defined on line {head.line}, move it above this one"),
            Label(head, "defined here"),
        )


def origins(instruction: Instruction) -> Iterator[Origin]:
    """The trees that an instruction names. Raises `UserError` `variable-in-from`."""
    if isinstance(instruction, Copy) and instruction.origin is not None and instruction.origin.text:
        token = instruction.origin
        _refuse_variables(token)
        yield Origin(token, f"COPY --from={token.text}", True)
    if isinstance(instruction, Run):
        for mount in instruction.mounts:
            found = mount_origin(mount)
            if found is not None and mount_type(mount) != "tmpfs":
                yield Origin(found, f"--mount from={found.text}", False)


def _refuse_variables(token: Token) -> None:
    try:
        same = expand(token.text, {}).text == token.text
    except WordError:
        same = False
    if not same:
        raise UserError.of(
            "variable-in-from",
            "variables are not expanded in --from",
            token.span,
            hint="give the stage a fixed name: FROM ${IMAGE} AS name",
        )


def group(file: Dockerfile) -> StageTable:
    """Cut a file into its stages.

    Raises `UserError` with `no-stage` for instructions before the first FROM, `no-stages` or
    `empty-dockerfile` when there is nothing to build.
    """
    args: list[Arg] = []
    heads: list[tuple[From, list[Instruction]]] = []
    problems: list[Diagnostic] = []
    for instruction in file.instructions:
        if isinstance(instruction, From):
            heads.append((instruction, []))
        elif heads:
            heads[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            args.append(instruction)
        else:
            message = f"{instruction.name} stands before the first FROM"
            problems.append(problem("no-stage", message, instruction.keyword.span))
    if problems:
        raise UserError(*problems[:10])
    if not file.instructions:
        raise UserError.of("empty-dockerfile", f"{file.file.path} has no instructions")
    if not heads:
        raise UserError.of("no-stages", f"{file.file.path} has no FROM: there is nothing to build")
    stages = tuple(Stage(index, head, tuple(body)) for index, (head, body) in enumerate(heads))
    return StageTable(stages, tuple(args))


def check_cycles(table: StageTable) -> None:
    """Refuse stages that need each other, even those that no target needs.

    Raises `UserError` `circular-stages`.
    """
    edges: dict[int, list[tuple[int, Span]]] = {}
    for stage in table.stages:
        for instruction in stage.instructions:
            trigger = instruction.trigger if isinstance(instruction, Onbuild) else instruction
            if not isinstance(instruction, Onbuild):
                edges.setdefault(stage.index, []).extend(_edges(table, stage.index, trigger))
        base = table.before(stage.head.base.text, stage.index)
        if base is not None:
            edges.setdefault(stage.index, []).append((base, stage.head.base.span))
    if any(target >= start for start, found in edges.items() for target, _ in found):
        _find_cycle(table, edges)


def _edges(table: StageTable, index: int, instruction: Instruction) -> Iterator[tuple[int, Span]]:
    for origin in origins(instruction):
        name = origin.token.text
        target = table.before(name, index)
        target = table.anywhere(name) if target is None else target
        if target is None and origin.numbers and name.isascii() and name.isdecimal():
            target = int(name[:9]) if int(name[:9]) < len(table.stages) else None
        if target is not None:
            yield target, origin.token.span


def _find_cycle(table: StageTable, edges: dict[int, list[tuple[int, Span]]]) -> None:
    done: set[int] = set()
    for root in sorted(edges):
        path: list[int] = []
        stack: list[tuple[int, Span | None, bool]] = [(root, None, False)]
        while stack:
            stage, span, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
            elif stage in path:
                titles = [table.stages[index].title for index in [*path[path.index(stage) :], stage]]
                raise UserError.of(
                    "circular-stages", f"stages need each other: {' needs '.join(titles)}", span
                )
            elif stage not in done:
                path.append(stage)
                stack.append((stage, span, True))
                stack.extend((target, place, False) for target, place in edges.get(stage, ()))
