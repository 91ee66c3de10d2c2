"""The front ends that Arkwright brings: a static table, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from typing import cast

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.base import Frontend

BUILT_IN = {
    "dockerfile": "arkwright.frontends.dockerfile.build:build",
}


def load(name: str) -> Frontend:
    """The front end of that name.

    Raises `UserError` `unknown-frontend`.
    """
    place = BUILT_IN.get(name)
    if place is None:
        raise UserError.of(
            "unknown-frontend", f"there is no front end {name!r}", hint=f"known are: {', '.join(BUILT_IN)}"
        )
    module, _, attribute = place.partition(":")
    return cast(Frontend, getattr(importlib.import_module(module), attribute))
