"""`arkwright from|containers|commit`, and what `run`, `copy`, `config` and `rm` do with a working container."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from arkwright.cli.build_options import PROGRESS
from arkwright.cli.columns import columns
from arkwright.cli.images import compression_option, epoch_option, platform_option
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.diagnostics.errors import StepFailed, UsageError

if TYPE_CHECKING:
    from arkwright.build.container_steps import CopyCommand, RunCommand
    from arkwright.events.stream import EventStream
    from arkwright.images.mutate_config import ConfigEdit


@click.command(
    "from",
    cls=Arguments,
    short_help="Begin a working container, and print its name.",
    epilog="""\
\b
Examples:
  c=$(arkwright from debian:bookworm)
  arkwright run $c -- apt-get update
  arkwright copy $c app /usr/bin/
  arkwright config $c --cmd /usr/bin/app
  arkwright commit $c app:1
  arkwright rm $c
""",
)
@click.argument("image", metavar="IMAGE|scratch")
@click.option(
    "--name", metavar="NAME", default="", help="The container's name. [default: IMAGE-working-container]"
)
@switch("--pull", help="Ask the registry even when the store has the image.")
@platform_option
@tls_option()
@root_option
@click.pass_obj
def from_(
    invocation: Invocation, /, image: str, name: str, pull: bool, platform: str | None,
    tls_verify: bool | None, root_path: str | None,
) -> None:  # fmt: skip
    """Begin a working container with an image, by any spelling, or with nothing (`scratch`).

    The container is a graph of what `run`, `copy` and `config` do: each step is cached, and `commit` makes an
    image of it, as a build does."""
    from arkwright.build.containers import create
    from arkwright.build.upkeep import quota_kept
    from arkwright.oci.platform import parse_platform
    from arkwright.registry.access import Access

    store_root = invocation.store_root(root_path)
    wanted = parse_platform(platform) if platform else None
    with quota_kept(store_root):
        made = create(
            store_root, image, name=name, platform=wanted, pull=pull, tls_verify=tls_verify,
            access=Access(tls_verify=tls_verify),
        )  # fmt: skip
    click.echo(made.name)


@click.command(
    "containers",
    cls=Arguments,
    short_help="List the working containers.",
    epilog="\b\nExample:\n  arkwright containers --json | jq '.[].name'\n",
)
@switch("-q", "--quiet", help="Print names only.")
@switch("--json", "as_json", help="Print JSON; short for --format json.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="How to print.")
@root_option
@click.pass_obj
def containers(
    invocation: Invocation, /, quiet: bool, as_json: bool, form: str, root_path: str | None
) -> None:
    """List the working containers: what they began with, how many steps they have, where they are mounted."""
    from arkwright.images.containers import list_containers
    from arkwright.store.store import Store

    with Store.open(invocation.store_root(root_path)) as store:
        found = list_containers(store)
    if quiet:
        click.echo("".join(f"{one.name}\n" for one in found), nl=False)
        return
    rows = [
        {
            "name": one.name, "image": one.image, "platform": str(one.platform), "steps": len(one.definition.vertices),
            "layers": len(one.layers), "created": _time(one.created_at), "mounted": one.mounted,
        }
        for one in found
    ]  # fmt: skip
    if as_json or form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    lines = [("NAME", "IMAGE", "LAYERS", "CREATED", "MOUNTED")]
    lines += [
        (
            str(one["name"]),
            str(one["image"]),
            str(one["layers"]),
            str(one["created"]),
            str(one["mounted"]) or "-",
        )
        for one in rows
    ]
    click.echo(columns(lines), nl=False)


def _time(nanoseconds: int) -> str:
    from arkwright.exporters.image import rfc3339

    return rfc3339(nanoseconds // 10**9)


@click.command(
    "commit",
    cls=Arguments,
    short_help="Make an image of a working container.",
    epilog="""\
\b
Examples:
  arkwright commit $c app:1
  arkwright commit --rm $c docker://registry.example/team/app:1
""",
)
@click.argument("container")
@click.argument("name", required=False, default="")
@switch("--rm", help="Remove the container when the image is made.")
@switch("-q", "--quiet", help="Print the image's digest and nothing else.")
@click.option("--iidfile", metavar="FILE", help="Write the image's digest to a file.")
@epoch_option
@compression_option
@click.option("--annotation", multiple=True, metavar="NAME=VALUE", help="Add an annotation to the manifest.")
@click.option("--isolation", default="auto", hidden=True)
@click.option(
    "--progress", type=click.Choice(PROGRESS), default="quiet", help="How progress is shown. [default: quiet]"
)
@tls_option()
@root_option
@click.pass_obj
def commit(invocation: Invocation, /, container: str, name: str, **options: Any) -> None:
    """Make an image of what a working container is now, and give it NAME, which may be any place that `copy`
    can write to. The container stays as it is. Prints NAME and the image's digest."""
    from arkwright.build.containers import commit as commit_container
    from arkwright.build.mounts import capture
    from arkwright.build.request import BuildRequest
    from arkwright.build.session import SessionInputs
    from arkwright.cli import values
    from arkwright.images.places import parse_place

    root_path = invocation.store_root(options["root_path"])
    place = parse_place(name) if name else None
    here = place is not None and place.transport == "store"
    request = BuildRequest(
        context=_shown(container), names=_names(name) if here else (), epoch=options["epoch"],
        compression={"none": "uncompressed"}.get(options["compression"], options["compression"]),
        annotations=dict(values.settings("--annotation", options["annotation"])),
    )  # fmt: skip
    session = SessionInputs(tls_verify=options["tls_verify"])
    with_stream(invocation, root_path, "quiet", lambda stream: capture(root_path, container, stream))
    digest = with_stream(
        invocation, root_path, options["progress"],
        lambda stream: commit_container(root_path, container, request, session, stream),
    ).digest  # fmt: skip
    told = name
    if place is not None and not here:
        told = _sent(root_path, digest, name, options["tls_verify"])
    if options["iidfile"]:
        with open(options["iidfile"], "w", encoding="ascii") as file:
            file.write(digest)
    if options["rm"]:
        remove(root_path, container)
    click.echo(digest if options["quiet"] or not told else f"{told} {digest}")


def _names(name: str) -> tuple[str, ...]:
    from arkwright.diagnostics.errors import UserError
    from arkwright.oci.reference import parse_reference

    reference = parse_reference(name)
    if reference.digest:
        raise UserError.of("name-with-digest", f"{name}: a name that is given cannot have a digest")
    return (str(reference),)


def _sent(root_path: str, digest: str, name: str, tls_verify: bool | None) -> str:
    from arkwright.images.deliver import deliver
    from arkwright.images.places import parse_place
    from arkwright.images.references import describe
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

    with Store.open(root_path) as store:
        descriptor = describe(store.content, digest)
        assert descriptor is not None
        return deliver(store, descriptor, parse_place(name), access=Access(tls_verify=tls_verify)).name


def is_container(root_path: str, text: str) -> bool:
    """Whether a working container has exactly this name."""
    from arkwright.cache.inventory import CONTAINERS
    from arkwright.store.store import Store

    if not os.path.exists(os.path.join(root_path, "metadata.db")):
        return False
    with Store.open(root_path) as store:
        return store.metadata.get(CONTAINERS, text) is not None


def run_in_container(
    invocation: Invocation, root_path: str, name: str, command: RunCommand, options: Mapping[str, Any]
) -> int:
    """Run a command as a step of a container; its output goes where the command would have written it.

    Gives the exit status: the command's own, also when it failed. Raises what a build raises besides.
    """
    from arkwright.build.container_steps import running
    from arkwright.build.containers import grow
    from arkwright.build.request import BuildRequest
    from arkwright.build.session import SessionInputs
    from arkwright.cli.limits import step_limits
    from arkwright.cli.session import agents, secrets

    if not command.args:
        raise UsageError.of("invalid-usage", "no command is given", hint=f"arkwright run {name} -- COMMAND")
    isolation = options.get("isolation") or "auto"
    request = BuildRequest(
        context=_shown(name), isolation="auto" if isolation == "default" else isolation,
        limits=step_limits(options), network=command.network,
    )  # fmt: skip
    session = SessionInputs(secrets=secrets(options.get("secret", ())), ssh=agents(options.get("ssh", ())))
    try:
        with_stream(
            invocation, root_path, options.get("progress") or "output",
            lambda stream: grow(root_path, name, running(command), request, session, stream),
        )  # fmt: skip
    except StepFailed as error:
        from arkwright.cli.failure import describe

        details = {key: value for key, value in error.details.items() if key != "tail"}
        click.echo(describe(StepFailed(*error.diagnostics, details=details)), err=True, nl=False)
        return int(error.details.get("status") or 1)
    return 0


def copy_into(
    invocation: Invocation, root_path: str, name: str, command: CopyCommand, progress: str = "quiet"
) -> None:
    """Copy files into a container. Raises what a build raises."""
    from arkwright.build.container_steps import copying
    from arkwright.build.containers import grow
    from arkwright.build.request import BuildRequest
    from arkwright.build.session import SessionInputs

    request = BuildRequest(context=_shown(name))
    with_stream(
        invocation, root_path, progress,
        lambda stream: grow(root_path, name, copying(command), request, SessionInputs(), stream),
    )  # fmt: skip


def file_options(command: Any) -> Any:
    """The options of copies into containers."""
    for option in reversed(
        (
            click.option("--from", "origin", metavar="IMAGE|CONTAINER", default="", help="In a container: copy from an image, or from another container."),
            click.option("--chown", metavar="USER[:GROUP]", default="", help="In a container: the files' owner. [default: 0:0, with --from the owner there]"),
            click.option("--chmod", metavar="MODE", default="", help="In a container: the files' mode."),
            click.option("--exclude", metavar="PATTERN", multiple=True, help="In a container: leave out what matches. May be repeated."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def copied_files(
    invocation: Invocation, root_path: str | None, name: str, words: Sequence[str], options: Mapping[str, Any]
) -> bool:
    """Copy files into a container, if there is one of this name; whether there is."""
    root = invocation.store_root(root_path)
    if not is_container(root, name):
        given = next((key for key, value in options.items() if value), None)
        if given is not None:
            option = "--from" if given == "origin" else f"--{given}"
            raise UsageError.of(
                "conflicting-options", f"{option} is for working containers, and {name} is none",
                hint="arkwright containers lists them",
            )  # fmt: skip
        return False
    from arkwright.build.container_steps import CopyCommand

    sources, destination = (words[:-1], words[-1]) if len(words) > 1 else (words, ".")
    command = CopyCommand(sources=tuple(sources), destination=destination, **options)
    copy_into(invocation, root, name, command)
    return True


def configured(
    invocation: Invocation, root_path: str | None, name: str, edit: ConfigEdit, options: Mapping[str, Any]
) -> bool:
    """Show or edit the config of a container, if there is one of this name; whether there is."""
    root = invocation.store_root(root_path)
    if not is_container(root, name):
        return False
    from arkwright.build.containers import change, edited
    from arkwright.cli.images import field
    from arkwright.images.containers import get_container
    from arkwright.store.store import Store

    if options["tags"]:
        raise UsageError.of(
            "conflicting-options", f"--tag is for images, and {name} is a working container",
            hint=f"arkwright commit {name} NAME",
        )  # fmt: skip
    if not edit.is_empty:
        change(root, name, lambda one: edited(one, edit))
        return True
    with Store.open(root) as store:
        value: Any = msgspec.to_builtins(get_container(store, name).config)
    if options["form"] != "json":
        value = field(value, options["form"])
    click.echo(value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2))
    return True


def remove_containers(root_path: str, names: Sequence[str]) -> tuple[str, ...]:
    """Forget what is a working container; the other names."""
    left = []
    for name in names:
        if is_container(root_path, name):
            remove(root_path, name)
            click.echo(name)
        else:
            left.append(name)
    return tuple(left)


def remove(root_path: str, name: str) -> None:
    """Forget a container; what it kept is garbage."""
    from arkwright.build.mounts import remove as remove_container

    remove_container(root_path, name)


_T = TypeVar("_T")


def with_stream(invocation: Invocation, root_path: str, mode: str, body: Callable[[EventStream], _T]) -> _T:
    """Run a command of a container with a view of its progress."""
    from arkwright.build.run import new_build_id
    from arkwright.cli.progress import ProgressView, progress_view
    from arkwright.cli.steps import StepOutput
    from arkwright.events.journal import journal_path
    from arkwright.events.stream import EventStream

    stream = EventStream(new_build_id())
    invocation.journal_path = journal_path(root_path, stream.build)
    view: ProgressView = StepOutput(root_path) if mode == "output" else progress_view(mode)
    stream.subscribe(view)
    try:
        return body(stream)
    finally:
        view.finish()


def _shown(name: str) -> str:
    return f"container {name}"


def command_of(words: Sequence[str]) -> tuple[str, ...]:
    """A command behind a container's name: after `--`, or without it."""
    return tuple(words[1:] if words[:1] == ["--"] or words[:1] == ("--",) else words)
