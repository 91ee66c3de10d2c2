"""What checks find, on its way to the user: filtered by the file's wishes, each once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.frontends.dockerfile.checks import CheckOptions, check_options, parse_check
from arkwright.frontends.dockerfile.rules import BY_CODE, Rule
from arkwright.frontends.dockerfile.syntax import Dockerfile
from arkwright.frontends.dockerfile.tokens import Token, warning

_COMMENT = "check="


class Findings:
    """Passes each warning on once (platforms repeat them), and those of checks only if wanted.

    At most `limit` findings of checks are passed on; all count.
    """

    def __init__(self, warn: Callable[[Diagnostic], None], limit: int) -> None:
        self._warn = warn
        self._limit = limit
        self._seen: set[tuple[str, str, int]] = set()
        self._found: dict[str, int] = {}
        self._options = CheckOptions()
        self._file: Dockerfile | None = None
        self._starts: list[int] = []
        self._skips: list[CheckOptions | None] = []

    def configure(self, file: Dockerfile, build_args: dict[str, str]) -> list[Diagnostic]:
        """Take the wishes of a file and of the user; gives what is wrong with them."""
        self._file = file
        self._options, problems, warnings = check_options(file, build_args)
        for found in warnings:
            self.add(found)
        for instruction in file.instructions:
            comments = [item for item in instruction.comments if item.text.lower().startswith(_COMMENT)]
            self._starts.append(instruction.span.start)
            self._skips.append(self._comment(comments[-1]) if comments else None)
        return problems

    def _comment(self, comment: Token) -> CheckOptions | None:
        """The options of `# check=skip=…` above an instruction."""
        start = len(_COMMENT)
        text = Token(comment.text[start:], comment.part(start, len(comment.text)))
        options, problems, warnings = parse_check(text)
        if problems or options.error or options.experimental or options.experimental_all:
            message = "a check comment above an instruction can only skip checks: it is ignored"
            hint = "write `# check=skip=NAME`, or move it to the top of the file"
            self.add(warning("invalid-check-comment", message, comment.span, hint=hint))
            return None
        for found in warnings:
            self.add(found)
        return options

    def add(self, diagnostic: Diagnostic) -> None:
        """Pass a warning on, unless it is a check's and not wanted."""
        place = diagnostic.labels[0].span.start if diagnostic.labels else -1
        key = (diagnostic.code, diagnostic.message, place)
        if key in self._seen:
            return
        self._seen.add(key)
        rule = BY_CODE.get(diagnostic.code)
        if rule is None:
            self._warn(diagnostic)
        elif self._options.wants(rule) and not self._skipped(rule, diagnostic):
            self._found[rule.name] = self._found.get(rule.name, 0) + 1
            if self.count <= self._limit:
                self._warn(diagnostic)

    def _skipped(self, rule: Rule, diagnostic: Diagnostic) -> bool:
        if self._file is None or not diagnostic.labels:
            return False
        span = diagnostic.labels[0].span
        place = bisect_right(self._starts, span.start) - 1
        options = self._skips[place] if place >= 0 and span.file is self._file.file else None
        return options is not None and options.skips(rule)

    @property
    def count(self) -> int:
        return sum(self._found.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The checks that found something."""
        return tuple(self._found)

    @property
    def fatal(self) -> bool:
        """Whether the file wants findings to be errors, and there are some."""
        return self._options.error and bool(self._found)

    def close(self) -> None:
        """Tell of findings beyond the limit. Raises `UserError` `checks-failed` if they are fatal."""
        beyond = self.count - self._limit
        if beyond > 0:
            message = f"{beyond} more findings of build checks are not shown"
            self._warn(warning("more-findings", message, hint="arkwright build --check shows all"))
        if self.fatal:
            raise checks_failed(self.names)


def checks_failed(names: tuple[str, ...]) -> ArkwrightError:
    """The error of a file that wants findings to be errors."""
    return UserError.of(
        "checks-failed",
        f"the Dockerfile asks that build checks find nothing (error=true); violated: {', '.join(names)}",
        hint="correct what the warnings show, or skip these checks in the check directive",
    )
