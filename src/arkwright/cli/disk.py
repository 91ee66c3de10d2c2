"""`arkwright du|quota`: each thing that takes disk, and how much all of it may take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from arkwright.cli.cache import FILTER, age_text, in_store
from arkwright.cli.columns import columns
from arkwright.cli.images import open_store, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch
from arkwright.cli.values import duration_s
from arkwright.diagnostics.amounts import bytes_text
from arkwright.diagnostics.cells import escape

if TYPE_CHECKING:
    from arkwright.cache.items import Item
    from arkwright.store.store import Store


@click.command(
    "du",
    cls=Arguments,
    short_help="Say what takes how much disk.",
    epilog="""\
\b
Examples:
  arkwright du
  arkwright du --filter type=step --filter unused-for=7d
  arkwright du --filter name~='apt-get' --verbose
  arkwright du --filter '!inuse' --format json
""",
)
@FILTER
@switch("-v", "--verbose", help="All that is known of each thing.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="How to print.")
@root_option
@click.pass_obj
def du(
    invocation: Invocation,
    /,
    filters: tuple[str, ...],
    verbose: bool,
    form: str,
    root_path: str | None,
) -> None:
    """List what takes disk, the largest first: its type, whether an image with a name needs it, how many
    images and builds share it, when it was last used, and by which build."""
    from arkwright.cache.filters import parse_filters
    from arkwright.cache.items import Item

    conditions = parse_filters(filters, duration_s)
    now_ns = time.time_ns()

    def body(store: Store) -> Any:
        from arkwright.cache.items import list_items

        return [one for one in list_items(store) if all(each.holds(one, now_ns) for each in conditions)]

    found = msgspec.convert(in_store(invocation, root_path, body), list[Item])
    if form == "json":
        print_json(found)
        return
    click.echo("\n".join(map(_block, found)) if verbose else columns(_rows(found, now_ns)), nl=False)
    click.echo(_sums(found))


def _rows(found: Sequence[Item], now_ns: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("TYPE", "ID", "SIZE", "IN USE", "SHARED", "LAST USED", "BUILD", "NAME")]
    for one in found:
        rows.append((
            one.kind, _short(one), bytes_text(one.size), "yes" if one.needed else "", _users(one),
            age_text((now_ns - one.used_at) / 1e9) if one.used_at else "", one.build,
            escape(" ".join(one.name.split()))[:80],
        ))  # fmt: skip
    return rows


def _short(item: Item) -> str:
    return item.id if item.kind in ("history", "other") else item.id.removeprefix("sha256:")[:12]


def _users(item: Item) -> str:
    return str(item.users) if item.users > 1 else ""


def _block(item: Item) -> str:
    facts = (
        ("id", item.id),
        ("type", item.kind),
        ("name", escape(" ".join(item.name.split()))),
        ("size", bytes_text(item.size)),
        ("in use", "yes" if item.needed else "no"),
        ("users", str(item.users) if item.users else ""),
        ("created", _moment(item.created_at)),
        ("last used", _moment(item.used_at)),
        ("build", item.build),
    )
    return "".join(f"{name + ':':<11}{value}\n" for name, value in facts if value)


def _moment(at_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ns / 1e9)) if at_ns else ""


def _sums(found: Sequence[Item]) -> str:
    sums = (
        ("shared", sum(one.size for one in found if one.users > 1)),
        ("unique", sum(one.size for one in found if one.users <= 1)),
        ("in use", sum(one.size for one in found if one.needed)),
        ("reclaimable", sum(one.size for one in found if not one.needed and one.kind != "other")),
        ("total", sum(one.size for one in found)),
    )
    return "\n" + "\n".join(f"{name + ':':<13}{bytes_text(size)}" for name, size in sums)


@click.command(
    "quota",
    cls=Arguments,
    short_help="Show or set how much disk the store may take.",
    epilog="""\
\b
Examples:
  arkwright quota            # show it
  arkwright quota 20g        # set it, and shrink the store to it
  arkwright quota none       # take it away
""",
)
@click.argument("size", metavar="[SIZE|none]", default="")
@root_option
@click.pass_obj
def quota(invocation: Invocation, /, size: str, root_path: str | None) -> None:
    """Show or set how much disk the store may take. After every build the store is shrunk to it: by last
    use, the cache of images with a name last, and never such images. A step that crosses it is stopped.
    ARKWRIGHT_QUOTA counts instead of what is set here."""
    from arkwright.cache.settings import parse_size, read_limits, write_quota

    if size:
        limit = -1 if size.lower() == "none" else parse_size("the quota", size)
        with open_store(invocation, root_path) as store:
            write_quota(store.metadata, limit)
    told = in_store(invocation, root_path, lambda store: _shrunk(store, shrink=bool(size)))
    with open_store(invocation, root_path) as store:
        limit = read_limits(store.metadata).quota
    what = "no quota" if limit < 0 else f"quota {bytes_text(limit)}"
    click.echo(f"{what}, {bytes_text(told)} used")
    if told > limit >= 0:
        click.echo("the store is over its quota: in use, or full of images with a name", err=True)


def _shrunk(store: Store, *, shrink: bool) -> int:
    """The store's size, after it was brought to its quota if nobody else uses it."""
    from arkwright.cache.collect import collect, needs_room
    from arkwright.cache.meter import Meter
    from arkwright.cache.settings import read_limits
    from arkwright.diagnostics.errors import UserError

    limits = read_limits(store.metadata)
    used = Meter(store.root_path).measure()
    if not shrink or not needs_room(used, limits):
        return used
    try:
        with store.exclusive():
            used = collect(store, limits).after
    except UserError as error:
        if error.code != "store-in-use":
            raise
    store.empty_trash()
    return used
