"""What the token server is asked, for those who are logged in."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from registry_images import Authority, failure, noise

from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry.access import Access
from arkwright.registry.client import open_registries
from arkwright.registry.pull import fetch_blob
from arkwright.store.store import Store
from loopback_server import Exchange, LoopbackRegistry, open_access

SECRET = "hunter2-secret"


def access_with(at: Path, server: LoopbackRegistry, entry: dict[str, Any], **more: Any) -> Access:
    file = at / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: entry}}))
    return open_access(env={"REGISTRY_AUTH_FILE": str(file)}, **more)


def fetch(server: LoopbackRegistry, store: Store, access: Access) -> None:
    data = noise(1000)
    wanted = Descriptor(media_type="text/plain", digest=server.add_blob(data), size=len(data))
    with access:
        fetch_blob(open_registries(access, parse_reference(f"{server.host}/app")), wanted, store.content)
    assert store.content.read(wanted.digest) == data


def test_a_password_goes_to_the_token_server_only(
    server: LoopbackRegistry, store: Store, tmp_path: Path
) -> None:
    server.guarded = True
    login = {"auth": base64.b64encode(f"alice:{SECRET}".encode()).decode()}
    fetch(server, store, access_with(tmp_path, server, login))
    (asked,) = server.requests("GET", "^/token")
    assert asked.headers["Authorization"] == f"Basic {login['auth']}"
    assert parse_qs(urlsplit(asked.path).query) == {
        "service": ["test"], "account": ["alice"], "scope": ["repository:app:pull"],
    }  # fmt: skip
    assert [one.headers["Authorization"] for one in server.requests("GET", "/blobs/")] == ["Bearer token-1"]


def test_an_identity_token_is_exchanged(server: LoopbackRegistry, store: Store, tmp_path: Path) -> None:
    server.guarded = True
    forms: list[dict[str, list[str]]] = []

    def exchange_token(exchange: Exchange) -> None:
        forms.append(parse_qs(exchange.read_body().decode()))
        server.tokens.add("exchanged")
        exchange.reply(200, b'{"access_token":"exchanged","expires_in":300}')

    server.on("POST", "^/token$", exchange_token)
    fetch(server, store, access_with(tmp_path, server, {"identitytoken": SECRET}))
    assert forms == [
        {
            "grant_type": ["refresh_token"], "service": ["test"], "client_id": ["arkwright"],
            "scope": ["repository:app:pull"], "refresh_token": [SECRET],
        }
    ]  # fmt: skip
    assert server.requests("GET", "^/token") == []
    assert not [one for one in server.requests() if SECRET in one.path + str(one.headers)]


def test_a_refused_login_is_denied_without_its_secret(
    server: LoopbackRegistry, store: Store, tmp_path: Path
) -> None:
    server.guarded = True
    server.on("POST", "^/token$", lambda exchange: exchange.reply(401))
    error = failure(
        "registry-denied",
        lambda: fetch(server, store, access_with(tmp_path, server, {"identitytoken": SECRET})),
    )
    assert SECRET not in f"{error!r} {error.diagnostics} {error.details}"


def test_an_https_registry_may_not_name_a_plain_token_server(
    authority: Authority, store: Store, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate_path, authority.key_path)
    with LoopbackRegistry() as plain, LoopbackRegistry(context) as server:
        challenge = f'Bearer realm="{plain.url}/token",service="test"'
        server.on("GET", "^/v2/", lambda exchange: exchange.reply(401, WWW_Authenticate=challenge), times=99)
        access = access_with(tmp_path, server, {"identitytoken": SECRET}, tls_verify=False)
        failure("registry-denied", lambda: fetch(server, store, access))
        assert plain.requests() == []
