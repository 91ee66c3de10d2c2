"""Struct types made ready before threads read them.

msgspec learns a type at its first use. A thread that decodes the same type while another one is at
that reads what is half-made, which crashes the process (msgspec 0.22). Importing a module is done
by one thread, and the others wait: so types that threads decode are learned there.
"""

from __future__ import annotations

import msgspec


def ready(*kinds: type) -> None:
    """Let msgspec learn types now, with those of their fields."""
    for kind in kinds:
        msgspec.json.Decoder(kind)
