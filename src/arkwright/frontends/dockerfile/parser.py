"""Bytes of a Dockerfile in, instructions out; every problem of the file in one run."""

from __future__ import annotations

import re

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.frontends.dockerfile import arguments, instructions
from arkwright.frontends.dockerfile.arguments import ArgumentError
from arkwright.frontends.dockerfile.flags import check, extract
from arkwright.frontends.dockerfile.instructions import Parts
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Dockerfile, Heredoc, Instruction, Onbuild
from arkwright.frontends.dockerfile.tokens import (
    SPACE,
    Directive,
    Line,
    LineReader,
    Token,
    problem,
    read_directives,
    warning,
)

MAX_PROBLEMS = 50
_KEYWORD = re.compile(r"[^\t\v\f\r ]+")
_NOT_IN_ONBUILD = ("ONBUILD", "FROM", "MAINTAINER")


def decode(data: bytes, path: str) -> tuple[SourceFile, list[Diagnostic]]:
    """The text of a file, its byte order mark dropped, and a warning for bytes that are no UTF-8.

    Raises `UserError` `dockerfile-encoding` for UTF-16 and for NUL characters.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise UserError.of(
            "dockerfile-encoding",
            f"{path} is not UTF-8 text",
            hint="save the file as UTF-8, without NUL characters",
        )
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return SourceFile(path, data.decode()), []
    except UnicodeDecodeError as error:
        file = SourceFile(path, data.decode(errors="replace"))
        offset = len(data[: error.start].decode(errors="replace"))
        place = Span(file, offset, offset + 1)
        return file, [warning("invalid-utf8", "bytes that are not UTF-8 were replaced by \ufffd", place)]


def parse(file: SourceFile) -> Dockerfile:
    """Parse a whole file; problems are collected in the result, nothing is raised."""
    directives, start, problems = read_directives(file)
    escape = next((item.value.text for item in directives if item.name == "escape"), "\\")
    run = _Run(LineReader(file, start, escape), problems)
    run.all()
    return _result(file, directives, escape, run)


def _result(file: SourceFile, directives: list[Directive], escape: str, run: _Run) -> Dockerfile:
    problems = run.problems + run.reader.problems
    return Dockerfile(
        file=file,
        directives=tuple(directives),
        escape=escape,
        instructions=tuple(run.instructions),
        problems=tuple(problems[:MAX_PROBLEMS]),
        warnings=tuple(run.warnings[:MAX_PROBLEMS]),
    )


class _Run:
    """One pass over a file's lines."""

    def __init__(self, reader: LineReader, problems: list[Diagnostic]) -> None:
        self.reader = reader
        self.problems = problems
        self.warnings: list[Diagnostic] = []
        self.instructions: list[Instruction] = []

    def all(self) -> None:
        while (line := self.reader.next()) is not None and len(self.problems) < MAX_PROBLEMS:
            if line.blank_continuation is not None:
                self.warnings.append(
                    warning(
                        "no-empty-continuation",
                        "a blank line inside of an instruction: it does not end there",
                        line.blank_continuation,
                    )
                )
            instruction = self.instruction(line, 0, False)
            if instruction is not None:
                self.instructions.append(instruction)

    def instruction(self, line: Line, start: int, nested: bool) -> Instruction | None:
        """The instruction that begins at `start`; None after a problem was noted."""
        try:
            return self._instruction(line, start, nested)
        except ArgumentError as error:
            token = getattr(error, "token", None)
            place = token.span if isinstance(token, Token) else line.span(error.start, error.end)
            if place.start == place.end:
                place = line.span(*arguments.trim(line, 0, len(line.text)))
            self.problems.append(problem(error.code, str(error), place))
        except ArkwrightError as error:
            self.problems.extend(error.diagnostics)
        return None

    def _instruction(self, line: Line, start: int, nested: bool) -> Instruction | None:
        start, end = arguments.trim(line, start, len(line.text))
        match = _KEYWORD.match(line.text, start, end)
        if match is None:
            raise ArgumentError("ONBUILD needs an instruction", 0, end, code="missing-argument")
        keyword = line.token(*match.span())
        name = keyword.text.upper()
        flags, begin = extract(line, match.end(), end)
        begin, end = arguments.trim(line, begin, end)
        checked, found = check(name, flags)
        if name in instructions.BUILDERS or name == "ONBUILD":
            self.problems.extend(found)
        parts = Parts(line, keyword, (start, end), (begin, end), checked, self.reader.escape)
        if nested and name in _NOT_IN_ONBUILD:
            raise ArgumentError(f"{name} isn't allowed in ONBUILD", *match.span(), code="invalid-onbuild")
        if name == "ONBUILD":
            return self.onbuild(parts)
        builder = instructions.BUILDERS.get(name)
        if builder is None:
            raise _unknown(keyword)
        if name in instructions.HEREDOC_OWNERS:
            parts.heredocs = self.heredocs(parts)
        return builder(parts)

    def onbuild(self, parts: Parts) -> Instruction | None:
        begin, end = parts.range
        trigger = self.instruction(parts.line, begin, True)
        if trigger is None:
            return None
        expression = parts.line.text[begin:end]
        for heredoc in instructions.heredocs_of(trigger):
            expression += "\n" + heredoc.content.text + heredoc.name
        return Onbuild(**parts.common(), expression=expression, trigger=trigger)

    def heredocs(self, parts: Parts) -> tuple[Heredoc, ...]:
        begin, end = parts.range
        if parts.is_json():
            return ()
        result: list[Heredoc] = []
        for word, token in arguments.find_heredocs(parts.line, begin, end):
            content = self.reader.heredoc(word.name, word.chomp)
            if content is None:
                # What follows is most likely its body: instructions found in it would be noise.
                self.reader.skip_rest()
                raise UserError.of(
                    "unterminated-heredoc",
                    f"the heredoc is never ended by a line {word.name!r}",
                    token.span,
                    hint="the terminator stands alone on its line"
                    + (", after tabs at most" if word.chomp else ", with nothing before it"),
                )
            result.append(
                Heredoc(
                    name=word.name,
                    word=token,
                    content=content,
                    expand=word.expand,
                    chomp=word.chomp,
                    descriptor=word.descriptor,
                )
            )
        return tuple(result)


def _unknown(keyword: Token) -> ArkwrightError:
    names = [*instructions.BUILDERS, "ONBUILD"]
    shown = keyword.text if len(keyword.text) <= 40 else keyword.text[:37] + "..."
    return UserError.of(
        "unknown-instruction",
        f"unknown instruction {shown}",
        keyword.span,
        hint=did_you_mean(keyword.text, names),
    )


def detect_syntax(text: str) -> Token | None:
    """The front end that a file asks for: `# syntax=`, `// syntax=`, or a JSON document's key
    `syntax`, after a shebang line."""
    start = text.find("\n") + 1 if text.startswith("#!") else 0
    file = SourceFile("Dockerfile", text)
    body = text[start:]
    for prefix in ("#", "//"):
        value = _directive(body, prefix, file, start)
        if value is not None:
            return value
    return _json_syntax(body, file)


def _directive(body: str, prefix: str, file: SourceFile, start: int) -> Token | None:
    pattern = re.compile(rf"[ \t]*{prefix}\s*(syntax|escape|check)\s*=[ \t]*([^\r\n]+)", re.IGNORECASE)
    position = 0
    while (match := pattern.match(body, position)) is not None:
        if match[1].lower() == "syntax":
            value = match[2].strip(SPACE).split(" ")[0]
            offset = start + match.start(2)
            return Token(value, Span(file, offset, offset + len(value)))
        newline = body.find("\n", position)
        if newline < 0:
            break
        position = newline + 1
    return None


def _json_syntax(body: str, file: SourceFile) -> Token | None:
    import json

    if not body.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    value = document.get("syntax") if isinstance(document, dict) else None
    return Token(value, Span(file, 0, 1)) if isinstance(value, str) else None
