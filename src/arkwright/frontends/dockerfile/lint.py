"""Checks of a whole file as it is written: nothing is resolved, no platform matters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from arkwright.diagnostics.errors import Diagnostic, Label
from arkwright.frontends.dockerfile import syntax
from arkwright.frontends.dockerfile.stages import Stage, StageTable
from arkwright.frontends.dockerfile.syntax import Instruction
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.frontends.secret_names import is_secret_name

_RESERVED = ("context", "scratch")
_ONCE = (syntax.Cmd, syntax.Entrypoint, syntax.Healthcheck)
# Compiled by `re` when they are first used.
_PRIVATE_FILE = (
    r"(?:^|/)(?:\.env|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.git-credentials|\.htpasswd|id_(?:rsa|dsa|ecdsa|ed25519)"
    r"|credentials(?:\.json)?|[^/]+\.(?:pem|p12|pfx|key|keystore|jks))$"
)
_APT_UPDATE = r"(?:^|[\s;&|(])(apt(?:-get)?\s+(?:-\S+\s+)*update)(?=$|[\s;&|)])"
_APT_OTHER = r"\bapt(?:-get)?\s+(?:-\S+\s+)*(?:install|upgrade|dist-upgrade|full-upgrade|build-dep)\b"

Check = Callable[[StageTable], Iterator[Diagnostic]]


def lint(table: StageTable) -> Iterator[Diagnostic]:
    """What is found in all stages, whether the target needs them or not."""
    for check in _FILE_CHECKS:
        yield from check(table)
    for stage in table.stages:
        yield from _multiple(stage)
        for instruction in stage.instructions:
            trigger = instruction.trigger if isinstance(instruction, syntax.Onbuild) else instruction
            yield from _instruction(trigger)
    for arg in table.args:
        yield from _instruction(arg)


def _every(table: StageTable) -> Iterator[Instruction]:
    yield from table.args
    for stage in table.stages:
        yield stage.head
        yield from stage.instructions


def _stage_names(table: StageTable) -> Iterator[Diagnostic]:
    first: dict[str, Token] = {}
    for stage in table.stages:
        token = stage.head.stage
        if token is None:
            continue
        if any(char.isupper() for char in token.span.text):
            message = f"the stage's name {token.span.text} is not in lower case"
            yield warning("stage-name-casing", message, token.span, hint=f"write {token.text}")
        if token.text in _RESERVED:
            message = f"{token.text} means something else: a stage of this name cannot be referred to"
            yield warning("reserved-stage-name", message, token.span)
        if token.text in first:
            label = Label(first[token.text].span, "first used here")
            message = f"two stages are called {token.text}"
            yield warning("duplicate-stage-name", message, token.span, label)
        first.setdefault(token.text, token)


def _as_casing(table: StageTable) -> Iterator[Diagnostic]:
    for stage in table.stages:
        word, keyword = stage.head.as_word, stage.head.keyword.text
        if word is None or (keyword != keyword.upper() and keyword != keyword.lower()):
            continue
        wanted = "AS" if keyword.isupper() else "as"
        if word.text != wanted:
            message = f"{keyword} and {word.text} are not in the same case"
            yield warning("from-as-casing", message, word.span, hint=f"write {wanted}")


def _instruction_casing(table: StageTable) -> Iterator[Diagnostic]:
    words = [instruction.keyword for instruction in _every(table)]
    lower = sum(word.text.islower() for word in words)
    upper = sum(word.text.isupper() for word in words)
    to_lower = lower > upper
    for word in words:
        wanted = word.text.lower() if to_lower else word.text.upper()
        if word.text != wanted:
            message = (
                f"{word.text} is not in {'lower' if to_lower else 'upper'} case as most instructions are"
            )
            yield warning("consistent-instruction-casing", message, word.span, hint=f"write {wanted}")


def _descriptions(table: StageTable) -> Iterator[Diagnostic]:
    for instruction in _every(table):
        names = described(instruction)
        if not names or not instruction.comments:
            continue
        comment = instruction.comments[-1]
        if comment.text.split(" ")[0] not in names and not comment.text.startswith("check="):
            example = names[0] if len(names) == 1 else "<name>"
            yield warning(
                "invalid-definition-description",
                f"the comment does not begin with {' or '.join(names)}: it describes nothing",
                comment.span,
                hint=f"write `# {example} …`, or put an empty line below the comment",
            )


def described(instruction: Instruction) -> list[str]:
    """The names that a comment above an instruction can describe."""
    if isinstance(instruction, syntax.From) and instruction.stage is not None:
        return list(dict.fromkeys([instruction.stage.span.text, instruction.stage.text]))
    if isinstance(instruction, syntax.Arg):
        return [item.name.text for item in instruction.items]
    return []


def _multiple(stage: Stage) -> Iterator[Diagnostic]:
    last: dict[type[Instruction], Instruction] = {}
    for instruction in stage.instructions:
        if not isinstance(instruction, _ONCE):
            continue
        earlier = last.get(type(instruction))
        if earlier is not None:
            yield warning(
                "multiple-instructions-disallowed",
                f"this {earlier.name} has no effect: only the last one of a stage counts",
                earlier.span,
                Label(instruction.keyword.span, "replaced here"),
            )
        last[type(instruction)] = instruction


def _instruction(instruction: Instruction) -> Iterator[Diagnostic]:
    match instruction:
        case syntax.Maintainer():
            yield warning(
                "maintainer-deprecated",
                "MAINTAINER is deprecated",
                instruction.keyword.span,
                hint='write LABEL org.opencontainers.image.authors="…"',
            )
        case syntax.Env() | syntax.LabelSet():
            yield from _pairs(instruction)
        case syntax.Arg():
            for item in instruction.items:
                yield from _secret("ARG", item.name)
        case syntax.Transfer():
            yield from _secret_files(instruction)
        case syntax.Run():
            yield from _apt(instruction)


def _pairs(instruction: syntax.Env | syntax.LabelSet) -> Iterator[Diagnostic]:
    for pair in instruction.pairs:
        if pair.legacy:
            yield warning(
                "legacy-key-value-format",
                f"{instruction.name} {pair.key.text} is written with a blank for =",
                pair.key.span.to(pair.value.span),
                hint=f"write {instruction.name} {pair.key.text}=…",
            )
        if isinstance(instruction, syntax.Env):
            yield from _secret("ENV", pair.key)


def _secret(keyword: str, name: Token) -> Iterator[Diagnostic]:
    if is_secret_name(name.text):
        yield warning(
            "secrets-used-in-arg-or-env",
            f"{keyword} {name.text} looks like a secret: whoever has the image can read it",
            name.span,
            hint="use RUN --mount=type=secret",
        )


def _secret_files(instruction: syntax.Transfer) -> Iterator[Diagnostic]:
    if isinstance(instruction, syntax.Copy) and instruction.origin is not None:
        return
    for place, source in enumerate(instruction.sources):
        if place not in instruction.heredocs and re.search(_PRIVATE_FILE, source.text):
            yield warning(
                "secret-in-copy",
                f"{source.text} looks like a secret: it becomes a part of the image",
                source.span,
                hint="use RUN --mount=type=secret, and exclude the file in .dockerignore",
            )


def _apt(instruction: syntax.Run) -> Iterator[Diagnostic]:
    texts = [
        *(instruction.command.words if instruction.command.shell else ()),
        *(heredoc.content for heredoc in instruction.heredocs),
    ]
    if any(re.search(_APT_OTHER, token.text) for token in texts):
        return
    for token in texts:
        match = re.search(_APT_UPDATE, token.text)
        if match is not None:
            yield warning(
                "apt-get-update-alone",
                f"{match[1]} is a RUN of its own: a later install uses the lists that were cached then",
                token.part(*match.span(1)),
                hint="write RUN apt-get update && apt-get install …",
            )
            return


_FILE_CHECKS: tuple[Check, ...] = (_stage_names, _as_casing, _instruction_casing, _descriptions)
