"""`arkwright layers|validate`: what an image is made of, and whether it is sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arkwright.cli.columns import columns
from arkwright.cli.images import PLACE_HELP, exclusive, print_json, wanted
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import json_options, look_options, looking, plain_text, shown_text, trouble
from arkwright.cli.parameters import Arguments, switch

if TYPE_CHECKING:
    from arkwright.images.efficiency import Efficiency
    from arkwright.images.validate import Validation

_STEP_CELLS = 60


@click.command(
    "layers",
    cls=Arguments,
    short_help="Show an image's layers, and what is wasted in them.",
    help="Show an image's layers: digest, size as stored, number and bytes of files, and the step that made each. "
    "With --efficiency also what no container sees, because a later layer removed it or put something "
    f"else in its place.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright layers app
  arkwright layers --efficiency docker://registry.example/app
  arkwright layers --json app | jq .score
""",
)
@click.argument("image")
@switch("--efficiency", help="Wasted bytes, the paths that waste most, and the score.")
@click.option(
    "--paths", "worst", type=click.IntRange(min=0), default=20, show_default=True,
    help="How many of the paths that waste most.",
)  # fmt: skip
@json_options
@look_options
@click.pass_obj
def layers(
    invocation: Invocation,
    /,
    image: str,
    efficiency: bool,
    worst: int,
    as_json: bool,
    form: str | None,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.efficiency import measure

    with looking(invocation, root_path, tls_verify, image) as look:
        found = measure(look.store, look.image(image, platform), worst=worst)
    if as_json or form:
        _print_measured(found, form)
    else:
        _print_layers(found, wasted=efficiency)
        if efficiency:
            _print_waste(found)


def _print_measured(found: Efficiency, form: str | None) -> None:
    import msgspec

    document = msgspec.to_builtins(found, str_keys=True)
    for path in document["worst"]:
        path["path"] = plain_text(path["path"])
    print_json(document, form)


def _print_layers(found: Efficiency, *, wasted: bool) -> None:
    from arkwright.diagnostics.amounts import bytes_text

    heads = ["DIGEST", "SIZE", "FILES", "CONTENT", *(["WASTED"] if wasted else []), "STEP"]
    rows = [heads]
    for layer in found.layers:
        step = shown_text(" ".join(layer.created_by.split()))
        rows.append(
            [
                layer.digest[:19],
                bytes_text(layer.size),
                str(layer.files),
                bytes_text(layer.content),
                *([bytes_text(layer.wasted)] if wasted else []),
                step if len(step) <= _STEP_CELLS else step[: _STEP_CELLS - 1] + "…",
            ]
        )
    click.echo(columns(rows, right=range(1, len(heads) - 1)), nl=False)


def _print_waste(found: Efficiency) -> None:
    from arkwright.diagnostics.amounts import bytes_text

    click.echo(
        f"\n{found.score:.1%} of {bytes_text(found.content)} in files is seen by a container; "
        f"{bytes_text(found.wasted)} in {found.wasted_paths} paths is wasted."
    )
    if not found.worst:
        return
    click.echo("\nWASTED   COPIES  HIDDEN BY          PATH")
    for path in found.worst:
        how = f"layer {path.hidden_by}, {'removed' if path.removed else 'replaced'}"
        click.echo(f"{bytes_text(path.bytes):<7}  {path.copies:>6}  {how:<17}  {shown_text(path.path)}")


@click.command(
    "validate",
    cls=Arguments,
    short_help="Check an image against the specification.",
    help="Check an image: its documents against the OCI specification, digests and sizes of all blobs, the diffIDs "
    "of the layers, the history, and what the layers hold (paths that lead outside, second entries for a "
    "path, deletions of nothing, links to nothing). All findings are listed.\n\nExit status: 0 nothing was found, "
    f"1 something was, 2 and more there was trouble.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright validate app
  arkwright validate --all-platforms docker://registry.example/app
  arkwright validate --json oci:build/layout | jq '.findings[].kind'
""",
)
@click.argument("image")
@switch("--all-platforms", help="Every platform of an index.")
@json_options
@look_options
@click.pass_context
def validate(
    ctx: click.Context,
    /,
    image: str,
    all_platforms: bool,
    as_json: bool,
    form: str | None,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.validate import validate_place

    if platform and all_platforms:
        raise exclusive("--platform", "--all-platforms")
    invocation: Invocation = ctx.obj
    with trouble(), looking(invocation, root_path, tls_verify, image) as look:
        found = validate_place(
            look.store,
            look.place(image),
            wanted(platform),
            all_platforms=all_platforms,
            access=look.access(image),
        )
    if as_json or form:
        _print_findings(found, form)
    else:
        _print_validation(image, found)
    ctx.exit(0 if found.is_valid else 1)


def _print_findings(found: Validation, form: str | None) -> None:
    import msgspec

    document = msgspec.to_builtins(found)
    for finding in document["findings"]:
        finding["where"], finding["message"] = plain_text(finding["where"]), plain_text(finding["message"])
    print_json({"valid": found.is_valid, **document}, form)


def _print_validation(image: str, found: Validation) -> None:
    for finding in found.findings:
        where = f" {shown_text(finding.where)}" if finding.where else ""
        click.echo(f"{finding.kind}: {finding.digest[:19]}{where}: {shown_text(finding.message)}")
    if found.more:
        click.echo(f"{found.more} more findings are not shown")
    count = len(found.findings) + found.more
    said = f"{count} finding{'s' if count != 1 else ''}" if count else "valid"
    looked = f"{found.documents} documents, {found.layers} layers, {found.entries} entries"
    click.echo(f"{shown_text(image)} {found.digest}: {said} ({looked})")
