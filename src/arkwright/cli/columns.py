"""Tables for people: rows whose cells stand below each other."""

from __future__ import annotations

from collections.abc import Container, Sequence


def columns(rows: Sequence[Sequence[str]], *, right: Container[int] = (), gap: str = "  ") -> str:
    """Rows of equal length as aligned lines; the columns with numbers in `right` end below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row[:-1], widths, strict=False))
        ]
        lines.append(gap.join([*cells, row[-1]]) if row[-1] else gap.join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)
