"""The answers of `--call`: findings as text, JSON and SARIF; targets and outlines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from arkwright import __version__
from arkwright.build.compile import check_request, request_outline, request_targets
from arkwright.build.means import open_means
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.cli.calls import Call
from arkwright.cli.columns import columns
from arkwright.cli.invocation import wants_color
from arkwright.diagnostics.cells import escape
from arkwright.diagnostics.errors import Diagnostic
from arkwright.diagnostics.render import docs_page, render
from arkwright.diagnostics.spans import Span
from arkwright.events.stream import EventStream
from arkwright.frontends.dockerfile.rules import BY_CODE

if TYPE_CHECKING:
    from arkwright.frontends.dockerfile.calls import CheckReport, Outline, Target


def run_call(call: Call, request: BuildRequest, session: SessionInputs, root_path: str) -> int:
    """Answer on standard output; returns the exit status, 1 for a file that a build would refuse."""
    with open_means(root_path, session, EventStream("call")) as means:
        if call.method == "targets":
            found = request_targets(request, means)
            click.echo(_json(targets_json(found)) if call.format == "json" else targets_text(found))
            return 0
        if call.method == "outline":
            outline = request_outline(request, means)
            click.echo(_json(outline_json(outline)) if call.format == "json" else outline_text(outline))
            return 0
        report = check_request(request, means)
    if call.format == "text":
        click.echo(check_text(report, color=wants_color(sys.stdout)))
    else:
        click.echo(_json(check_json(report) if call.format == "json" else sarif(report)))
    return 1 if report.errors else 0


def check_text(report: CheckReport, *, color: bool = False) -> str:
    """The findings as a build shows them, and a last line that sums them up."""
    parts = (
        [render((*report.findings, *report.errors), color=color)] if report.findings or report.errors else []
    )
    parts += [f"note: {escape(text)}\n" for text in report.skipped]
    return "\n".join([*parts, _summary(report)])


def _summary(report: CheckReport) -> str:
    path = escape(report.path)
    errors, findings = len(report.errors), len(report.findings)
    if not errors and not findings:
        return f"{path}: no findings"
    counts = [f"{errors} error{'s' * (errors > 1)}"] if errors else []
    counts += [f"{findings} finding{'s' * (findings > 1)}"] if findings else []
    names = sorted({rule_name(found) for found in (*report.findings, *report.errors)})
    return f"{path}: {', '.join(counts)} ({', '.join(names)})"


def rule_name(found: Diagnostic) -> str:
    """BuildKit's name of a check; the code of any other diagnostic."""
    rule = BY_CODE.get(found.code)
    return rule.name if rule is not None else found.code


def check_json(report: CheckReport) -> dict[str, Any]:
    """As BuildKit's lint request answers (`warnings`, `sources`, `buildError`), with `code`, `hint`
    and the columns added. Lines count from 1, characters from 0."""
    sources: list[str] = [report.path]
    answer: dict[str, Any] = {
        "warnings": [_warning_json(found, sources) for found in report.findings],
        "skipped": list(report.skipped),
    }
    if report.errors:
        first = report.errors[0]
        answer["buildError"] = {
            "message": first.message,
            "location": _location(first, sources),
            "errors": [_warning_json(found, sources) for found in report.errors],
        }
    answer["sources"] = [{"filename": path, "language": "Dockerfile"} for path in sources]
    return answer


def _warning_json(found: Diagnostic, sources: list[str]) -> dict[str, Any]:
    rule = BY_CODE.get(found.code)
    return {
        "ruleName": rule_name(found),
        "description": rule.description if rule is not None else "",
        "url": docs_page(found.code),
        "detail": found.message,
        "location": _location(found, sources),
        "code": found.code,
        "hint": found.hint,
    }


def _location(found: Diagnostic, sources: list[str]) -> dict[str, Any] | None:
    if not found.labels:
        return None
    span = found.labels[0].span
    if span.file.path not in sources:
        sources.append(span.file.path)
    return {"sourceIndex": sources.index(span.file.path), "ranges": [_range(span)]}


def _range(span: Span) -> dict[str, dict[str, int]]:
    ends = (("start", span.start), ("end", span.end))
    places = ((name, span.file.position(offset)) for name, offset in ends)
    return {name: {"line": line, "character": column - 1} for name, (line, column) in places}


def sarif(report: CheckReport) -> dict[str, Any]:
    """SARIF 2.1.0: one run, a rule for each code that was found. Columns count code points."""
    found = (*report.findings, *report.errors)
    codes = list(dict.fromkeys(item.code for item in found))
    notes = [{"level": "note", "message": {"text": text}} for text in report.skipped]
    run = {
        "tool": {
            "driver": {
                "name": "arkwright",
                "version": __version__,
                "rules": [_sarif_rule(code) for code in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "results": [_sarif_result(item, codes, report.path) for item in found],
    }
    return {"version": "2.1.0", "runs": [run]}


def _sarif_rule(code: str) -> dict[str, Any]:
    rule = BY_CODE.get(code)
    text = rule.description if rule is not None else code
    name = rule.name if rule is not None else code
    help_text = f"See {docs_page(code)}."
    return {"id": code, "name": name, "shortDescription": {"text": text}, "help": {"text": help_text}}


def _sarif_result(found: Diagnostic, codes: Sequence[str], path: str) -> dict[str, Any]:
    text = f"{found.message}. {found.hint}" if found.hint else found.message
    result: dict[str, Any] = {
        "ruleId": found.code,
        "ruleIndex": codes.index(found.code),
        "level": found.severity.value,
        "message": {"text": text},
    }
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(path)}}
    if found.labels:
        span = found.labels[0].span
        start, end = span.file.position(span.start), span.file.position(span.end)
        place["artifactLocation"]["uri"] = _uri(span.file.path)
        place["region"] = {
            "startLine": start[0],
            "startColumn": start[1],
            "endLine": end[0],
            "endColumn": end[1],
        }
    result["locations"] = [{"physicalLocation": place}]
    return result


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/:.-_~")


def targets_json(targets: Sequence[Target]) -> dict[str, Any]:
    """As BuildKit's targets request answers."""
    return {
        "targets": [
            {
                "name": target.name,
                "default": target.default,
                "description": target.description,
                "base": target.base,
                "platform": target.platform,
                "location": {"ranges": [_range(target.span)]},
            }
            for target in targets
        ]
    }


def targets_text(targets: Sequence[Target]) -> str:
    """A table: the target, and what it is."""
    rows = [
        (target.name + (" (default)" if target.default else ""), target.description) for target in targets
    ]
    return _table(("TARGET", "DESCRIPTION"), rows)


def outline_json(outline: Outline) -> dict[str, Any]:
    """As BuildKit's outline request answers."""
    return {
        "name": outline.name,
        "description": outline.description,
        "args": [
            {
                "name": arg.name,
                "description": arg.description,
                "value": arg.value,
                "location": _ranges(arg.span),
            }
            for arg in outline.args
        ],
        **{
            key: [
                {"name": need.name, "required": need.required, "location": _ranges(need.span)}
                for need in needs
            ]
            for key, needs in (
                ("secrets", outline.secrets),
                ("ssh", outline.ssh),
                ("cache", outline.caches),
            )
        },
    }


def _ranges(span: Span) -> dict[str, Any]:
    return {"ranges": [_range(span)]}


def outline_text(outline: Outline) -> str:
    """The target, then a table for each kind of input that it takes."""
    parts = [f"TARGET: {escape(outline.name or '(last stage)')}"]
    if outline.description:
        parts.append(f"DESCRIPTION: {escape(outline.description)}")
    if outline.args:
        rows = [(arg.name, arg.value or "", arg.description) for arg in outline.args]
        parts += ["", _table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows)]
    for title, needs in (("SECRET", outline.secrets), ("SSH", outline.ssh), ("CACHE", outline.caches)):
        if needs:
            rows_ = [(need.name, "yes" if need.required else "no") for need in needs]
            parts += ["", _table((title, "REQUIRED"), rows_)]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, *(tuple(escape(cell).replace("\n", " ") for cell in row) for row in rows)]
    return columns(lines).removesuffix("\n")


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
