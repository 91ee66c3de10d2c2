"""`--output`, `--push` and `--load`, in buildx' spelling."""

from __future__ import annotations

from arkwright.cli.values import attributes, invalid
from arkwright.diagnostics.errors import UsageError
from arkwright.diagnostics.suggest import nearest
from arkwright.exporters.base import Output

_TYPES = ("image", "registry", "oci", "docker", "local", "tar")
_COMPRESSIONS = {"gzip": "gzip", "zstd": "zstd", "none": "none", "uncompressed": "none"}
_NEED_DEST = ("local", "tar", "oci")


def outputs(texts: tuple[str, ...], *, push: bool, load: bool) -> tuple[Output, ...]:
    """What `-o`, `--push` and `--load` ask for; without any of them the local store alone.

    `--push` is `type=registry`, `--load` is `type=docker` without a destination.
    Raises `UsageError` `invalid-option-value`, `unknown-output-type`, `conflicting-options`.
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


def _pushed(item: Output) -> Output:
    return Output(type="registry", attrs={key: value for key, value in item.attrs.items() if key != "push"})


def output(text: str) -> Output:
    """One `--output`: `type=…,dest=…,…`, a directory path (`type=local`), or `-` (`type=tar`)."""
    if not text:
        invalid("--output", '""', "empty", "write type=TYPE,dest=PATH, or a directory")
    if text == "-":
        return Output(type="tar", dest="-")
    if "=" not in text.partition(",")[0]:
        return Output(type="local", dest=text)
    attrs = attributes("--output", text)
    kind = attrs.pop("type", "")
    if kind not in _TYPES:
        near = nearest(kind, _TYPES)
        raise UsageError.of(
            "unknown-output-type",
            f"--output {text}: " + (f"unknown type {kind!r}" if kind else "no type is given"),
            hint=f"did you mean type={near}?" if near else "known are " + ", ".join(_TYPES),
        )
    dest = attrs.pop("dest", "")
    if kind in _NEED_DEST and not dest:
        invalid(
            "--output", text, f"type={kind} needs dest=PATH", "`dest=-` is standard output, but not for local"
        )
    if kind == "local" and dest == "-":
        invalid("--output", text, "a directory cannot go to standard output", "use type=tar,dest=-")
    if kind == "image" and attrs.pop("push", "false").lower() in ("true", "1"):
        kind = "registry"
    return Output(type=kind, dest=dest, attrs=attrs)


def compression(found: tuple[Output, ...]) -> str:
    """The one codec that the outputs' `compression` attributes ask for; gzip when none does.

    Raises `UsageError`, also when two outputs ask for different codecs.
    """
    asked = {item.attrs["compression"] for item in found if "compression" in item.attrs}
    if len(asked) > 1:
        raise UsageError.of(
            "conflicting-options",
            f"outputs of one build share a compression, not {' and '.join(sorted(asked))}",
        )
    for name in asked:
        if name not in _COMPRESSIONS:
            invalid("--output", f"compression={name}", "unknown", "known are " + ", ".join(_COMPRESSIONS))
        return _COMPRESSIONS[name]
    return "gzip"
