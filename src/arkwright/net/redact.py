"""URLs as they may be shown: in errors, logs and provenance."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_SHOWN = 300
_HIDDEN = "…"
# Upload locations and signed storage links carry their secrets in the query's values.
_PLAIN = frozenset({"digest", "mount", "from", "n", "last", "service", "scope"})
_USERINFO = re.compile(r"(?<=//)[^/?#@\s]*@")


def redact_url(url: str) -> str:
    """The URL without userinfo, fragment and the values of query fields that may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _USERINFO.sub("", url.partition("?")[0])[:_SHOWN]
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(_field(field) for field in parts.query.split("&")) if parts.query else ""
    shown = urlunsplit((parts.scheme, host, parts.path, query, ""))
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + _HIDDEN


def _field(field: str) -> str:
    name, equals, _ = field.partition("=")
    return field if name in _PLAIN or not equals else f"{name}={_HIDDEN}"
