"""`--progress=quiet` and `none`: nothing is shown while the build runs."""

from __future__ import annotations

from arkwright.events.types import AnyEvent


class QuietProgress:
    """Sees the events and shows none; errors are reported by the program's end."""

    def __call__(self, event: AnyEvent) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Nothing is pending."""
