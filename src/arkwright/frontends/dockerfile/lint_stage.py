"""Checks of single instructions whose outcome depends on what a stage is built on.

Conversion calls them with expanded words; `unconverted` with the words as written, for stages that
could not be converted.
"""

from __future__ import annotations

from collections.abc import Iterator

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic
from arkwright.frontends.dockerfile import syntax
from arkwright.frontends.dockerfile.stages import StageTable
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.oci.platform import Platform

_PROTOCOLS = ("tcp", "udp", "sctp")


def relative_workdir(path: str, token: Token) -> Diagnostic | None:
    """A first WORKDIR that is relative."""
    if path.startswith("/") or path[1:3] in (":/", ":\\"):
        return None
    message = f"WORKDIR {path} is relative: it depends on what the base image has"
    return warning("workdir-relative-path", message, token.span, hint=f"write /{path}")


def shell_form(keyword: str, command: syntax.CommandLine) -> Diagnostic | None:
    """A CMD or ENTRYPOINT in shell form where no SHELL was chosen."""
    if not command.shell or not command.words:
        return None
    return warning(
        "json-args-recommended",
        f"{keyword} runs in a shell, which does not pass signals on",
        command.words[0].span,
        hint=f'write {keyword} ["program", "argument"], or choose a shell with SHELL',
    )


def odd_port(word: str, token: Token) -> Iterator[Diagnostic]:
    """A word of EXPOSE with an address, a port of the host, or a protocol in capitals."""
    place = token.span
    written = word == token.text
    container, slash, protocol = word.partition("/")
    if slash and protocol != protocol.lower() and protocol.lower() in _PROTOCOLS:
        span = token.part(len(container) + 1, len(word)) if written else place
        message = f"the protocol {protocol} is not in lower case"
        yield warning("expose-proto-casing", message, span, hint=f"write {container}/{protocol.lower()}")
    address, colon, port = container.rpartition(":")
    if colon:
        span = token.part(0, len(address) + 1) if written else place
        message = f"EXPOSE {word}: the address and the port of the host are not a part of an image"
        yield warning("expose-invalid-format", message, span, hint=f"write {port}{slash}{protocol}")


def wrong_platform(name: Token, wanted: Platform, found: Platform) -> Diagnostic | None:
    """A base image of another platform."""
    if (wanted.os, wanted.architecture) == (found.os, found.architecture):
        return None
    message = f"the base image {name.text} is {found}, and {wanted} is built"
    return warning("invalid-base-image-platform", message, name.span)


def refused_platform(error: ArkwrightError) -> Diagnostic:
    """The same of an image that a build would not take: with its place, and what it is for."""
    refused = error.diagnostics[0]
    return warning("invalid-base-image-platform", refused.message, refused.labels[0].span, hint=refused.hint)


def unconverted(table: StageTable, indexes: set[int]) -> Iterator[Diagnostic]:
    """What can be found in stages whose base images are not known."""
    shells: set[int] = set()
    placed: set[int] = set()
    for stage in table.stages:
        base = table.before(stage.head.base.text, stage.index)
        has_shell, has_workdir = base in shells, base in placed
        for item in stage.instructions:
            found: list[Diagnostic | None] = []
            if isinstance(item, syntax.Shell):
                has_shell = True
            elif isinstance(item, syntax.Cmd | syntax.Entrypoint) and not has_shell:
                found = [shell_form(item.name, item.command)]
            elif isinstance(item, syntax.Workdir):
                if not has_workdir and "$" not in item.path.text:
                    found = [relative_workdir(item.path.text, item.path)]
                has_workdir = True
            elif isinstance(item, syntax.Expose):
                found = [
                    odd for port in item.ports if "$" not in port.text for odd in odd_port(port.text, port)
                ]
            if stage.index in indexes:
                yield from (diagnostic for diagnostic in found if diagnostic is not None)
        if has_shell:
            shells.add(stage.index)
        if has_workdir:
            placed.add(stage.index)
