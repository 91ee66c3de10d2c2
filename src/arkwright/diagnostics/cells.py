"""Text as terminal cells: how wide a character is, and what stands for one that must not be sent.

Widths follow Unicode's East Asian Width (UAX #11; ambiguous counts as narrow). Characters that
move the cursor, change direction or are invisible are shown escaped, so that a quoted line can
neither drive the terminal nor look like another line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

TAB_STOP = 4


def shown(char: str) -> str:
    """What stands for one character: itself, or an escape such as `\\x1b` or `<U+202E>`.

    A tab is shown as itself; its width depends on its place (see `layout`).
    """
    if char == "\t" or " " <= char <= "~":
        return char
    code = ord(char)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    if unicodedata.category(char) in ("Cf", "Zl", "Zp", "Cs"):
        return f"<U+{code:04X}>"
    return char


def width(char: str) -> int:
    """Cells of one character that `shown` lets through: 0, 1 or 2."""
    if char <= "~":
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """Cells of a text without tabs and control characters."""
    return sum(width(char) for char in text)


def layout(line: str) -> Iterator[tuple[str, int]]:
    """For each character of a line: the text that is printed for it, and the cells it takes."""
    column = 0
    for char in line:
        if char == "\t":
            cells = TAB_STOP - column % TAB_STOP
            text = " " * cells
        else:
            text = shown(char)
            cells = width(char) if text == char else len(text)
        column += cells
        yield text, cells


def escape(text: str) -> str:
    """The text with every character that could drive a terminal escaped; line ends stay."""
    return "".join(char if char == "\n" else shown(char) for char in text)
