"""`--output`, `--push` and `--load` together: which outputs a build has."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import UsageError, UserError
from arkwright.exporters.base import Output
from arkwright.exporters.outputs import flag, parse_output


def outputs(texts: tuple[str, ...], *, push: bool, load: bool) -> tuple[Output, ...]:
    """What `-o`, `--push` and `--load` ask for; without any of them the local store alone.

    `--push` is `type=registry`, `--load` is `type=docker` without a destination. Raises `UsageError`
    with the codes of `exporters.outputs.parse_output`, and `conflicting-options`.
    """
    found = [output(text) for text in texts]
    if push:
        found = [_pushed(item) if item.type == "image" else item for item in found]
        if not any(item.type == "registry" for item in found):
            found.append(Output(type="registry"))
    if load and not any(item.type == "docker" and not item.dest for item in found):
        found.append(Output(type="docker"))
    if sum(item.dest == "-" for item in found) > 1:
        raise UsageError.of("conflicting-options", "only one output can go to standard output")
    return tuple(found) or (Output(type="image"),)


def output(text: str) -> Output:
    """One `--output`; an image that is pushed is a registry's. A mistake is the command line's."""
    try:
        found = parse_output(text)
        return _pushed(found) if found.type == "image" and flag(found, "push", False) else found
    except UserError as error:
        raise UsageError(*error.diagnostics) from error


def _pushed(item: Output) -> Output:
    kept = {key: value for key, value in item.attrs.items() if key != "push"}
    return msgspec.structs.replace(item, type="registry", attrs=kept)
