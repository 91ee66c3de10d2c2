"""TLS contexts: which certificates a server must show, and which we show to it.

Trusted are the system's CAs (SSL_CERT_FILE and SSL_CERT_DIR replace them, as in OpenSSL) and, per
host, the `*.crt` files of `<directory>/<host>[:<port>]/`, where `directory` is one of
`CERTIFICATE_DIRECTORIES`; a pair `<name>.cert` (or `.crt`) and `<name>.key` there is our own
certificate (containers-certs.d(5), docker's "Verify repository client with certificates").
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial

from arkwright.diagnostics.errors import UserError

CERTIFICATE_DIRECTORIES = (
    "~/.config/containers/certs.d",
    "~/.config/docker/certs.d",
    "~/.docker/certs.d",
    "/etc/containers/certs.d",
    "/etc/docker/certs.d",
)


class TlsContexts:
    """Makes and keeps one `ssl.SSLContext` per host and strictness. Thread-safe.

    `directories` are searched in order, and all of them count.
    """

    def __init__(self, directories: Sequence[str] = CERTIFICATE_DIRECTORIES) -> None:
        self._directories = tuple(os.path.expanduser(path) for path in directories)
        self._lock = threading.Lock()
        self._contexts: dict[tuple[str, int, bool], ssl.SSLContext] = {}

    def get(self, host: str, port: int, *, verify: bool = True) -> ssl.SSLContext:
        """The context for one host.

        Raises `UserError` `invalid-certificate` for a file that cannot be loaded.
        """
        with self._lock:
            context = self._contexts.get((host, port, verify))
            if context is None:
                context = self._make(host, port, verify)
                self._contexts[host, port, verify] = context
            return context

    def _make(self, host: str, port: int, verify: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # HTTP/2 is not spoken here; a server that could choose must choose 1.1.
        context.set_alpn_protocols(["http/1.1"])
        if verify:
            _load_system(context)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for directory in self._host_directories(host, port):
            _load_directory(context, directory)
        return context

    def _host_directories(self, host: str, port: int) -> list[str]:
        # The port is part of the directory's name only where the reference writes it.
        names = [f"{host}:{port}"] + ([host] if port in (443, 80) else [])
        places = [os.path.join(base, name) for base in self._directories for name in names]
        return [path for path in places if os.path.isdir(path)]


def server_side(certificate_path: str, key_path: str) -> Callable[[socket.socket], socket.socket]:
    """What makes TLS of a connection to a server of ours, which shows a certificate with its chain; it
    and its key are in PEM form.

    Raises `UserError` `invalid-certificate`; the result raises `OSError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_client(context, certificate_path, key_path)
    return partial(context.wrap_socket, server_side=True)


def _load_system(context: ssl.SSLContext) -> None:
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle:
        # OpenSSL ignores a file that it cannot read, and every server would be "not trusted".
        _load_authorities(context, bundle)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _load_directory(context: ssl.SSLContext, directory: str) -> None:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise _invalid(directory, error) from error
    keys = {name.removesuffix(".key") for name in names if name.endswith(".key")}
    for name in names:
        stem, path = os.path.splitext(name)[0], os.path.join(directory, name)
        if name.endswith((".cert", ".crt")) and stem in keys:
            _load_client(context, path, os.path.join(directory, stem + ".key"))
        elif name.endswith(".crt"):
            _load_authorities(context, path)


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise _invalid(path, error) from error


def _load_client(context: ssl.SSLContext, certificate_path: str, key_path: str) -> None:
    def refuse() -> str:
        raise UserError.of(
            "invalid-certificate", f"the key {key_path} needs a passphrase, which is not supported"
        )

    try:
        context.load_cert_chain(certificate_path, key_path, password=refuse)
    except (OSError, ssl.SSLError) as error:
        raise _invalid(certificate_path, error) from error


def _invalid(path: str, error: Exception) -> Exception:
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    if isinstance(error, ssl.SSLError):
        why = error.reason or "not PEM"
    return UserError.of(
        "invalid-certificate",
        f"cannot load the certificate {path}: {why}",
        hint="it must be readable, and in PEM form",
    )
