"""`arkwright config`: every field of an image's config, shown and edited."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec

from arkwright.cli.change import PLACES, Changing, changing, output_options
from arkwright.cli.containers import configured
from arkwright.cli.images import print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, switch
from arkwright.cli.values import invalid

if TYPE_CHECKING:
    from arkwright.images.mutate_config import ConfigEdit
    from arkwright.images.references import FoundImage

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

CLEARABLE = (
    "env", "labels", "entrypoint", "cmd", "workdir", "user", "ports", "volumes", "stop-signal", "healthcheck",
    "shell", "onbuild", "author", "variant", "os-version", "history",
)  # fmt: skip
_TIMES = {
    "healthcheck_interval": "Interval", "healthcheck_timeout": "Timeout",
    "healthcheck_start_period": "StartPeriod", "healthcheck_start_interval": "StartInterval",
}  # fmt: skip
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([a-z]+))?")
_PROTOCOLS = ("tcp", "udp", "sctp")
# RFC 3339, section 5.6.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_WORDS = "A JSON array, or words as a shell splits them; empty clears it."


def _many(*names: str, metavar: str, help: str) -> Callable[[Decorated], Decorated]:
    return click.option(*names, metavar=metavar, multiple=True, help=f"{help} May be repeated.")


def _edits(command: Decorated) -> Decorated:
    """The options that edit."""
    for add in reversed(
        (
            _many("-e", "--env", "env", metavar="NAME=VALUE", help="Set a variable of the environment."),
            _many("--unset-env", "--unsetenv", "unset_env", metavar="NAME", help="Remove a variable."),
            _many("-l", "--label", "label", metavar="KEY=VALUE", help="Set a label."),
            _many("--unset-label", "--unsetlabel", "unset_label", metavar="KEY", help="Remove a label."),
            click.option("--entrypoint", metavar="COMMAND", help=_WORDS + " The command stays."),
            click.option("--cmd", metavar="COMMAND", help=_WORDS),
            click.option("-w", "--workdir", "--workingdir", "workdir", metavar="PATH", help="The working directory; empty clears it."),
            click.option("-u", "--user", metavar="USER[:GROUP]", help="Names or numbers; empty clears it."),
            _many("-p", "--port", "port", metavar="PORT[-PORT][/PROTOCOL]", help="Declare a port."),
            _many("--unset-port", metavar="PORT[/PROTOCOL]", help="Remove a port."),
            _many("-v", "--volume", "volume", metavar="PATH", help="Declare a volume."),
            _many("--unset-volume", metavar="PATH", help="Remove a volume."),
            click.option("--stop-signal", metavar="SIGNAL", help="A name such as SIGTERM or a number; empty clears it."),
            click.option("--healthcheck", metavar="COMMAND", help="A JSON array, text for a shell, NONE to switch an inherited one off; empty clears it."),
            click.option("--healthcheck-interval", metavar="DURATION", help="Time between checks, such as 30s."),
            click.option("--healthcheck-timeout", metavar="DURATION", help="How long a check may take."),
            click.option("--healthcheck-start-period", metavar="DURATION", help="Failures do not count so long after the start."),
            click.option("--healthcheck-start-interval", metavar="DURATION", help="Time between checks in the start period."),
            click.option("--healthcheck-retries", metavar="N", type=click.IntRange(0, 2**31 - 1), help="Failures until it is unhealthy."),
            click.option("--shell", metavar="COMMAND", help=_WORDS),
            _many("--onbuild", metavar="INSTRUCTION", help="Add a trigger for builds on this image."),
            click.option("--author", metavar="TEXT", help="Who made it; empty clears it."),
            click.option("--created", metavar="TIME", help="RFC 3339, such as 2024-05-01T12:00:00Z, or seconds since 1970."),
            click.option("--os", "os_name", metavar="OS", help="The operating system."),
            click.option("--arch", metavar="ARCH", help="The architecture, such as amd64."),
            click.option("--variant", metavar="VARIANT", help="The variant of the architecture, such as v7; empty clears it."),
            click.option("--os-version", metavar="VERSION", help="The version of Windows that it needs; empty clears it."),
            click.option("--clear", type=click.Choice(CLEARABLE), multiple=True, help="Empty a field, before anything is set. May be repeated."),
            click.option("--history-comment", metavar="TEXT", default="", help="A comment in the history's entry of this edit."),
            switch("--no-history", help="Add no entry to the history."),
            click.option("--format", "form", metavar="json|FIELD.PATH", default="json", help="Without edits: one field by its path."),
        )
    ):  # fmt: skip
        command = add(command)
    return command


@click.command(
    "config",
    cls=Arguments,
    short_help="Show or edit the config of an image or a container.",
    help="Edit the fields of an image's config; without an edit, print it. A working container's own config is "
    f"edited in place; `commit` writes it.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright config app
  arkwright config app --env DEBUG=1 --unset-env TOKEN -t app:debug
  arkwright config app --entrypoint '["/app", "--serve"]' --cmd '' --user 1000 -t app:2
  arkwright config app --healthcheck 'curl -f localhost' --healthcheck-interval 30s -t app:3
  arkwright config app --clear labels --label maintainer=me -t docker://registry.example/app
""",
)
@click.argument("image")
@_edits
@output_options
@click.pass_obj
def config(invocation: Invocation, /, image: str, **options: Any) -> None:
    from arkwright.images.mutate_config import edit_config

    edit = parse_edit(options)
    if configured(invocation, options["root_path"], image, edit, options):
        return
    with changing(invocation, options) as work:
        if edit.is_empty:
            if options["tags"]:
                invalid("--tag", options["tags"][0], "there is nothing to edit; `arkwright tag` gives a name")
            _show(work, work.fetch(image), options["form"])
            return
        work.edit(image, lambda one: edit_config(one, edit, work.created))


def _show(work: Changing, found: FoundImage, form: str) -> None:
    from arkwright.diagnostics.errors import UserError
    from arkwright.images.graph import runnable, select_platform
    from arkwright.images.mutate import read_image
    from arkwright.oci.platform import host_platform

    content = work.store.content
    try:
        chosen = select_platform(content, found.descriptor, work.platform or host_platform())[0]
    except UserError as error:
        others = runnable(content, found.descriptor) if work.platform is None else []
        if error.code != "no-matching-platform" or not others:
            raise
        chosen = others[0][0]
    print_json(read_image(content, chosen).config, form)


def parse_edit(options: dict[str, Any]) -> ConfigEdit:
    """The edit that the options of `config` ask for.

    Raises `UsageError` `invalid-option-value`.
    """
    from arkwright.images.mutate_config import ConfigEdit

    cleared = set(options["clear"])
    texts: dict[str, str | None] = {}
    for name, clear in (
        ("workdir", "workdir"), ("user", "user"), ("stop_signal", "stop-signal"), ("author", "author"),
    ):  # fmt: skip
        texts[name] = _text(options[name], clear, cleared)
    for name in ("entrypoint", "cmd", "shell", "healthcheck"):
        if options[name] == "":
            cleared.add(name)
    _check_texts(texts)
    return ConfigEdit(
        env=dict(_pairs("--env", options["env"])),
        unset_env=options["unset_env"],
        labels=dict(_pairs("--label", options["label"])),
        unset_labels=options["unset_label"],
        entrypoint=_words("--entrypoint", options["entrypoint"]),
        cmd=_words("--cmd", options["cmd"]),
        workdir=texts["workdir"],
        user=texts["user"],
        ports=tuple(port for text in options["port"] for port in _ports("--port", text)),
        unset_ports=tuple(port for text in options["unset_port"] for port in _ports("--unset-port", text)),
        volumes=tuple(_absolute("--volume", text) for text in options["volume"]),
        unset_volumes=options["unset_volume"],
        stop_signal=texts["stop_signal"],
        healthcheck=_healthcheck(options["healthcheck"]),
        healthcheck_times=_times(options),
        shell=_words("--shell", options["shell"]),
        onbuild=options["onbuild"],
        author=texts["author"],
        created=_time(options["created"]),
        platform=_platform(options, cleared),
        clear=frozenset(cleared),
        history_comment=options["history_comment"],
        history=not options["no_history"],
    )


def _text(value: str | None, name: str, cleared: set[str]) -> str | None:
    """A field's new text; an empty one clears it."""
    if value == "":
        cleared.add(name)
        return None
    return value


def _check_texts(texts: dict[str, str | None]) -> None:
    if texts["workdir"] is not None:
        _absolute("--workdir", texts["workdir"])
    if texts["stop_signal"] is not None:
        _signal(texts["stop_signal"])


def _signal(text: str) -> None:
    from arkwright.diagnostics.errors import UserError
    from arkwright.diagnostics.spans import SourceFile, Span
    from arkwright.frontends.dockerfile.tokens import Token
    from arkwright.frontends.dockerfile.values import check_signal

    try:
        check_signal(Token(text, Span(SourceFile("--stop-signal", text), 0, len(text))))
    except UserError as error:
        invalid("--stop-signal", text, "not a signal", error.diagnostics[0].hint)


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            invalid(option, text, "write NAME=VALUE", f"--unset-{option[2:]} removes one")
        yield name, value


def _words(option: str, text: str | None) -> tuple[str, ...] | None:
    if not text:
        return None
    if text.lstrip().startswith("["):
        return _json_words(option, text)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        invalid(option, text, str(error).lower())


def _json_words(option: str, text: str) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.MsgspecError as error:
        _not_words(option, text, error)


def _not_words(option: str, text: str, error: Exception) -> NoReturn:
    invalid(option, text, f"not a JSON array of strings: {error}")


def _healthcheck(text: str | None) -> tuple[str, ...] | None:
    if not text:
        return None
    if text.upper() == "NONE":
        return ("NONE",)
    if not text.lstrip().startswith("["):
        return ("CMD-SHELL", text.strip())
    words = _json_words("--healthcheck", text)
    return words if words[:1] in (("CMD",), ("CMD-SHELL",), ("NONE",)) else ("CMD", *words)


def _times(options: dict[str, Any]) -> dict[str, int]:
    from arkwright.frontends.dockerfile.values import parse_duration

    found: dict[str, int] = {}
    for name, key in _TIMES.items():
        if options[name] is not None:
            try:
                found[key] = parse_duration(options[name])
            except ValueError as error:
                invalid(f"--{name.replace('_', '-')}", options[name], str(error))
            if found[key] < 0:
                invalid(f"--{name.replace('_', '-')}", options[name], "it is below zero")
    if options["healthcheck_retries"] is not None:
        found["Retries"] = options["healthcheck_retries"]
    return found


def _ports(option: str, text: str) -> list[str]:
    match = _PORT.fullmatch(text.lower())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    protocol = (match[3] or "tcp") if match else ""
    if not 1 <= first <= last <= 65535 or protocol not in _PROTOCOLS:
        invalid(option, text, "not a port", "write 80, 80/udp or 8000-8010")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def _absolute(option: str, text: str) -> str:
    # A drive letter is Windows' root.
    if not text.startswith("/") and not re.match(r"[A-Za-z]:[\\/]", text):
        invalid(option, text, "the path must be absolute")
    return text


def _time(text: str | None) -> str | None:
    if text is None:
        return None
    if text.isdecimal() and len(text) <= 11:
        from arkwright.oci.config import rfc3339

        return rfc3339(int(text))
    if not _TIME.fullmatch(text):
        invalid("--created", text, "write RFC 3339, such as 2024-05-01T12:00:00Z, or seconds since 1970")
    return text


def _platform(options: dict[str, Any], cleared: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for option, key in (("os_name", "os"), ("arch", "architecture")):
        if options[option] == "":
            invalid("--os" if key == "os" else "--arch", "''", "every image has one")
        if options[option]:
            found[key] = options[option].lower()
    for option, key, clear in (("variant", "variant", "variant"), ("os_version", "os.version", "os-version")):
        text = _text(options[option], clear, cleared)
        if text:
            found[key] = text
    return found
