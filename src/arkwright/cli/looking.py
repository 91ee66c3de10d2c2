"""What the commands that look into images share: options, the store, images from any place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from arkwright.cli.images import from_elsewhere, open_store, platform_option, wanted
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import root_option, switch, tls_option
from arkwright.diagnostics.errors import UsageError, UserError

if TYPE_CHECKING:
    from arkwright.images.opened import OpenedImage
    from arkwright.images.places import Place
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def look_options(command: Decorated) -> Decorated:
    """`--platform`, `--tls-verify` and `--root`."""
    decorated: Decorated = platform_option(tls_option()(root_option(command)))
    return decorated


class Looking:
    """An open store, and the images that a command looks at."""

    def __init__(self, store: Store, stack: ExitStack, tls_verify: bool | None) -> None:
        self.store = store
        self._stack = stack
        self._tls_verify = tls_verify
        self._access: Access | None = None

    def access(self, text: str) -> Access | None:
        """What conversations with registries share; None for a place that is none."""
        if not text.startswith("docker://"):
            return None
        if self._access is None:
            from arkwright.registry.access import Access

            self._access = self._stack.enter_context(Access(tls_verify=self._tls_verify))
        return self._access

    def place(self, text: str) -> Place:
        from arkwright.images.places import parse_place

        return parse_place(text)

    def documents(self, text: str, platform: str | None) -> OpenedImage:
        """The documents of an image, without its layers."""
        from arkwright.images.opened import open_documents

        return open_documents(self.store, self.place(text), wanted(platform), access=self.access(text))

    def image(self, text: str, platform: str | None) -> OpenedImage:
        """An image with its layers."""
        from arkwright.images.opened import open_image

        place = self.place(text)
        if place.transport == "store":
            return open_image(self.store, place, wanted(platform))
        from arkwright.cli.transfer import shown

        with shown(f"fetch {text}", quiet=not sys.stderr.isatty()) as progress:
            return open_image(
                self.store, place, wanted(platform), access=self.access(text), progress=progress
            )


@contextmanager
def looking(
    invocation: Invocation, root_path: str | None, tls_verify: bool | None, *texts: str
) -> Iterator[Looking]:
    """The store, open for the body. What comes from elsewhere counts towards the quota."""
    with ExitStack() as stack:
        if from_elsewhere(*texts):
            from arkwright.build.upkeep import quota_kept

            stack.enter_context(quota_kept(invocation.store_root(root_path)))
        store = stack.enter_context(open_store(invocation, root_path))
        yield Looking(store, stack, tls_verify)


@contextmanager
def trouble() -> Iterator[None]:
    """As of diff(1): status 1 says that something was found, so what goes wrong has 2."""
    try:
        yield
    except UserError as error:
        raise UsageError(*error.diagnostics, details=error.details) from error


def json_options(command: Decorated) -> Decorated:
    """`--json` and `--format`, as `as_json` and `form`."""
    command = switch("--json", "as_json", help="Print JSON; short for --format json.")(command)
    return click.option(
        "--format", "form", metavar="json|FIELD.PATH",
        help="JSON, or one field of it by its path; list items by number. Text is printed bare.",
    )(command)  # fmt: skip


def plain_text(text: str) -> str:
    """A text from an image that JSON can hold: bytes that are not UTF-8 as `\\xNN`."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shown_text(text: str) -> str:
    """A text from an image that is safe to print on a terminal, as one line."""
    if text.isascii() and text.isprintable():
        return text
    from arkwright.diagnostics.cells import escape

    return escape(plain_text(text)).replace("\n", "\\x0a").replace("\t", "\\x09")
