"""What a Dockerfile says: instructions as frozen structs, every token with its place.

Nothing is expanded or resolved here; texts are as written, after joining of lines.
"""

from __future__ import annotations

import re

import msgspec

from arkwright.diagnostics.errors import Diagnostic
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.frontends.dockerfile.tokens import Directive, Token

_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


class Heredoc(msgspec.Struct, frozen=True, kw_only=True):
    """A here-document: `name` is its terminator without quotes, `word` the whole `<<EOF`.

    `content` keeps leading tabs; `expand` says that no part of the word was quoted, `chomp` that
    it was `<<-`.
    """

    name: str
    word: Token
    content: Token
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0

    def body(self) -> str:
        """The content, leading tabs of each line dropped when `<<-` asks for it."""
        if not self.chomp:
            return self.content.text
        return _LEADING_TABS.sub("", self.content.text)


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """Common to all. `source` is the logical line without heredoc bodies, `comments` those
    directly above."""

    keyword: Token
    span: Span
    source: str
    comments: tuple[Token, ...] = ()

    @property
    def name(self) -> str:
        """The keyword in capitals."""
        return self.keyword.text.upper()


class KeyValue(msgspec.Struct, frozen=True):
    """`key=value`; `legacy` for the form with a blank between."""

    key: Token
    value: Token
    legacy: bool = False


class ArgItem(msgspec.Struct, frozen=True):
    """One name of an ARG, with its default if there is one."""

    name: Token
    default: Token | None


class CommandLine(msgspec.Struct, frozen=True):
    """A command: one text for the shell, or the list of the exec form."""

    words: tuple[Token, ...]
    shell: bool

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.words)


class From(Instruction, frozen=True, kw_only=True):
    """`stage` is in lower case, its place has it as written; `as_word` is the AS before it."""

    base: Token
    as_word: Token | None = None
    stage: Token | None = None
    platform: Token | None = None


class Arg(Instruction, frozen=True, kw_only=True):
    items: tuple[ArgItem, ...]


class Run(Instruction, frozen=True, kw_only=True):
    command: CommandLine
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Token, ...] = ()
    network: Token | None = None
    security: Token | None = None
    devices: tuple[Token, ...] = ()


class Transfer(Instruction, frozen=True, kw_only=True):
    """Common to COPY and ADD. `heredocs` maps to the places of `sources` that are heredoc words."""

    sources: tuple[Token, ...]
    heredocs: dict[int, Heredoc] = {}
    destination: Token
    chown: Token | None = None
    chmod: Token | None = None
    link: bool = False
    exclude: tuple[Token, ...] = ()


class Copy(Transfer, frozen=True, kw_only=True):
    origin: Token | None = None
    parents: bool = False


class Add(Transfer, frozen=True, kw_only=True):
    checksum: Token | None = None
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Env(Instruction, frozen=True, kw_only=True):
    pairs: tuple[KeyValue, ...]


class LabelSet(Instruction, frozen=True, kw_only=True):
    pairs: tuple[KeyValue, ...]


class Workdir(Instruction, frozen=True, kw_only=True):
    path: Token


class User(Instruction, frozen=True, kw_only=True):
    user: Token


class Expose(Instruction, frozen=True, kw_only=True):
    ports: tuple[Token, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    paths: tuple[Token, ...]


class Cmd(Instruction, frozen=True, kw_only=True):
    command: CommandLine


class Entrypoint(Instruction, frozen=True, kw_only=True):
    command: CommandLine


class Shell(Instruction, frozen=True, kw_only=True):
    words: tuple[Token, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    signal: Token


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`test` is empty for NONE; times in nanoseconds, 0 inherits."""

    command: CommandLine | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Maintainer(Instruction, frozen=True, kw_only=True):
    maintainer: Token


class Onbuild(Instruction, frozen=True, kw_only=True):
    """`expression` is what an image config stores; `trigger` the same, parsed."""

    expression: str
    trigger: Instruction


class Dockerfile(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed file. `problems` are errors; with any, `instructions` has only what was good."""

    file: SourceFile
    directives: tuple[Directive, ...] = ()
    escape: str = "\\"
    instructions: tuple[Instruction, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
