"""Several `--target` in one build: which names and outputs belong to which.

With one target or none, `-t` and `-o` are meant for it. With several, `-t TARGET=NAME` and
`-o …,target=TARGET` say for which; an output that has no place of its own (the local store, a push by
name, docker) is for all. What could be meant for two is an error.
"""

from __future__ import annotations

from arkwright.build.request import BuildTarget
from arkwright.cli import values
from arkwright.cli.outputs import outputs
from arkwright.diagnostics.errors import UsageError
from arkwright.exporters.base import Output
from arkwright.oci.reference import parse_reference


def targets(
    wanted: tuple[str, ...], tags: tuple[str, ...], specs: tuple[str, ...], *, push: bool, load: bool
) -> tuple[BuildTarget, ...]:
    """The targets with their names and outputs, each once, in the order of the command line; one
    without a name for the last stage when none is given.

    Raises `UsageError` `ambiguous-target`, `conflicting-options`, `invalid-option-value` and what
    `outputs` raises.
    """
    chosen = tuple(dict.fromkeys(wanted)) or ("",)
    names: dict[str, list[str]] = {target: [] for target in chosen}
    texts: dict[str, list[str]] = {target: [] for target in chosen}
    for tag in tags:
        owner, name = _owner("--tag", tag, tag.partition("=")[0] if "=" in tag else "", chosen)
        if owner is None:
            raise _ambiguous(f"--tag {tag}", chosen, f"write -t {chosen[0]}={tag}")
        names[owner].append(_name(tag[len(name) :]))
    for spec in specs:
        said, text = _without_target(spec)
        owner, _ = _owner("--output", spec, said, chosen)
        for target in chosen if owner is None else (owner,):
            texts[target].append(text)
        if owner is None:
            _refuse_one_place(spec, outputs((text,), push=False, load=False)[0], chosen)
    return tuple(
        _target(target, tuple(dict.fromkeys(names[target])), tuple(texts[target]), push, load)
        for target in chosen
    )


def refuse_several(option: str, wanted: tuple[str, ...], hint: str) -> None:
    """Raise `UsageError` `ambiguous-target` for what is made for one target, when there are more."""
    chosen = tuple(dict.fromkeys(wanted))
    if len(chosen) > 1:
        raise _ambiguous(option, chosen, hint)


def _target(
    target: str, names: tuple[str, ...], texts: tuple[str, ...], push: bool, load: bool
) -> BuildTarget:
    found = outputs(texts, push=push, load=load)
    if any(item.type == "registry" and "name" not in item.attrs for item in found) and not names:
        of = f" for the target {target}" if target else ""
        raise UsageError.of("conflicting-options", f"a push needs a name{of}", hint="add -t REGISTRY/NAME")
    return BuildTarget(target=target, names=names, outputs=found)


def _owner(option: str, text: str, said: str, chosen: tuple[str, ...]) -> tuple[str | None, str]:
    """The target that a value is for, and what of the text says so; None when it is for all."""
    if said:
        if said not in chosen:
            hint = f"the targets are {', '.join(chosen)}" if chosen != ("",) else f"add --target {said}"
            values.invalid(option, text, f"{said} is not among the targets", hint)
        return said, f"{said}="
    return (chosen[0], "") if len(chosen) == 1 else (None, "")


def _without_target(spec: str) -> tuple[str, str]:
    """The `target` of an `--output`, and the rest of its text."""
    if "target=" not in spec:
        return "", spec
    said, kept = "", []
    for field in values.csv_fields("--output", spec):
        if field.startswith("target="):
            said = field.removeprefix("target=")
        else:
            kept.append('"' + field.replace('"', '""') + '"' if set(field) & {",", '"'} else field)
    if len(kept) == 1 and "=" not in kept[0]:
        kept = ["type=tar", "dest=-"] if kept[0] == "-" else ["type=local", f"dest={kept[0]}"]
    return said, ",".join(kept)


def _refuse_one_place(spec: str, output: Output, chosen: tuple[str, ...]) -> None:
    if output.dest or output.attrs.get("name"):
        raise _ambiguous(f"--output {spec}", chosen, f"add target={chosen[0]} to it")


def _ambiguous(what: str, chosen: tuple[str, ...], hint: str) -> UsageError:
    error = UsageError.of(
        "ambiguous-target", f"{what} can be for one target only, and there are {', '.join(chosen)}", hint=hint
    )
    assert isinstance(error, UsageError)
    return error


def _name(text: str) -> str:
    reference = parse_reference(text)
    if reference.digest:
        values.invalid("--tag", text, "a name for a new image cannot have a digest")
    return str(reference)
