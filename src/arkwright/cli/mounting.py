"""`arkwright mount|umount|unshare`: a working container's tree as a directory."""

from __future__ import annotations

import os
import shutil

import click

from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option


@click.command(
    "mount",
    cls=Arguments,
    short_help="Mount a working container's tree, and print where.",
    epilog="""\
\b
Example:
  arkwright unshare -- sh -c 'cp app "$(arkwright mount c)/usr/bin/" && arkwright umount c'
""",
)
@click.argument("container")
@root_option
@click.pass_obj
def mount(invocation: Invocation, /, container: str, root_path: str | None) -> None:
    """Mount the tree of a working container, writable, and print its path. What is changed there becomes one
    layer at `umount` or `commit`, with times that are normalised.

    For a user other than root this is possible only inside of `arkwright unshare`."""
    from arkwright.build.mounts import mount as mount_container

    click.echo(mount_container(invocation.store_root(root_path), container))


@click.command(
    "umount",
    cls=Arguments,
    short_help="Take the mount of a working container away.",
    epilog="\b\nExample:\n  arkwright unshare -- sh -c 'cp -r out/. $(arkwright mount c); arkwright umount c'\n",
)
@click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True)
@root_option
@click.pass_obj
def umount(invocation: Invocation, /, containers: tuple[str, ...], root_path: str | None) -> None:
    """Take the mounts of working containers away. What was changed there becomes a layer of each. This also
    ends a mount whose session of `unshare` is over."""
    from arkwright.build.mounts import umount as umount_container
    from arkwright.cli.containers import with_stream

    root = invocation.store_root(root_path)
    for name in containers:
        with_stream(invocation, root, "quiet", lambda stream, name=name: umount_container(root, name, stream))  # type: ignore[misc]


@click.command(
    "unshare",
    cls=Arguments,
    short_help="Run a program where this user may mount, as `mount` needs it.",
    epilog="\b\nExample:\n  arkwright unshare -- ./build.sh\n",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("command", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@root_option
@click.pass_obj
@click.pass_context
def unshare(
    ctx: click.Context, invocation: Invocation, /, command: tuple[str, ...], root_path: str | None
) -> None:
    """Run COMMAND, or a shell, in a user namespace in which this user is root and has its subordinate ids, and in
    a mount namespace. The exit status is that of the command."""
    from arkwright.build.mounts import SESSION, session_path
    from arkwright.diagnostics.errors import UserError
    from arkwright.linux.unshare import run_unshared
    from arkwright.store.leases import lock_in_place
    from arkwright.store.store import Store

    args = command or (os.environ.get("SHELL") or "/bin/sh",)
    if shutil.which(args[0]) is None:
        raise UserError.of("command-not-found", f"there is no program {args[0]}")
    root = invocation.store_root(root_path)
    with Store.open(root) as store:
        root = store.root_path
    session = os.urandom(8).hex()
    lock_fd = lock_in_place(session_path(root, session))
    env = {**os.environ, "ARKWRIGHT_ROOT": root, SESSION: session}
    try:
        status = run_unshared(args, env)
    finally:
        if lock_fd >= 0:
            os.unlink(session_path(root, session))
            os.close(lock_fd)
    ctx.exit(status)
