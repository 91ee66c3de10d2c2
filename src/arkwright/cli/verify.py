"""`arkwright verify|check-reproducible`: is an image what its provenance says, and would it be again?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from arkwright.cli import values
from arkwright.cli.build_options import PROGRESS, build_options
from arkwright.cli.images import open_store, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.cli.session import agents, secrets
from arkwright.diagnostics.errors import UsageError, UserError

if TYPE_CHECKING:
    from arkwright.build.session import SessionInputs
    from arkwright.registry.access import Access
    from arkwright.store.store import Store
    from arkwright.verify.claims import Subject
    from arkwright.verify.inputs import Given
    from arkwright.verify.report import Report
    from arkwright.verify.run import Verified

_USER = click.option(
    "--user", metavar="NAME", default="",
    help="Who builds when root verifies. [default: the first user with subordinate ids]",
)  # fmt: skip
_JSON = switch("--json", "as_json", help="Print the report as JSON.")


@click.command(
    "verify",
    cls=Arguments,
    short_help="Build an image again from its record, and compare.",
    help="Build an image again from exactly the inputs that its provenance records, in another directory, at another "
    "time, with another umask, locale, time zone, number of cores and, for root, another user, with a cold cache, "
    "and compare index, manifests, configs and layers by their digests. What differs is reported file by file, with "
    "the step that made it, the likely cause and what helps.\n\n"
    "IMAGE is a name or digest in the local store, or `docker://NAME`; BUILD an id of `arkwright history` (default: "
    "the last build). The record is that of the local history, else what is attached to the image; with --key, only "
    "what the key has signed; with --record, a file that `arkwright export-record` wrote.\n\n"
    "Exit status 0: identical. 3: it is not, an input is another one than recorded, or the record is not to be "
    "trusted; the error's code says which.",
    epilog="""\
\b
Examples:
  arkwright verify app:1
  arkwright verify --context src docker://registry.example/team/app:1
  arkwright verify --key release.pub --sign auditor.key docker://registry.example/team/app:1
  arkwright verify --record app.record --json | jq '.images[].layers[].files[].path'
""",
)
@click.argument("subject", metavar="[IMAGE|BUILD]", default="")
@click.option(
    "--record", "record_path", metavar="FILE", default="", help="Take record and inputs from this file."
)
@click.option(
    "--context",
    "context",
    metavar="DIR",
    default="",
    help="Where the build context is; what was read of it must have the recorded digest. [default: as the build was given it here]",
)
@click.option(
    "--build-context",
    "build_contexts",
    multiple=True,
    metavar="NAME=DIR",
    help="The same, for a named context. [repeatable]",
)
@click.option(
    "--build-arg",
    "build_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a build argument that is not recorded, because it may be secret. [repeatable]",
)
@click.option("--secret", multiple=True, metavar="SPEC", help="As of `arkwright build`. [repeatable]")
@click.option("--ssh", multiple=True, metavar="SPEC", help="As of `arkwright build`. [repeatable]")
@click.option(
    "--allow",
    multiple=True,
    metavar="ENTITLEMENT",
    help="Let the recorded build have it: network.host, security.insecure. [repeatable]",
)
@click.option(
    "--key",
    "key_paths",
    multiple=True,
    metavar="FILE",
    help="A public key that must have signed the provenance. [repeatable]",
)
@click.option(
    "--sign",
    "sign_path",
    metavar="KEY",
    default="",
    help="Sign a statement that the image was verified (SLSA verification summary), and keep it beside the image, as cosign does.",
)
@click.option(
    "-o",
    "--output",
    "output",
    metavar="FILE",
    default="",
    help="Write that statement to a file instead; without --sign, unsigned.",
)
@_USER
@click.option(
    "--progress", type=click.Choice(PROGRESS), default="auto", help="How the rebuild shows its progress."
)
@_JSON
@tls_option()
@root_option
@click.pass_obj
def verify(invocation: Invocation, /, subject: str, **options: Any) -> None:
    from arkwright.attest import keys
    from arkwright.build.upkeep import quota_kept
    from arkwright.registry.access import Access
    from arkwright.verify.inputs import Given
    from arkwright.verify.summary import refusal

    given = Given(
        contexts=_contexts(options),
        build_args=dict(values.pairs("--build-arg", options["build_args"])),
        allow=values.listed(options["allow"]),
        session=_session(options),
    )
    trusted = [keys.load_public(path) for path in options["key_paths"]]
    signer = None
    if options["sign_path"]:
        from arkwright.cli.evidence import private_key

        # Asked for now, not after an hour of building.
        signer = private_key(options["sign_path"])
    root_path = invocation.store_root(options["root_path"])
    with (
        quota_kept(root_path),
        open_store(invocation, options["root_path"]) as store,
        Access(tls_verify=options["tls_verify"]) as access,
    ):
        if options["record_path"]:
            found, about = _of_record(store, subject, given, trusted, options, access)
        else:
            found, about = _of_image(store, subject, given, trusted, options, access)
        _show(found.report, as_json=options["as_json"])
        if not found.report.identical or found.report.moved_inputs:
            raise refusal(found.report)
        if signer is not None or options["output"]:
            _state(store, found, about, signer, options["output"], access)


def _of_image(
    store: Store, text: str, given: Given, trusted: list[Any], options: dict[str, Any], access: Access
) -> tuple[Verified, Subject]:
    from arkwright.verify.claims import find_claim, find_subject
    from arkwright.verify.run import verify_image

    about = find_subject(store, text, access)
    claim = find_claim(store, about, trusted, access)
    return verify_image(store, about.digest, about.place, claim, given, _wishes(options), access), about


def _of_record(
    store: Store, text: str, given: Given, trusted: list[Any], options: dict[str, Any], access: Access
) -> tuple[Verified, Subject]:
    import msgspec

    from arkwright.verify.bundle import opened_bundle
    from arkwright.verify.claims import Subject, find_subject
    from arkwright.verify.run import verify_image

    with opened_bundle(store, options["record_path"], trusted) as bundle:
        given = msgspec.structs.replace(given, contexts={**bundle.contexts, **given.contexts})
        if text:
            about = find_subject(store, text, access)
        else:
            about = Subject(text=options["record_path"], digest=bundle.digest)
        found = verify_image(store, about.digest, about.place, bundle.claim, given, _wishes(options), access)
    return found, about


def _state(store: Store, found: Verified, about: Subject, signer: Any, output: str, access: Access) -> None:
    """Write or attach the statement that the image was verified."""
    from arkwright.attest import attach, cosign, dsse, statement
    from arkwright.verify.summary import PREDICATE, summary

    name = ""
    if about.place is not None and about.place.transport in ("docker", "store"):
        name = str(attach.repository(about.place)) if not _is_digest(about.text) else ""
    data = statement.encode(summary(found.digest, name, found.recorded))
    if signer is not None:
        data = dsse.sign(data, [signer])
    if output:
        from arkwright.images.destination import open_destination

        with open_destination(output) as sink:
            sink(data + b"\n")
        return
    if about.place is None:
        raise UserError.of(
            "no-repository", "a record and a build have no place where a statement could be kept",
            hint="write it to a file with -o FILE, or name the image",
        )  # fmt: skip
    place, _ = attach.locate(store, about.place, access)
    made = attach.attach(
        store, place, found.digest, "att", [cosign.attestation_layer(data, PREDICATE)], access
    )
    click.echo(f"{made.name} {found.digest}", err=True)


def _is_digest(text: str) -> bool:
    from arkwright.oci.digest import is_digest

    return is_digest(text)


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        from arkwright.verify.report import as_json as document

        print_json(document(report))
        return
    from arkwright.cli.reproduced import report_lines

    for line in report_lines(report):
        click.echo(line)


def _wishes(options: dict[str, Any]) -> Any:
    from arkwright.verify.run import Wishes

    progress = "none" if options["progress"] == "quiet" else options["progress"]
    return Wishes(user=options["user"], progress=progress)


def _session(options: dict[str, Any]) -> SessionInputs:
    from arkwright.build.session import SessionInputs

    return SessionInputs(
        secrets=secrets(options["secret"]), ssh=agents(options["ssh"]), tls_verify=options["tls_verify"]
    )


def _contexts(options: dict[str, Any]) -> dict[str, str]:
    found = {}
    if options["context"]:
        found["context"] = options["context"]
    for text in options["build_contexts"]:
        name, path = values.pair("--build-context", text)
        found[name.lower()] = path
    for name, path in found.items():
        if not os.path.isdir(path):
            raise UsageError.of("invalid-option-value", f"the context {name}: {path} is no directory")
    return found


@click.command(
    "check-reproducible",
    cls=Arguments,
    short_help="Build twice in different worlds, and say what differs.",
    epilog="""\
\b
Examples:
  arkwright check-reproducible .
  arkwright check-reproducible --json -f deploy/Dockerfile src
""",
)
@click.argument("context", metavar="[CONTEXT]", default=".")
@_USER
@_JSON
@build_options
@click.pass_obj
def check_reproducible(
    invocation: Invocation, /, context: str, user: str, as_json: bool, **options: Any
) -> None:
    """Build a Dockerfile twice, each time with a cold cache, and compare. The second time the directory, the umask,
    the locale, the time zone, the number of cores, the times of the files in contexts and, for root, the user are
    others. What differs is reported file by file, with the step that made it, the likely cause and what helps.

    The options are those of `arkwright build`; nothing is named, pushed or written out. Exit status 0: identical; 3:
    it is not, and the error's code says in what.
    """
    from arkwright.build.upkeep import quota_kept
    from arkwright.cli.build_request import build_request
    from arkwright.cli.pending import refuse_pending
    from arkwright.registry.access import Access
    from arkwright.verify.run import check_reproducible as check
    from arkwright.verify.summary import refusal

    refuse_pending(options)
    request = build_request(context, options)
    session = _session(options)
    root_path = invocation.store_root(options["root_path"])
    with (
        quota_kept(root_path),
        open_store(invocation, options["root_path"]) as store,
        Access(tls_verify=options["tls_verify"]) as access,
    ):
        report = check(store, request, session, _wishes({**options, "user": user}), access)
        _show(report, as_json=as_json)
    if not report.identical or report.moved_inputs:
        raise refusal(report)
