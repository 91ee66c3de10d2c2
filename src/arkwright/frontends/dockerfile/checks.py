"""The `check` directive: which build checks a file wants, and whether they fail it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from arkwright.diagnostics.errors import Diagnostic
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.frontends.dockerfile import values
from arkwright.frontends.dockerfile.rules import BY_NAME, Rule
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Dockerfile
from arkwright.frontends.dockerfile.tokens import Token, problem, warning

BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"


class CheckOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`skip` and `experimental` are rule names; the `all` flags stand for every rule."""

    skip: tuple[str, ...] = ()
    skip_all: bool = False
    experimental: tuple[str, ...] = ()
    experimental_all: bool = False
    error: bool = False

    def skips(self, rule: Rule) -> bool:
        """Whether `skip` names the check, or all."""
        return self.skip_all or rule.name.lower() in map(str.lower, self.skip)

    def wants(self, rule: Rule) -> bool:
        """Whether a check runs: `skip=all` leaves those that `experimental` names, a name in
        `skip` always counts."""
        if rule.name.lower() in map(str.lower, self.skip):
            return False
        if rule.experimental:
            return self.experimental_all or rule.name.lower() in map(str.lower, self.experimental)
        return not self.skip_all


def check_options(
    file: Dockerfile, build_args: Mapping[str, str]
) -> tuple[CheckOptions, list[Diagnostic], list[Diagnostic]]:
    """The options for a file, what is wrong with them, and warnings about names of no check: the
    build argument BUILDKIT_DOCKERFILE_CHECK if there is one, else the directive."""
    given = build_args.get(BUILD_ARG, "")
    if given:
        return parse_check(Token(given, Span(SourceFile(BUILD_ARG, given), 0, len(given))))
    for directive in file.directives:
        if directive.name == "check":
            return parse_check(directive.value)
    return CheckOptions(), [], []


def parse_check_directive(file: Dockerfile) -> tuple[CheckOptions, list[Diagnostic]]:
    """The options of `# check=skip=A,B;error=true;experimental=…`, and what is wrong with them."""
    options, problems, _ = check_options(file, {})
    return options, problems


def parse_check(text: Token) -> tuple[CheckOptions, list[Diagnostic], list[Diagnostic]]:
    """Read `skip=A,B;error=true;experimental=…`: options, problems, warnings."""
    options = CheckOptions()
    problems: list[Diagnostic] = []
    warnings: list[Diagnostic] = []
    offset = 0
    for part in text.text.split(";"):
        place = text.part(offset, offset + len(part))
        key, _, value = part.strip().partition("=")
        try:
            options = _with(options, key.strip(), value.strip())
        except ValueError as error:
            hint = did_you_mean(key, ("skip", "error", "experimental"))
            problems.append(problem("invalid-check-directive", str(error), place, hint=hint))
        else:
            if key.strip() != "error":
                warnings += _unknown(text, offset + part.find("=") + 1, offset + len(part))
        offset += len(part) + 1
    return options, problems, warnings


def _unknown(text: Token, start: int, end: int) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for name in text.text[start:end].split(","):
        bare = name.strip()
        if bare and bare.lower() != "all" and bare.lower() not in BY_NAME:
            begin = start + name.index(bare)
            hint = did_you_mean(bare, [rule.name for rule in BY_NAME.values()])
            place = text.part(begin, begin + len(bare))
            found.append(warning("unknown-check", f"there is no build check {bare}", place, hint=hint))
        start += len(name) + 1
    return found


def _with(options: CheckOptions, key: str, value: str) -> CheckOptions:
    if key == "error":
        try:
            return msgspec.structs.replace(options, error=values.parse_bool(value))
        except ValueError as error:
            raise ValueError(f"error of the check directive is {value!r}: {error}") from error
    if key not in ("skip", "experimental"):
        raise ValueError(f"the check directive has no option {key!r}")
    rules = tuple(rule.strip() for rule in value.split(",") if rule.strip())
    every = any(rule.lower() == "all" for rule in rules)
    return msgspec.structs.replace(options, **{key: () if every else rules, f"{key}_all": every})
