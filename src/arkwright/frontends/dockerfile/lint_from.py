"""Checks of FROM lines: arguments in them, platforms, pins."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Label, UserError
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.bases import SCRATCH
from arkwright.frontends.dockerfile.buildargs import global_args
from arkwright.frontends.dockerfile.stages import Stage, StageTable
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.frontends.dockerfile.words import Expanded, Rules, expand_token
from arkwright.oci.platform import Platform, parse_platform
from arkwright.oci.reference import parse_reference

_TARGET = re.compile(r"\$(?:TARGETPLATFORM|\{TARGETPLATFORM\})")


def lint_from(
    table: StageTable, request: FrontendRequest, platform: Platform, escape: str
) -> Iterator[Diagnostic]:
    """What is found in the FROM lines, with the arguments of a request and with none."""
    bare = msgspec.structs.replace(request, build_args={})
    try:
        args = global_args(table.args, request, platform, "", escape)
        defaults = global_args(table.args, bare, platform, "", escape)
    except UserError:
        return  # The conversion raises it.
    reader = _From(table, args, defaults, Rules(escape=escape))
    for stage in table.stages:
        yield from reader.platform(stage)
        yield from reader.base(stage)


class _From:
    def __init__(
        self, table: StageTable, args: dict[str, str], defaults: dict[str, str], rules: Rules
    ) -> None:
        self.table = table
        self.args = args
        self.defaults = defaults
        self.rules = rules
        self.declared = {item.name.text: item.name for arg in table.args for item in arg.items}

    def expand(self, token: Token, args: dict[str, str]) -> Expanded | None:
        try:
            return expand_token(token, args, self.rules)
        except UserError:
            return None

    def platform(self, stage: Stage) -> Iterator[Diagnostic]:
        token = stage.head.platform
        if token is None:
            return
        yield from self.undeclared(token)
        if _TARGET.fullmatch(token.text):
            message = f"--platform={token.text} is what FROM does without it"
            yield warning("redundant-target-platform", message, token.span, hint="leave --platform away")
        found = self.expand(token, self.args)
        if found is None or found.used or found.unset:
            return
        try:
            constant = parse_platform(found.text)
        except ArkwrightError:
            return
        if constant.os not in stage.name and constant.architecture not in stage.name:
            message = (
                f"--platform={token.text} is a constant: the image has one platform whatever is asked for"
            )
            hint = "leave it away, or use $BUILDPLATFORM or $TARGETPLATFORM"
            yield warning("from-platform-flag-const-disallowed", message, token.span, hint=hint)

    def base(self, stage: Stage) -> Iterator[Diagnostic]:
        token = stage.head.base
        yield from self.undeclared(token)
        yield from self.default(token)
        found = self.expand(token, self.args)
        if found is None or found.text in ("", SCRATCH) or "@" in found.text:
            return
        if self.table.before(found.text, stage.index) is None:
            message = f"{found.text} has no digest: the same file builds on another image tomorrow"
            hint = f"write {found.text}@sha256:…"
            yield warning("unpinned-base-image", message, token.span, hint=hint)

    def undeclared(self, token: Token) -> Iterator[Diagnostic]:
        found = self.expand(token, self.args)
        for name, (start, end) in (found.unset if found is not None else {}).items():
            if name not in self.declared:
                known = [*self.declared, *self.args]
                yield warning(
                    "undefined-arg-in-from",
                    f"no ARG before the first FROM declares {name}",
                    token.part(start, end),
                    hint=did_you_mean(f"${name}", [f"${option}" for option in known]),
                )

    def default(self, token: Token) -> Iterator[Diagnostic]:
        found = self.expand(token, self.defaults)
        if found is None:
            return
        names = [name for name in (*found.unset, *sorted(found.used)) if name in self.declared]
        if not names or _is_name(found.text):
            return
        labels = [Label(self.declared[name].span, "declared here") for name in names]
        yield warning(
            "invalid-default-arg-in-from",
            f"without build arguments {token.text} is {found.text!r}: no image has this name",
            token.span,
            *labels,
            hint=f"give {names[0]} a default",
        )


def _is_name(text: str) -> bool:
    try:
        parse_reference(text)
    except ArkwrightError:
        return False
    return True
