"""`arkwright sbom`: what an image is made of."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from arkwright import __version__
from arkwright.cli.evidence import private_key
from arkwright.cli.images import PLACE_HELP
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import look_options, looking
from arkwright.cli.parameters import Arguments
from arkwright.diagnostics.errors import UserError

if TYPE_CHECKING:
    from arkwright.attest.sbom.model import Materials

FORMATS = ("spdx-json", "cyclonedx-json", "table")
_TOOL = f"arkwright-{__version__}"


@click.command(
    "sbom",
    cls=Arguments,
    short_help="List the packages that an image is made of.",
    help="List the packages that an image is made of: those of Debian and Alpine, of Python, Node, Ruby, PHP and Java, "
    "and what Go and Rust programs say of themselves. Nothing is unpacked and no other tool is run; the same "
    f"image gives the same document.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright sbom app:1
  arkwright sbom --format spdx-json -o app.spdx.json docker://registry.example/team/app:1
  arkwright sbom --format cyclonedx-json --sign arkwright.key docker://registry.example/team/app:1
""",
)
@click.argument("image")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    help="SPDX 2.3, CycloneDX 1.6, or a table.",
)
@click.option(
    "-o", "--output", metavar="FILE", default="-", help="Where to write it. [default: standard output]"
)
@click.option(
    "--sign",
    "key_path",
    metavar="KEY",
    default="",
    help="Sign it as an attestation, kept beside the image as cosign does, instead of printing it.",
)
@look_options
@click.pass_obj
def sbom(
    invocation: Invocation,
    /,
    image: str,
    form: str,
    output: str,
    key_path: str,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    if key_path and form == "table":
        raise UserError.of("invalid-usage", "a table is not signed", hint="--format spdx-json")
    from arkwright.attest.sbom.collect import collect

    with looking(invocation, root_path, tls_verify, image) as look:
        found = look.image(image, platform)
        materials = collect(look.store, found.manifest.layers)
        if form == "table":
            _write(output, _table(materials))
            return
        name = image if found.place.transport in ("store", "docker") else ""
        created = str(found.config.get("created") or "") or "2000-01-01T00:00:00Z"
        data, predicate = _document(form, materials, name, found.chosen.digest, _seconds(created))
        if not key_path:
            _write(output, data + b"\n")
            return
        from arkwright.attest import attach, cosign, dsse, statement

        claim = statement.Statement(
            subject=(
                statement.ResourceDescriptor(name=name, digest=statement.digest_set(found.chosen.digest)),
            ),
            predicate_type=predicate,
            predicate=_decoded(data),
        )
        layer = cosign.attestation_layer(
            dsse.sign(statement.encode(claim), [private_key(key_path)]), predicate
        )
        access = look.access(image)
        made = attach.attach(look.store, found.place, found.chosen.digest, "att", [layer], access)
        click.echo(f"{made.name} {found.chosen.digest}")


def _document(form: str, materials: Materials, name: str, digest: str, created: str) -> tuple[bytes, str]:
    from arkwright.attest.sbom import cyclonedx, spdx

    module: Any = spdx if form == "spdx-json" else cyclonedx
    data: bytes = module.encode(materials, name=name, digest=digest, created=created, tool=_TOOL)
    return data, str(module.PREDICATE)


def _decoded(data: bytes) -> Any:
    import msgspec

    return msgspec.json.decode(data)


def _seconds(created: str) -> str:
    """SPDX takes no fractions of seconds (2.3, clause 6.9)."""
    head, dot, _ = created.partition(".")
    return f"{head}Z" if dot else created


def _table(materials: Materials) -> bytes:
    rows = [("NAME", "VERSION", "TYPE", "LICENCE", "LAYER")]
    for one in materials.packages:
        name = f"{one.namespace}/{one.name}" if one.namespace and one.kind not in ("deb", "apk") else one.name
        licence = " AND ".join(one.licences)
        rows.append((name, one.version, one.kind, licence[:40] or "-", str(one.layer + 1)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"not read: {one}" for one in materials.unread]
    return ("\n".join(lines) + "\n").encode(errors="replace")


def _write(output: str, data: bytes) -> None:
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    partial_path = f"{output}.{os.getpid()}.partial"
    try:
        with open(partial_path, "wb") as file:
            file.write(data)
        os.replace(partial_path, output)
    except OSError as error:
        raise UserError.of("unwritable-file", f"cannot write {output}: {error.strerror}") from error
