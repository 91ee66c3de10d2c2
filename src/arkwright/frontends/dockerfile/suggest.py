"""Did you mean …?"""

from __future__ import annotations

from collections.abc import Iterable

from arkwright.diagnostics.suggest import nearest

# No name is longer; comparing long texts would cost their product.
_LIMIT = 80


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option that the word is most likely a slip of; None if none is, or if it is none at all."""
    if not word or len(word) > _LIMIT:
        return None
    return nearest(word, options)


def did_you_mean(word: str, options: Iterable[str]) -> str | None:
    """The hint's sentence, or None."""
    option = closest(word, options)
    return None if option is None else f'did you mean "{option}"?'
