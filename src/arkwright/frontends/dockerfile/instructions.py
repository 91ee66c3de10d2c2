"""From the parts of an instruction to its struct: one small builder per keyword."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.dockerfile import arguments, syntax, values
from arkwright.frontends.dockerfile.arguments import ArgumentError
from arkwright.frontends.dockerfile.flags import Flags
from arkwright.frontends.dockerfile.syntax import CommandLine, Heredoc, Instruction
from arkwright.frontends.dockerfile.tokens import Line, Token

HEREDOC_OWNERS = ("RUN", "COPY", "ADD")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_MIN_INTERVAL_NS = 1_000_000


class Parts:
    """An instruction cut into keyword, flags and arguments (`range`, offsets in the line)."""

    def __init__(
        self,
        line: Line,
        keyword: Token,
        whole: tuple[int, int],
        arguments_range: tuple[int, int],
        flags: Flags,
        escape: str,
    ) -> None:
        self.line = line
        self.keyword = keyword
        self.whole = whole
        self.range = arguments_range
        self.flags = flags
        self.escape = escape
        self.heredocs: tuple[Heredoc, ...] = ()

    @property
    def name(self) -> str:
        return self.keyword.text.upper()

    def common(self) -> dict[str, Any]:
        """The fields that every instruction has."""
        return {
            "keyword": self.keyword,
            "span": self.line.span(*self.whole),
            "source": self.line.text[slice(*self.whole)],
            "comments": self.line.comments,
        }

    def rest(self) -> Token:
        """All arguments as one token."""
        return self.line.token(*self.range)

    def required(self) -> Token:
        """All arguments as one token, which may not be empty."""
        if self.range[0] >= self.range[1]:
            raise self.missing("exactly one argument")
        return self.rest()

    def missing(self, what: str) -> ArgumentError:
        return ArgumentError(f"{self.name} needs {what}", *self.whole, code="missing-argument")

    def json(self) -> tuple[Token, ...] | None:
        return arguments.json_strings(self.line, *self.range)

    def is_json(self) -> bool:
        return self.json() is not None

    def list(self) -> tuple[Token, ...]:
        """The JSON form, or words between blanks."""
        found = self.json()
        return arguments.split_blanks(self.line, *self.range) if found is None else found

    def command(self, start: int | None = None) -> CommandLine:
        """The JSON form, or one text for the shell."""
        begin, end = self.range
        begin = begin if start is None else start
        strings = arguments.json_strings(self.line, begin, end)
        if strings is not None:
            return CommandLine(strings, False)
        return CommandLine((self.line.token(begin, end),) if begin < end else (), True)


def heredocs_of(instruction: Instruction) -> tuple[Heredoc, ...]:
    """The heredocs of an instruction, in the file's order."""
    if isinstance(instruction, syntax.Run):
        return instruction.heredocs
    if isinstance(instruction, syntax.Transfer):
        return tuple(instruction.heredocs[place] for place in sorted(instruction.heredocs))
    return ()


def _from(parts: Parts) -> Instruction:
    words = arguments.split_blanks(parts.line, *parts.range)
    named = len(words) == 3 and words[1].text.lower() == "as"
    if len(words) != 1 and not named:
        raise ArgumentError("FROM is written `FROM image` or `FROM image AS name`", *parts.whole)
    stage = None
    if named:
        stage = Token(words[2].text.lower(), words[2].span)
        if not _STAGE_NAME.fullmatch(stage.text):
            raise UserError.of(
                "invalid-stage-name",
                f"{words[2].text!r} is not a name for a stage",
                words[2].span,
                hint="begin with a letter; letters, digits, '-', '_' and '.' may follow",
            )
    return syntax.From(
        **parts.common(),
        base=words[0],
        as_word=words[1] if named else None,
        stage=stage,
        platform=parts.flags.text("platform"),
    )


def _arg(parts: Parts) -> Instruction:
    words = arguments.split_words(parts.line, *parts.range, parts.escape)
    if not words:
        raise parts.missing("at least one argument")
    items: list[syntax.ArgItem] = []
    for word in words:
        name, equals, default = word.text.partition("=")
        if not name:
            raise UserError.of("dockerfile-syntax", "names of ARG can not be blank", word.span)
        value = Token(default, word.part(len(name) + 1, len(word.text))) if equals else None
        items.append(syntax.ArgItem(Token(name, word.part(0, len(name))), value))
    return syntax.Arg(**parts.common(), items=tuple(items))


def _run(parts: Parts) -> Instruction:
    return syntax.Run(
        **parts.common(),
        command=parts.command(),
        heredocs=parts.heredocs,
        mounts=parts.flags.texts("mount"),
        network=parts.flags.text("network"),
        security=parts.flags.text("security"),
        devices=parts.flags.texts("device"),
    )


def _transfer(parts: Parts) -> dict[str, Any]:
    words = parts.list()
    if len(words) < 2:
        raise ArgumentError(
            f"{parts.name} needs a source and a destination", *parts.whole, code="missing-argument"
        )
    *sources, destination = words
    plain = not parts.is_json()
    if plain and arguments.parse_heredoc_word(destination.text) is not None:
        raise UserError.of("invalid-heredoc", f"{parts.name} can't write to a heredoc", destination.span)
    return {
        **parts.common(),
        "sources": tuple(sources),
        "heredocs": _places(parts, sources) if plain else {},
        "destination": destination,
        "chown": parts.flags.text("chown"),
        "chmod": parts.flags.text("chmod"),
        "link": parts.flags.boolean("link") or False,
        "exclude": parts.flags.texts("exclude"),
    }


def _places(parts: Parts, sources: list[Token]) -> dict[int, Heredoc]:
    places = [
        place for place, source in enumerate(sources) if arguments.parse_heredoc_word(source.text) is not None
    ]
    if len(places) != len(parts.heredocs):
        raise UserError.of(
            "invalid-heredoc",
            f"the heredocs of {parts.name} must stand alone, without blanks in their words",
            parts.rest().span,
        )
    return dict(zip(places, parts.heredocs, strict=True))


def _copy(parts: Parts) -> Instruction:
    return syntax.Copy(
        **_transfer(parts),
        origin=parts.flags.text("from"),
        parents=parts.flags.boolean("parents") or False,
    )


def _add(parts: Parts) -> Instruction:
    return syntax.Add(
        **_transfer(parts),
        checksum=parts.flags.text("checksum"),
        keep_git_dir=parts.flags.boolean("keep-git-dir"),
        unpack=parts.flags.boolean("unpack"),
    )


def _env(parts: Parts) -> Instruction:
    pairs = arguments.key_values(parts.line, *parts.range, parts.escape, parts.name)
    return syntax.Env(**parts.common(), pairs=pairs)


def _label(parts: Parts) -> Instruction:
    pairs = arguments.key_values(parts.line, *parts.range, parts.escape, parts.name)
    return syntax.LabelSet(**parts.common(), pairs=pairs)


def _workdir(parts: Parts) -> Instruction:
    return syntax.Workdir(path=parts.required(), **parts.common())


def _user(parts: Parts) -> Instruction:
    return syntax.User(user=parts.required(), **parts.common())


def _stopsignal(parts: Parts) -> Instruction:
    return syntax.StopSignal(signal=parts.required(), **parts.common())


def _maintainer(parts: Parts) -> Instruction:
    return syntax.Maintainer(maintainer=parts.required(), **parts.common())


def _expose(parts: Parts) -> Instruction:
    ports = arguments.split_blanks(parts.line, *parts.range)
    if not ports:
        raise parts.missing("at least one argument")
    return syntax.Expose(**parts.common(), ports=ports)


def _volume(parts: Parts) -> Instruction:
    paths = parts.list()
    if not paths:
        raise parts.missing("at least one argument")
    for path in paths:
        if not path.text.strip():
            raise UserError.of("missing-argument", "a path of VOLUME can not be empty", parts.rest().span)
    return syntax.Volume(**parts.common(), paths=paths)


def _cmd(parts: Parts) -> Instruction:
    return syntax.Cmd(command=parts.command(), **parts.common())


def _entrypoint(parts: Parts) -> Instruction:
    return syntax.Entrypoint(command=parts.command(), **parts.common())


def _shell(parts: Parts) -> Instruction:
    words = parts.json()
    if words is None and parts.range[0] < parts.range[1]:
        raise UserError.of(
            "shell-not-json",
            "SHELL takes the JSON form only",
            parts.rest().span,
            hint='write SHELL ["/bin/bash", "-c"]',
        )
    if not words:
        raise parts.missing("at least one argument")
    return syntax.Shell(**parts.common(), words=words)


def _healthcheck(parts: Parts) -> Instruction:
    begin, end = parts.range
    match = re.compile(r"\S+").match(parts.line.text, begin, end)
    if match is None:
        raise parts.missing("NONE or CMD")
    kind = match[0].upper()
    start, _ = arguments.trim(parts.line, match.end(), end)
    interval, timeout = _interval(parts, "interval"), _interval(parts, "timeout")
    period, gap = _interval(parts, "start-period"), _interval(parts, "start-interval")
    retries = _retries(parts)
    if kind == "NONE":
        if start < end:
            raise ArgumentError("HEALTHCHECK NONE takes no arguments", start, end)
        if parts.flags:
            raise ArgumentError("HEALTHCHECK NONE takes no flags", *parts.whole, code="unknown-flag")
        return syntax.Healthcheck(**parts.common(), command=None)
    if kind != "CMD":
        raise ArgumentError(f"HEALTHCHECK is NONE or CMD, not {match[0]}", *match.span())
    command = parts.command(start)
    if not command.words:
        raise parts.missing("a command after CMD")
    return syntax.Healthcheck(
        **parts.common(),
        command=command,
        interval=interval,
        timeout=timeout,
        start_period=period,
        start_interval=gap,
        retries=retries,
    )


def _interval(parts: Parts, name: str) -> int:
    flag = parts.flags.text(name)
    if flag is None or not flag.text:
        return 0
    try:
        nanoseconds = values.parse_duration(flag.text)
    except ValueError as error:
        raise UserError.of(
            "invalid-duration",
            f"--{name}={flag.text} is not a duration",
            flag.span,
            hint="write 30s or 1m30s",
        ) from error
    if nanoseconds and nanoseconds < _MIN_INTERVAL_NS:
        raise UserError.of("invalid-duration", f"--{name} cannot be less than 1ms", flag.span)
    return nanoseconds


def _retries(parts: Parts) -> int:
    flag = parts.flags.text("retries")
    if flag is None or not flag.text:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", flag.text) or int(flag.text) > 2**31 - 1:
        raise UserError.of(
            "invalid-flag-value", f"--retries={flag.text} is not a number from 0 upwards", flag.span
        )
    return int(flag.text)


BUILDERS: dict[str, Callable[[Parts], Instruction]] = {
    "FROM": _from,
    "RUN": _run,
    "CMD": _cmd,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "EXPOSE": _expose,
    "ENV": _env,
    "ADD": _add,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "VOLUME": _volume,
    "USER": _user,
    "WORKDIR": _workdir,
    "ARG": _arg,
    "STOPSIGNAL": _stopsignal,
    "HEALTHCHECK": _healthcheck,
    "SHELL": _shell,
}
