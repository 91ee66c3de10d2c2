"""Proxies from the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, either case.

As curl and Go's net/http do: lower case wins; loopback hosts are never proxied; NO_PROXY is `*` or
a comma-separated list of domains (which cover their subdomains), addresses and CIDR blocks, each
with an optional port. Only `http://` proxies are supported.
"""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from arkwright.diagnostics.errors import UserError


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy; `authorization` is a header's value, or ""."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy(host={self.host!r}, port={self.port})"


def is_loopback(host: str) -> bool:
    """Whether a host name or address (IPv6 without brackets) is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(scheme: str, host: str, port: int, env: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for requests to that origin. Raises `UserError` `unsupported-proxy`."""
    env = os.environ if env is None else env
    text = _variable(env, f"{scheme}_proxy") or _variable(env, "all_proxy")
    if not text or is_loopback(host) or _excluded(host, port, _variable(env, "no_proxy")):
        return None
    return _parse(text, f"{scheme.upper()}_PROXY")


def _variable(env: Mapping[str, str], name: str) -> str:
    # A CGI server sets HTTP_PROXY from a request's `Proxy` header.
    if name == "http_proxy" and "REQUEST_METHOD" in env:
        return env.get(name, "")
    return env.get(name) or env.get(name.upper()) or ""


def _parse(text: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as error:
        raise UserError.of("unsupported-proxy", f"{variable} is not a URL of a proxy") from error
    if parts.scheme != "http" or not host:
        raise UserError.of(
            "unsupported-proxy",
            f"{variable} names a proxy that is not http://host:port",
            hint="only HTTP proxies are supported, also for https:// requests (by CONNECT)",
        )
    if parts.username is None:
        return Proxy(host, port)
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port, "Basic " + base64.b64encode(pair.encode()).decode())


def _excluded(host: str, port: int, no_proxy: str) -> bool:
    return any(
        _covers(item.strip().lower(), host.lower(), port) for item in no_proxy.split(",") if item.strip()
    )


def _covers(item: str, host: str, port: int) -> bool:
    if item == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        pass
    name, colon, number = item.rpartition(":")
    if colon and number.isdigit():
        if int(number) != port:
            return False
        item = name.strip("[]")
    item = item.removeprefix("*").removeprefix(".")
    return host == item or host.endswith("." + item)
