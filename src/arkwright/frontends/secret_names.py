"""Which names of variables are names of secrets."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|passwd|pword|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name probably holds a secret (`NPM_TOKEN`, not `TOKEN_FILE`)."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)
