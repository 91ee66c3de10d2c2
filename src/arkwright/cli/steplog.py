"""Output of steps as lines, made safe for a terminal where that is asked for."""

from __future__ import annotations

import codecs
import re

from arkwright.diagnostics.cells import escape

# CSI and OSC/DCS/APC/PM/SOS strings (ECMA-48), then any two-character escape.
_SEQUENCE = (
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
_TAB = " " * 8
# A line without an end is shown in pieces of this many characters.
_LONGEST = 64 << 10


def neutralise(line: str) -> str:
    """The line as it may be sent to a terminal: escape sequences removed, what a carriage return
    overwrote left out, and any other control character shown escaped."""
    line = line.rstrip("\r").rpartition("\r")[2]
    return escape(re.sub(_SEQUENCE, "", line).replace("\t", _TAB))


class Lines:
    """Cuts a stream of bytes into lines of text; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        while len(self._rest) > _LONGEST:
            lines.append(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        return [line.removesuffix("\r") for line in lines]

    def finish(self) -> list[str]:
        """What is left when the stream ends, as a line, if anything is."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        return [rest] if rest else []
