"""`arkwright prune|fsck|cache …`: the disk that the store takes, and whether it is whole."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from arkwright.cli.columns import columns
from arkwright.cli.images import print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, root_option, switch
from arkwright.cli.values import duration_s
from arkwright.diagnostics.errors import UserError

if TYPE_CHECKING:
    from arkwright.cache.fsck import Finding
    from arkwright.cache.marks import Policy
    from arkwright.store.store import Store

_WAIT = click.option(
    "--timeout",
    metavar="DURATION",
    default="0s",
    help="Wait so long for other processes to leave the store; default: not at all.",
)
FILTER = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only what is so; may be repeated: type=step, name~=REGEX, unused-for=48h, unique, !inuse ...",
)
_FORM = click.option(
    "--format", "form", type=click.Choice(("table", "json")), default="table", help="How to print."
)


def in_store(
    invocation: Invocation, root_path: str | None, body: Callable[[Store], Any], *, wait_s: float = -1
) -> Any:
    """What `body` says of the store, as builtins; it runs where every file of the store can be
    read and deleted (see `build.store_work`). From `wait_s` 0 on it has the store for itself.

    Raises `UserError` `store-in-use` after `wait_s`.
    """
    from arkwright.build.store_work import on_store
    from arkwright.store.store import Store

    path = _store_path(invocation, root_path)

    def inside() -> bytes:
        with Store.open(path) as store:
            if wait_s < 0:
                return msgspec.json.encode(body(store))
            with store.exclusive(wait_s):
                return msgspec.json.encode(body(store))

    return msgspec.json.decode(on_store(inside, path))


def _store_path(invocation: Invocation, root_path: str | None) -> str:
    """The store's real path. Errors about the directory itself come from here, with the caller's own rights."""
    from arkwright.store.store import Store

    path = invocation.store_root(root_path)
    Store.open(path).close()
    return os.path.realpath(path)


@click.command(
    "prune",
    cls=Arguments,
    short_help="Delete what no image with a name needs.",
    epilog="""\
\b
Examples:
  arkwright prune                        # keeps images with a name, and their steps cached
  arkwright prune --keep-duration 48h    # and everything used in the last two days
  arkwright prune --max-used-space 20g   # and what was used last, as long as it all takes 20 GiB
  arkwright prune --min-free-space 50g   # just as much as it takes to have 50 GiB free
  arkwright prune --filter type=cache-mount --filter unused-for=7d
  arkwright prune --all                  # keeps nothing but images with a name
  arkwright prune --dry-run
""",
)
@switch("-a", "--all", "everything", help="The cache of named images too, and trees of failed steps.")
@FILTER
@click.option("--keep-duration", metavar="DURATION", default="", help="Keep what was used since: 48h, 7d.")
@click.option(
    "--max-used-space",
    metavar="SIZE",
    default="",
    help="Keep what was used last, as long as the store takes no more: 20g.",
)
@click.option(
    "--min-free-space", metavar="SIZE", default="", help="Delete only until so much of the disk is free."
)
@click.option(
    "--reserved-space",
    "--keep-storage",
    "reserved_space",
    metavar="SIZE",
    default="",
    help="Keep what was used last, up to this size, in any case: 5g.",
)
@switch("-n", "--dry-run", help="Say what would go, and delete nothing.")
@switch("-f", "--force", help="Accepted for the habit: nothing is asked.")
@_WAIT
@root_option
@click.pass_obj
def prune(
    invocation: Invocation,
    /,
    everything: bool,
    filters: tuple[str, ...],
    dry_run: bool,
    force: bool,
    timeout: str,
    root_path: str | None,
    **limits: str,
) -> None:
    """Delete what no image with a name needs: images without one, records of steps, layers, trees of
    unused bases, downloads, copies of git repositories. Steps that named images came from stay cached
    unless --all is given. Cache mounts and the history of builds go only when a filter names their type
    (cache-mount, history). With filters, only what fulfils all of them goes."""
    from arkwright.cache.prune import Freed

    policy = _policy(limits, filters, everything=everything)

    def body(store: Store) -> Any:
        from arkwright.cache.prune import prune

        return prune(store, policy, dry_run=dry_run)

    freed = msgspec.convert(
        in_store(invocation, root_path, body, wait_s=duration_s("--timeout", timeout)), Freed
    )
    click.echo(_freed_text(freed, dry_run=dry_run))


def _policy(limits: dict[str, str], filters: tuple[str, ...], *, everything: bool) -> Policy:
    from arkwright.cache.filters import parse_filters
    from arkwright.cache.marks import ALL, USUAL, Policy
    from arkwright.cli.values import size

    conditions = parse_filters(filters, duration_s)
    spaces = {
        name: size("--" + name.replace("_", "-"), limits[name]) if limits[name] else -1
        for name in ("max_used_space", "min_free_space", "reserved_space")
    }
    keep_s = duration_s("--keep-duration", limits["keep_duration"]) if limits["keep_duration"] else -1
    return Policy(
        keep_images=not everything, keep_failed=not everything, keep_duration_s=keep_s,
        max_used_space=spaces["max_used_space"], min_free_space=spaces["min_free_space"],
        reserved_space=spaces["reserved_space"], conditions=conditions,
        kinds=ALL if any(one.field == "type" for one in conditions) else USUAL,
    )  # fmt: skip


def _freed_text(freed: Any, *, dry_run: bool) -> str:
    from arkwright.diagnostics.amounts import bytes_text

    parts = [
        f"{count} {name if count != 1 else name[:-1]}"
        for count, name in (
            (freed.images, "images"),
            (freed.records, "records"),
            (freed.layers, "layers"),
            (freed.blobs, "blobs"),
            (freed.failed_steps, "failed steps"),
            (freed.cache_mounts, "cache mounts"),
            (freed.git_mirrors, "git mirrors"),
            (freed.builds, "builds"),
        )
        if count
    ]
    verb = "would free" if dry_run else "freed"
    return f"{verb} {bytes_text(freed.bytes)}" + (f" ({', '.join(parts)})" if parts else "")


@click.command(
    "fsck",
    cls=Arguments,
    short_help="Check the store, and repair it.",
    epilog="""\
\b
Examples:
  arkwright fsck
  arkwright fsck --repair     # make it again, or remove it; the next build makes it anew
""",
)
@switch("--repair", help="Make again what is wrong, or remove it, so that the next build makes it anew.")
@_FORM
@_WAIT
@root_option
@click.pass_context
def fsck(ctx: click.Context, /, repair: bool, form: str, timeout: str, root_path: str | None) -> None:
    """Check the store: the digest of every blob, that images are complete, that layers and records have
    all that they stand on, and that journals can be read. The exit status is 1 when something is wrong and was not repaired; what a
    killed process left behind is shown as garbage, and is no fault."""
    from arkwright.build.store_work import check_store
    from arkwright.cache.fsck import Finding

    told = check_store(
        _store_path(ctx.obj, root_path), repair=repair, wait_s=duration_s("--timeout", timeout)
    )
    found = msgspec.json.decode(told, type=list[Finding])
    if form == "json":
        print_json(found)
    else:
        _print_findings(found, repair=repair)
    ctx.exit(1 if not repair and any(not finding.garbage for finding in found) else 0)


def _print_findings(found: Sequence[Finding], *, repair: bool) -> None:
    for finding in found:
        click.echo(f"{finding.kind}: {finding.message}{_mark(finding, repair=repair)}")
    if not found:
        click.echo("nothing is wrong")
    elif not repair:
        click.echo(
            f"{len(found)} found; `arkwright fsck --repair` removes what is wrong, or makes it again",
            err=True,
        )
    names = [one.subject for one in found if one.kind == "incomplete-image"] if repair else []
    if names:
        click.echo("these names are gone; pull the image again, or build it:", err=True)
    for name in names:
        click.echo(f"  arkwright pull {name}", err=True)


def _mark(finding: Finding, *, repair: bool) -> str:
    if repair:
        return " (made again)" if finding.remade else " (removed)"
    return " (garbage)" if finding.garbage else ""


@click.group(
    "cache",
    cls=Commands,
    short_help="Look at the cache and at cache mounts.",
    epilog="""\
\b
Examples:
  arkwright cache ls                              # records of steps, newest first
  arkwright cache du                              # which part takes how much disk
  arkwright cache mounts                          # RUN --mount=type=cache directories
  arkwright cache export-mount /root/.cache a.tar # as a tar; - is standard output
  arkwright cache import-mount /root/.cache a.tar
  arkwright cache prune-mounts                    # delete all, or those that are named
  arkwright cache prune                           # the same as arkwright prune
""",
)
def cache() -> None:
    """Look at the cache and at cache mounts."""


cache.add_command(prune)


def age_text(seconds: float) -> str:
    """A rough age: the largest unit that fits."""
    for unit, length in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


@cache.command("ls", cls=Arguments, short_help="List the records of steps.")
@_FORM
@root_option
@click.pass_obj
def ls(invocation: Invocation, /, form: str, root_path: str | None) -> None:
    """List the records of steps, newest first: age, size of the step's own layer, the build that made
    it, and the step's name as long as that build's journal is kept."""
    from arkwright.cache.listing import Listed, list_records
    from arkwright.diagnostics.amounts import bytes_text
    from arkwright.diagnostics.cells import escape

    told = in_store(invocation, root_path, list_records)
    if form == "json":
        print_json(told)
        return
    rows: list[tuple[str, ...]] = [("RECORD", "AGE", "SIZE", "BUILD", "STEP")]
    now_ns = time.time_ns()
    for one in msgspec.convert(told, list[Listed]):
        age = age_text((now_ns - one.created_at) / 1e9)
        step = escape(one.name.replace("\n", " ")) or f"({one.vertex[:19]})"
        rows.append((one.key.partition(":")[2][:12], age, bytes_text(one.size), one.build, step))
    click.echo(columns(rows), nl=False)


@cache.command("du", cls=Arguments, short_help="Say which part takes how much disk.")
@_FORM
@root_option
@click.pass_obj
def du(invocation: Invocation, /, form: str, root_path: str | None) -> None:
    """Say which part of the store takes how much disk, and how much of it images with a name need; `arkwright
    du` lists each thing."""
    from arkwright.cache.listing import Usage, usage
    from arkwright.diagnostics.amounts import bytes_text

    told = in_store(invocation, root_path, usage)
    if form == "json":
        print_json(told)
        return
    parts = msgspec.convert(told, list[Usage])
    rows: list[tuple[str, ...]] = [("PART", "COUNT", "SIZE", "OF IMAGES")]
    for one in parts:
        rows.append((one.part, str(one.count), bytes_text(one.size), bytes_text(one.needed)))
    total, needed = sum(one.size for one in parts), sum(one.needed for one in parts)
    rows.append(("total", "", bytes_text(total), bytes_text(needed)))
    click.echo(columns(rows), nl=False)


@cache.command("mounts", cls=Arguments, short_help="List cache mounts.")
@_FORM
@root_option
@click.pass_obj
def mounts(invocation: Invocation, /, form: str, root_path: str | None) -> None:
    """List the directories that steps keep with RUN --mount=type=cache, largest first."""
    from arkwright.cache.mounts import list_mounts

    _print_mounts(in_store(invocation, root_path, list_mounts), form)


def _print_mounts(told: Any, form: str) -> None:
    from arkwright.cache.mounts import CacheMount
    from arkwright.diagnostics.amounts import bytes_text
    from arkwright.diagnostics.cells import escape

    if form == "json":
        print_json(told)
        return
    rows: list[tuple[str, ...]] = [("MOUNT", "SIZE", "USED", "ID")]
    now_s = time.time()
    for one in msgspec.convert(told, list[CacheMount]):
        used = age_text(now_s - one.used_at)
        rows.append((one.name[:12], bytes_text(one.size), used, escape(one.id) or "(unknown)"))
    click.echo(columns(rows), nl=False)


@cache.command("export-mount", cls=Arguments, short_help="Write a cache mount to a tar.")
@click.argument("cache_id", metavar="ID")
@click.argument("file", metavar="FILE")
@_WAIT
@root_option
@click.pass_obj
def export_mount(
    invocation: Invocation, /, cache_id: str, file: str, timeout: str, root_path: str | None
) -> None:
    """Write a cache mount to a tar: equal contents give equal bytes. ID is the mount's `id=`, its target
    without one, or the beginning of its name; FILE `-` is standard output."""
    from arkwright.cache import mounts

    with _output(file) as stream:

        def body(store: Store) -> None:
            mounts.export_mount(store, cache_id, stream)
            stream.flush()

        in_store(invocation, root_path, body, wait_s=duration_s("--timeout", timeout))


@cache.command("import-mount", cls=Arguments, short_help="Fill a cache mount from a tar.")
@click.argument("cache_id", metavar="ID")
@click.argument("file", metavar="FILE")
@_WAIT
@root_option
@click.pass_obj
def import_mount(
    invocation: Invocation, /, cache_id: str, file: str, timeout: str, root_path: str | None
) -> None:
    """Make a tar the content of a cache mount, in place of what it held."""
    from arkwright.build.upkeep import quota_kept
    from arkwright.cache import mounts

    try:
        stream = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError.of("unreadable-file", f"cannot read {file}: {error.strerror}") from error
    with stream, quota_kept(invocation.store_root(root_path)):
        in_store(
            invocation, root_path, lambda store: mounts.import_mount(store, cache_id, stream),
            wait_s=duration_s("--timeout", timeout),
        )  # fmt: skip


@cache.command("prune-mounts", cls=Arguments, short_help="Delete cache mounts.")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@_WAIT
@root_option
@click.pass_obj
def prune_mounts(
    invocation: Invocation, /, ids: tuple[str, ...], timeout: str, root_path: str | None
) -> None:
    """Delete cache mounts: those that are named, or all."""
    from arkwright.cache import mounts
    from arkwright.diagnostics.amounts import bytes_text

    gone = in_store(
        invocation, root_path, lambda store: mounts.prune_mounts(store, ids),
        wait_s=duration_s("--timeout", timeout),
    )  # fmt: skip
    found = msgspec.convert(gone, list[mounts.CacheMount])
    click.echo(f"freed {bytes_text(sum(one.size for one in found))} ({len(found)} cache mounts)")


@contextmanager
def _output(path: str) -> Iterator[BinaryIO]:
    """A file that appears when it is whole; `-` is standard output."""
    if path == "-":
        yield sys.stdout.buffer
        return
    making_path = f"{path}.{os.getpid()}.part"
    try:
        stream = open(making_path, "xb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError.of("unwritable-file", f"cannot write {path}: {error.strerror}") from error
    try:
        with stream:
            yield stream
        os.replace(making_path, path)
    except BaseException:
        os.unlink(making_path)
        raise
