"""`--progress=rawjson`: the events themselves, one JSON object per line.

The lines are those of the build's journal (see `events.journal` and `events.types`): the key
`event` names the kind and comes first; `vertex` is a vertex digest; `at` is wall time and `mono`
the monotonic clock, in nanoseconds; `data` of a log event is base64; keys with their default value
are left out.
"""

from __future__ import annotations

from typing import IO

import msgspec

from arkwright.events.types import AnyEvent


class RawJsonProgress:
    """Writes each event as it comes."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._encoder = msgspec.json.Encoder()

    def __call__(self, event: AnyEvent) -> None:
        self._out.write(self._encoder.encode(event).decode() + "\n")
        self._out.flush()

    def finish(self) -> None:
        """Nothing is pending between events."""
