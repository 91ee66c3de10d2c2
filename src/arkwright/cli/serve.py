"""`arkwright serve registry`: the local store for every tool that speaks to registries."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, root_option, switch
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.registry.server.depot import Depot
    from arkwright.registry.server.listener import Served, Server
    from arkwright.registry.server.room import Room

_DEFAULT = "127.0.0.1:5000"
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]*)):(\d{1,5})")


@click.group(
    "serve",
    cls=Commands,
    short_help="Serve the local store to other tools.",
    epilog="""\
\b
Example:
  arkwright serve registry &
  podman pull --tls-verify=false localhost:5000/app
""",
)
def serve() -> None:
    """Serve the local store to other tools."""


@serve.command(
    "registry",
    cls=Arguments,
    short_help="Be a registry (OCI distribution 1.1) over the local store.",
    epilog="""\
\b
Examples:
  arkwright serve registry                          # http://127.0.0.1:5000, this host only
  arkwright serve registry --read-only --listen 127.0.0.1:0 --port-file port
  arkwright serve registry --listen 0.0.0.0:5000 --auth-file htpasswd \\
      --tls-cert cert.pem --tls-key key.pem

\b
The repository `app` is the local image `app`, `team/app` is `team/app`, and
`registry.example/team/app` is that name. What is pushed has these names at once; deleting a
name keeps the content until a clean-up. Ctrl-C ends the server.
""",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=_DEFAULT,
    show_default=True,
    help="Where; port 0 takes a free one.",
)
@switch("--read-only", help="Refuse pushes and deletions.")
@click.option(
    "--auth-file",
    metavar="HTPASSWD",
    help="Ask for a user and password of this file, as `htpasswd -B` writes it.",
)
@click.option("--tls-cert", metavar="FILE", help="Speak HTTPS with this certificate (PEM, with its chain).")
@click.option("--tls-key", metavar="FILE", help="The certificate's key.")
@switch("--insecure", help="Allow other hosts in without --auth-file or without TLS.")
@click.option(
    "--max-connections", type=click.IntRange(1, 800), default=200, show_default=True, help="At once."
)
@click.option("--port-file", metavar="FILE", help="Write the port there once it is open, for scripts.")
@click.option(
    "--ready-fd", type=click.IntRange(0), metavar="N", help="Write HOST:PORT to this descriptor then."
)
@switch("--access-log", help="Write a line for each request to standard error.")
@root_option
@click.pass_obj
def registry(
    invocation: Invocation,
    /,
    listen: str,
    read_only: bool,
    auth_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    max_connections: int,
    port_file: str | None,
    ready_fd: int | None,
    access_log: bool,
    root_path: str | None,
) -> None:
    """Be a registry (OCI distribution 1.1) over the local store: for podman, skopeo, docker, kubelets."""
    host, port = _address(listen)
    if bool(tls_cert) != bool(tls_key):
        raise UsageError.of("conflicting-options", "--tls-cert and --tls-key need each other")
    if not insecure:
        _check_exposure(host, auth=bool(auth_file), tls=bool(tls_cert))
    from arkwright.net.proxy import is_loopback
    from arkwright.net.tls import server_side
    from arkwright.registry.server.context import Shared
    from arkwright.registry.server.depot import Depot
    from arkwright.registry.server.guard import Guard, Passwords
    from arkwright.registry.server.listener import Server
    from arkwright.registry.server.repository import Images
    from arkwright.registry.server.uploads import Uploads

    guard = Guard(Passwords(auth_file) if auth_file else None, local=is_loopback(host))
    tls = server_side(tls_cert, tls_key) if tls_cert and tls_key else None
    root = invocation.store_root(root_path)
    depot = Depot(root)
    try:
        shared = Shared(depot, Images(), Uploads(), read_only, _room(depot, root))
        log = _log if access_log else None
        server = Server(
            host, port, shared, guard=guard, tls=tls, most=max_connections, served=log, failed=_tell
        )
        _announce(server, port_file, ready_fd)
        _run(server)
    finally:
        depot.close()
        if port_file:
            with suppress(OSError):
                os.unlink(port_file)


def _address(text: str) -> tuple[str, int]:
    """Host and port; either may be left away."""
    from arkwright.cli.values import invalid

    found = _LISTEN.fullmatch(text if ":" in text else f"{text}:5000")
    if found is None or int(found[3]) > 65535:
        invalid("--listen", text, "not HOST:PORT", "write 127.0.0.1:5000, [::1]:5000, or localhost:0")
    return found[1] or found[2] or "0.0.0.0", int(found[3])  # noqa: S104


def _check_exposure(host: str, *, auth: bool, tls: bool) -> None:
    from arkwright.net.proxy import is_loopback

    if is_loopback(host) or (auth and tls):
        return
    lacking = [name for name, given in (("--auth-file", auth), ("--tls-cert", tls)) if not given]
    raise UsageError.of(
        "unsafe-listen",
        f"--listen {host} lets other hosts in, and {' and '.join(lacking)} "
        f"{'is' if len(lacking) == 1 else 'are'} missing",
        hint="give both --auth-file and --tls-cert, or listen on 127.0.0.1; --insecure goes without",
    )


def _room(depot: Depot, root: str) -> Room:
    """What the store's quota leaves."""
    from arkwright.cache.meter import Meter
    from arkwright.cache.settings import read_limits
    from arkwright.registry.server.room import Room

    meter, used = Meter(root), 0

    def quota() -> int:
        with depot.store() as store:
            return read_limits(store.metadata).quota

    def measure() -> int:
        nonlocal used
        # Files come and go meanwhile; the next look will tell.
        with suppress(OSError):
            used = meter.measure()
        return used

    return Room(quota, measure)


def _announce(server: Server, port_file: str | None, ready_fd: int | None) -> None:
    """Say that the server is there, in whichever ways were asked for."""
    from arkwright.images.destination import open_destination

    if port_file:
        with open_destination(os.path.abspath(port_file)) as sink:
            sink(f"{server.port}\n".encode())
    click.echo(f"listening on {server.url}")
    sys.stdout.flush()
    if ready_fd is not None:
        try:
            os.write(ready_fd, f"{server.address}\n".encode())
            if ready_fd > 2:
                os.close(ready_fd)
        except OSError as error:
            from arkwright.cli.values import invalid

            invalid("--ready-fd", str(ready_fd), error.strerror or "not open for writing")


def _run(server: Server) -> None:
    """Serve until Ctrl-C or SIGTERM; the second signal ends at once."""

    def stop(number: int, frame: object) -> None:
        for one in watched:
            signal.signal(one, signal.SIG_DFL)
        server.stop()

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, stop) for one in watched if signal.getsignal(one) != signal.SIG_IGN}
    try:
        server.run()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _tell(error: Exception) -> None:
    """A fault of ours; the server goes on."""
    from arkwright.cli.invocation import debugging

    click.echo(f"internal-error: {type(error).__name__}: {error}", err=True)
    if debugging():
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _log(served: Served) -> None:
    path = served.path if served.path.isprintable() else repr(served.path)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    click.echo(
        f"{now} {served.client} {served.method} {path} {served.status} {served.seconds:.3f}s", err=True
    )
