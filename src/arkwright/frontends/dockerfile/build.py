"""The Dockerfile front end: a function of a bridge and a request."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.diagnostics.spans import SourceFile
from arkwright.frontends.base import Bridge, FrontendRequest, FrontendResult
from arkwright.frontends.dockerfile.buildargs import is_predefined, proxy_environment
from arkwright.frontends.dockerfile.controls import (
    MULTI_PLATFORM,
    check_controls,
    control_switch,
    resolve_epoch,
)
from arkwright.frontends.dockerfile.convert import Converter
from arkwright.frontends.dockerfile.findings import Findings
from arkwright.frontends.dockerfile.lint import lint
from arkwright.frontends.dockerfile.lint_from import lint_from
from arkwright.frontends.dockerfile.parser import decode, detect_syntax, parse
from arkwright.frontends.dockerfile.stages import StageTable, check_cycles, group
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Arg, Dockerfile
from arkwright.frontends.dockerfile.tokens import warning

# A build shows no more findings of checks than this; all of them are shown by a call of its own.
SHOWN_FINDINGS = 50

# docker/dockerfile and docker/dockerfile-upstream, any tag and digest; the registry may be spelt out.
_STANDARD = re.compile(
    r"(?:(?:index\.)?docker\.io/)?docker/dockerfile(?:-upstream)?(?::[\w][\w.-]*)?(?:@sha256:[0-9a-f]{64})?"
)


def build(bridge: Bridge, request: FrontendRequest) -> FrontendResult:
    """Compile a Dockerfile for every platform that the request names.

    `FrontendResult.metadata` has `proxy-env`, a JSON list of `NAME=value` for every step that runs:
    proxies given as build arguments reach steps, never a key and never the image. `epoch` is
    SOURCE_DATE_EPOCH in seconds, when one is given; `multi-platform` says that an index is wanted.
    Raises `UserError` with all diagnostics that could be collected.
    """
    opened = open_file(bridge, request, bridge.warn, SHOWN_FINDINGS)
    add = opened.findings.add
    check_controls(request, opened.table, add)
    request, epoch = resolve_epoch(bridge, request, opened.table, opened.file.escape, add)
    images = []
    used: set[str] = set()
    for platform in request.platforms or (request.build_platform,):
        converter = Converter(
            bridge, request, opened.table, platform, opened.file.escape, opened.findings.add
        )
        images.append(converter.convert())
        used |= converter.build.used_args
    warn_unused(request, opened.file, used, opened.findings)
    opened.findings.close()
    metadata = {} if epoch is None else {"epoch": str(epoch)}
    if control_switch(request.build_args, MULTI_PLATFORM):
        metadata["multi-platform"] = "1"
    proxies = proxy_environment(request.build_args)
    if proxies:
        metadata["proxy-env"] = msgspec.json.encode(proxies).decode()
    return FrontendResult(images=tuple(images), metadata=metadata)


class Opened(msgspec.Struct, frozen=True):
    """A file that was parsed and linted, and where its findings go."""

    file: Dockerfile
    table: StageTable
    findings: Findings


def open_file(
    bridge: Bridge, request: FrontendRequest, warn: Callable[[Diagnostic], None], limit: int
) -> Opened:
    """Read, parse and lint the request's file.

    Raises `UserError` with all problems that need no base image to be seen.
    """
    findings = Findings(warn, limit)
    file = load(bridge, request, findings)
    check_syntax(file, request)
    parsed = parse(file)
    problems = [*parsed.problems, *findings.configure(parsed, request.build_args)]
    for found in parsed.warnings:
        findings.add(found)
    if problems:
        raise UserError(*problems)
    table = group(parsed)
    check_cycles(table)
    platform = (request.platforms or (request.build_platform,))[0]
    for found in (*lint(table), *lint_from(table, request, platform, parsed.escape)):
        findings.add(found)
    return Opened(parsed, table, findings)


def load(bridge: Bridge, request: FrontendRequest, warnings: Findings) -> SourceFile:
    """The Dockerfile's text: the request's own, or the named file, or `dockerfile`.

    Raises `UserError` `dockerfile-not-found`, `dockerfile-encoding`.
    """
    if request.source:
        data: bytes | None = request.source.encode(errors="surrogateescape")
    else:
        data = _read(bridge, request.filename)
    if data is None:
        raise UserError.of(
            "dockerfile-not-found",
            f"there is no {request.filename}",
            hint="name the file with -f, or the directory that has it as the context",
        )
    file, found = decode(data, request.filename)
    for item in found:
        warnings.add(item)
    return file


def _read(bridge: Bridge, path: str) -> bytes | None:
    try:
        data = bridge.read_file("dockerfile", path)
        return bridge.read_file("dockerfile", "dockerfile") if data is None and path == "Dockerfile" else data
    except UserError as error:
        # A caller that gives the text has no such tree: then the text was empty.
        if error.code != "unknown-context":
            raise
        return b""


def check_syntax(file: SourceFile, request: FrontendRequest) -> None:
    """Accept the standard front end's names; this one stands in for it.

    Raises `UserError` `unsupported-frontend`.
    """
    override = request.build_args.get("BUILDKIT_SYNTAX", "")
    if override:
        if not _STANDARD.fullmatch(override.split(" ")[0]):
            raise _unsupported(f"BUILDKIT_SYNTAX={override}")
        return
    token = detect_syntax(file.text)
    if token is not None and not _STANDARD.fullmatch(token.text):
        error = _unsupported(f"# syntax={token.text}")
        from arkwright.diagnostics.errors import Label

        raise error.with_label(Label(msgspec.structs.replace(token.span, file=file)))


def _unsupported(what: str) -> ArkwrightError:
    return UserError.of(
        "unsupported-frontend",
        f"{what} asks for another front end",
        hint="only docker/dockerfile is built in, in all versions and with -labs; other images can not be run yet",
    )


def warn_unused(request: FrontendRequest, parsed: Dockerfile, used: set[str], warnings: Findings) -> None:
    """Warn about build arguments that no ARG declares."""
    declared = {
        item.name.text for found in parsed.instructions if isinstance(found, Arg) for item in found.items
    }
    for name in sorted(request.build_args):
        if name not in used and name not in declared and not is_predefined(name):
            hint = did_you_mean(name, declared)
            warnings.add(
                warning("unused-build-arg", f"no ARG declares {name}, given as a build argument", hint=hint)
            )
