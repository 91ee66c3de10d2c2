"""Amounts as people read them."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """Bytes in decimal units, as docker shows them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1000
    return f"{size:.1f}TB"
