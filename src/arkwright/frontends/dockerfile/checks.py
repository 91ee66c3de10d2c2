"""The `check` directive: which build checks a file wants, and whether they fail it."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import Diagnostic
from arkwright.frontends.dockerfile import values
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.syntax import Dockerfile
from arkwright.frontends.dockerfile.tokens import problem


class CheckOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`skip` and `experimental` are rule names; the `all` flags stand for every rule."""

    skip: tuple[str, ...] = ()
    skip_all: bool = False
    experimental: tuple[str, ...] = ()
    experimental_all: bool = False
    error: bool = False


def parse_check_directive(file: Dockerfile) -> tuple[CheckOptions, list[Diagnostic]]:
    """The options of `# check=skip=A,B;error=true;experimental=…`, and what is wrong with them."""
    options = CheckOptions()
    problems: list[Diagnostic] = []
    for directive in file.directives:
        if directive.name != "check":
            continue
        offset = 0
        for part in directive.value.text.split(";"):
            place = directive.value.part(offset, offset + len(part))
            offset += len(part) + 1
            key, _, value = part.strip().partition("=")
            try:
                options = _with(options, key.strip(), value.strip())
            except ValueError as error:
                hint = did_you_mean(key, ("skip", "error", "experimental"))
                problems.append(problem("invalid-check-directive", str(error), place, hint=hint))
    return options, problems


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
