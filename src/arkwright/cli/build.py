"""`arkwright build`: argv to a request, a run with journal and progress, and what is left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from arkwright.build.request import BuildRequest, Receipt, TargetReceipt
from arkwright.build.session import SessionInputs
from arkwright.cli.build_options import build_options
from arkwright.cli.build_request import build_request
from arkwright.cli.calls import parse_call
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, require_terminal
from arkwright.cli.pending import pending_help, refuse_pending, without_effect
from arkwright.cli.session import agents, secrets
from arkwright.cli.targets import refuse_several
from arkwright.diagnostics.errors import Diagnostic

_PROVENANCE = "buildx.build.provenance"
_EPILOG = f"""\
{pending_help()}

\b
Examples:
  arkwright build .                                  # build ./Dockerfile into the local store
  arkwright build -t app:1 -f deploy/Dockerfile src  # name the image
  arkwright build --target test --progress plain .   # up to a stage, with full logs
  arkwright build -o out .                           # the files of the result, in a directory
  arkwright build -o type=oci,dest=app.tar .         # an OCI archive
  arkwright build -t registry.example/app --push .   # straight to a registry
  arkwright build --build-arg VERSION --secret id=token,env=TOKEN .
  arkwright build --check .                          # what is wrong with the Dockerfile
  arkwright build --build-context debian:bookworm=oci-layout:///srv/bases:bookworm .

The same input gives the same image, whoever builds it and when: file times, order and owners in
layers are normalised (see --source-date-epoch and --scrub).
"""


@click.command("build", cls=Arguments, epilog=_EPILOG, short_help="Build an image from a Dockerfile.")
@click.argument("context", metavar="[CONTEXT]", default=".")
@build_options
@click.pass_obj
def build(invocation: Invocation, /, context: str, **options: Any) -> None:
    """Build an image from a Dockerfile.

    CONTEXT holds the files that COPY and ADD take: a directory (default: this one), a tarball, a
    tarball's or a git URL, or `-` for a tar archive on standard input.
    """
    refuse_pending(options)
    call = parse_call(options["call"], check=options["check"])
    request = build_request(context, options)
    mode = "quiet" if options["quiet"] else options["progress"]
    if request.on_error == "shell":
        # Nothing may draw on the terminal while a shell has it.
        require_terminal("--on-error=shell")
        mode = "plain" if mode in ("auto", "tty") else mode
    session = SessionInputs(
        secrets=secrets(options["secret"]), ssh=agents(options["ssh"]), tls_verify=options["tls_verify"]
    )
    if call.method != "build":
        refuse_several(f"--call {call.method}", options["target"], "ask for one target at a time")
        from arkwright.cli.checks import run_call

        status = run_call(call, request, session, invocation.store_root(options["root_path"]))
        click.get_current_context().exit(status)
    if options["iidfile"]:
        refuse_several("--iidfile", options["target"], "--metadata-file has the digests of all")
        _discard(options["iidfile"])
    root_path = invocation.store_root(options["root_path"])
    try:
        receipt = _run(invocation, request, session, root_path, mode, without_effect(options))
    finally:
        if options["explain"]:
            _explain(invocation, root_path)
    if options["iidfile"]:
        _write_file(options["iidfile"], receipt.digest.encode())
    if options["metadata_file"]:
        _write_file(options["metadata_file"], _metadata(request, receipt, root_path))
    if mode == "quiet":
        for one in receipt.targets or (receipt,):
            if one.digest:
                click.echo(one.digest)
    if mode in ("auto", "plain", "tty"):
        click.echo(_summary(receipt), err=True)


def _run(
    invocation: Invocation,
    request: BuildRequest,
    session: SessionInputs,
    root_path: str,
    mode: str,
    notices: tuple[Diagnostic, ...],
) -> Receipt:
    """Run with a view of the progress; the one place that adapts to `build.run`, which keeps the
    journal itself."""
    from arkwright.build.run import build as run_build
    from arkwright.build.run import new_build_id
    from arkwright.cli.progress import progress_view
    from arkwright.events.journal import journal_path
    from arkwright.events.stream import EventStream
    from arkwright.events.types import Warning

    stream = EventStream(new_build_id())
    invocation.journal_path = journal_path(root_path, stream.build)
    view = progress_view(mode)
    stream.subscribe(view)
    for notice in notices:
        stream.emit(Warning(diagnostic=notice))
    try:
        return run_build(request, session, stream, root_path)
    finally:
        view.finish()


def _explain(invocation: Invocation, root_path: str) -> None:
    """Why each step of this build ran; nothing when it failed before it had any."""
    from arkwright.cli.explain import print_explanation
    from arkwright.store.store import Store

    if os.path.exists(invocation.journal_path):
        with Store.open(root_path) as store:
            print_explanation(store, os.path.basename(os.path.dirname(invocation.journal_path)), err=True)


def _summary(receipt: Receipt) -> str:
    what = f"built {receipt.digest}".rstrip()
    lines = [f"{one.target}: {one.digest or 'done'}\n" for one in receipt.targets]
    if len(lines) > 1:
        what = "".join(lines) + f"built {len(lines)} targets"
    return (
        f"{what} in {receipt.duration_s:.1f}s: {receipt.steps_run} steps run, {receipt.steps_cached} cached"
    )


def _metadata(request: BuildRequest, receipt: Receipt, root_path: str) -> bytes:
    """The metadata file: buildx' keys where it has one, ours under `arkwright.`. With several
    targets one such object each, by the name of the target, as bake has it."""
    from arkwright.attest import kept, provenance

    facts = kept.read(root_path, receipt.build)
    made = provenance.predicate(facts, facts.mode) if facts is not None and facts.images else None
    each: Sequence[Receipt | TargetReceipt] = receipt.targets or (receipt,)
    found = {
        part.target: {**_fields(receipt, part, one), **({_PROVENANCE: made} if made and one.digest else {})}
        for part, one in zip(request.parts(), each, strict=True)
    }
    told = found if len(found) > 1 else next(iter(found.values()))
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


def _fields(receipt: Receipt, part: BuildRequest, one: Receipt | TargetReceipt) -> dict[str, Any]:
    fields = {
        "containerimage.digest": one.digest,
        "containerimage.config.digest": one.config_digest,
        "image.name": ",".join(part.names),
        "arkwright.build": receipt.build,
        "arkwright.exports": list(one.exports),
        "arkwright.profile": receipt.profile,
        "arkwright.tiers": list(receipt.tiers),
        "arkwright.steps": {"run": receipt.steps_run, "cached": receipt.steps_cached},
        "arkwright.duration_s": receipt.duration_s,
    }
    return {key: value for key, value in fields.items() if value not in ("", [])}


def _discard(path: str) -> None:
    """A file of an earlier build must not be taken for this one's."""
    if os.path.isfile(path) or os.path.islink(path):
        os.unlink(path)


def _write_file(path: str, data: bytes) -> None:
    """Replace a file as a whole; a device or a pipe is written to.

    Raises `UserError` `unwritable-file`.
    """
    from arkwright.diagnostics.errors import UserError

    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as stream:
                stream.write(data)
            return
        partial_path = f"{path}.{os.getpid()}.partial"
        with open(partial_path, "wb") as stream:
            stream.write(data)
        os.replace(partial_path, path)
    except OSError as error:
        raise UserError.of("unwritable-file", f"cannot write {path}: {error.strerror}") from error
