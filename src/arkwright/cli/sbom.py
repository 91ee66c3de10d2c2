"""`arkwright sbom`: what an image is made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from arkwright import __version__
from arkwright.cli import values
from arkwright.cli.columns import columns
from arkwright.cli.evidence import private_key
from arkwright.cli.images import PLACE_HELP
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import look_options, looking, shown_text
from arkwright.cli.parameters import Arguments, switch
from arkwright.diagnostics.errors import UserError
from arkwright.store.leases import Lease

if TYPE_CHECKING:
    from arkwright.attest.sbom.generator import Scan
    from arkwright.attest.sbom.model import Materials, Package
    from arkwright.cli.looking import Looking
    from arkwright.images.opened import OpenedImage

FORMATS = ("spdx-json", "cyclonedx-json", "table")
_TOOL = f"arkwright-{__version__}"


@click.command(
    "sbom",
    cls=Arguments,
    short_help="List the packages that an image is made of.",
    help="List the packages that an image is made of: those of dpkg, apk and rpm, of Python, Node, Ruby, PHP and Java, "
    "and what Go and Rust programs say of themselves. Nothing is unpacked and no other tool is run; the same "
    f"image gives the same document.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright sbom app:1
  arkwright sbom --per-layer app:1
  arkwright sbom --format spdx-json -o app.spdx.json docker://registry.example/team/app:1
  arkwright sbom --format cyclonedx-json --sign arkwright.key docker://registry.example/team/app:1
""",
)
@click.argument("image")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=None,
    help="SPDX 2.3, CycloneDX 1.6, or a table. [default: table; with --generator what it makes]",
)
@click.option(
    "-o", "--output", metavar="FILE", default="-", help="Where to write it. [default: standard output]"
)
@switch("--per-layer", help="Sort by the layer that brought a package, and name the layers.")
@switch("--no-files", help="Leave away which files are whose.")
@click.option(
    "--generator",
    metavar="IMAGE[,NAME=VALUE...]",
    default="",
    help="Have an image list the packages that follows BuildKit's protocol for such images.",
)
@click.option(
    "--network",
    type=click.Choice(("none", "default", "host")),
    default="none",
    help="The network of --generator. [default: none]",
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
    form: str | None,
    output: str,
    per_layer: bool,
    no_files: bool,
    generator: str,
    network: str,
    key_path: str,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    if key_path and (form == "table" or not (form or generator)):
        raise UserError.of("invalid-usage", "a table is not signed", hint="--format spdx-json")
    if generator and (form == "table" or per_layer or no_files):
        given = "--format table" if form == "table" else "--per-layer" if per_layer else "--no-files"
        raise UserError.of("invalid-usage", f"{given}: --generator makes documents of its own")
    with ExitStack() as stack:
        with looking(invocation, root_path, tls_verify, image) as look:
            found = look.image(image, platform)
            if generator:
                # What was looked up must outlive the moments in which no store is open.
                stack.enter_context(Lease(os.path.join(look.store.root_path, "lock"))).share()
            else:
                materials = _materials(look, found, form or "table", no_files)
                if form in (None, "table"):
                    _write(output, _layer_tables(materials, found.config) if per_layer else _table(materials))
                    return
                documents = [_document(str(form), materials, _name(image, found), found, per_layer=per_layer)]
        if generator:
            documents = _scans(invocation, generator, network, found, form, root_path, tls_verify)
        if not key_path:
            _print(output, documents)
            return
        with looking(invocation, root_path, tls_verify, image) as look:
            _sign(look, image, found, documents, key_path)


def _materials(look: Looking, found: OpenedImage, form: str, no_files: bool) -> Materials:
    from arkwright.attest.sbom.collect import collect
    from arkwright.attest.sbom.model import without_files

    # Only SPDX has files with digests.
    materials = collect(look.store, found.manifest.layers, files=form == "spdx-json" and not no_files)
    return without_files(materials) if no_files else materials


def _scans(
    invocation: Invocation, generator: str, network: str, found: OpenedImage, form: str | None,
    root_path: str | None, tls_verify: bool | None,
) -> list[Scan]:  # fmt: skip
    """What a generator image makes; only of one format when that is asked for."""
    from arkwright.build.request import BuildRequest
    from arkwright.build.scanning import scan
    from arkwright.build.session import SessionInputs
    from arkwright.cli.containers import with_stream
    from arkwright.oci.platform import Platform

    tool, *fields = values.csv_fields("--generator", generator)
    parameters = dict(values.pairs("--generator", tuple(fields)))
    config = found.config
    platform = Platform(
        *(str(config.get(key) or "") for key in ("os", "architecture", "variant"))
    )  # fmt: skip
    store_root = invocation.store_root(root_path)
    scans = with_stream(
        invocation, store_root, "quiet",
        lambda stream: scan(
            store_root, tool, found.chosen.digest, platform, BuildRequest(context=f"sbom {found.chosen.digest}"),
            SessionInputs(tls_verify=tls_verify), stream, parameters=parameters, network=network,
        ),
    )  # fmt: skip
    wanted = [one for one in scans if form is None or _predicate(form) == one.predicate_type]
    if not wanted:
        raise UserError.of(
            "invalid-generator-output",
            f"{tool} wrote no {form}",
            hint="leave --format away for what it makes",
        )
    return wanted


def _print(output: str, documents: Sequence[Scan]) -> None:
    import msgspec

    _write(output, msgspec.json.encode(documents[0].predicate, order="sorted") + b"\n")
    for other in documents[1:]:
        click.echo(f"not printed: {other.name}; --sign keeps it too", err=True)


def _name(image: str, found: OpenedImage) -> str:
    """What documents call the image; places of this machine are nobody's business."""
    return image if found.place.transport in ("store", "docker") else ""


def _sign(look: Looking, image: str, found: OpenedImage, documents: Sequence[Scan], key_path: str) -> None:
    """Keep each as a signed attestation beside the image."""
    from arkwright.attest import attach, cosign, dsse, statement

    digest = found.chosen.digest
    subject = statement.ResourceDescriptor(name=_name(image, found), digest=statement.digest_set(digest))
    signer = private_key(key_path)
    layers = []
    for one in documents:
        claim = statement.Statement(
            subject=(subject,), predicate_type=one.predicate_type, predicate=one.predicate
        )
        layers.append(
            cosign.attestation_layer(dsse.sign(statement.encode(claim), [signer]), one.predicate_type)
        )
    made = attach.attach(look.store, found.place, digest, "att", layers, look.access(image))
    click.echo(f"{made.name} {digest}")


def _document(form: str, materials: Materials, name: str, found: OpenedImage, *, per_layer: bool) -> Scan:
    import msgspec

    from arkwright.attest.sbom import cyclonedx, spdx
    from arkwright.attest.sbom.generator import Scan

    encode = spdx.encode if form == "spdx-json" else cyclonedx.encode
    created = str(found.config.get("created") or "") or "2000-01-01T00:00:00Z"
    data = encode(
        materials,
        name=name,
        digest=found.chosen.digest,
        created=_seconds(created),
        tool=_TOOL,
        per_layer=per_layer,
    )
    return Scan(name=form, predicate_type=_predicate(form), predicate=msgspec.json.decode(data))


def _predicate(form: str) -> str:
    from arkwright.attest.sbom import cyclonedx, spdx

    return spdx.PREDICATE if form == "spdx-json" else cyclonedx.PREDICATE


def _seconds(created: str) -> str:
    """SPDX takes no fractions of seconds (2.3, clause 6.9)."""
    head, dot, _ = created.partition(".")
    return f"{head}Z" if dot else created


def _table(materials: Materials) -> bytes:
    rows: list[tuple[str, ...]] = [("NAME", "VERSION", "TYPE", "LICENCE", "LAYER")]
    rows += [(*_row(one), str(one.layer + 1)) for one in materials.packages]
    return _lines([*_columns(rows), *(f"not read: {one}" for one in materials.unread)])


def _layer_tables(materials: Materials, config: dict[str, Any]) -> bytes:
    """The layers, lowest first, each with what made it and the packages that it brought."""
    from arkwright.images.steps import step_of_layer

    made = step_of_layer(config, len(materials.layers))
    by_layer: dict[int, list[Package]] = {}
    for one in materials.packages:
        by_layer.setdefault(one.layer, []).append(one)
    lines = []
    for number, digest in enumerate(materials.layers):
        lines.append(f"layer {number + 1}  {digest}  {' '.join(made[number].split())}".rstrip())
        lines += [f"  {line}" for line in _columns([_row(one) for one in by_layer.get(number, ())])]
    return _lines([*lines, *(f"not read: {one}" for one in materials.unread)])


def _row(one: Package) -> tuple[str, ...]:
    name = "/".join(part for part in (one.group, one.name) if part)
    return name, one.version, one.kind, " AND ".join(one.licences)[:40] or "-"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return columns([tuple(map(shown_text, row)) for row in rows]).splitlines()


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{shown_text(line)}\n" for line in lines).encode(errors="replace")


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
