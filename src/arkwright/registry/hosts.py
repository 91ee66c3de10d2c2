"""Which server a reference is fetched from: registries.conf (containers-registries.conf(5)), v2.

Read are `$CONTAINERS_REGISTRIES_CONF` (alone), else `~/.config/containers/registries.conf`, else
`/etc/containers/registries.conf`, and over it the `*.conf` files of `/etc/containers/` and
`~/.config/containers/registries.conf.d`, in order of their names. In a later file a `[[registry]]`
of the same prefix replaces the earlier one, an alias likewise.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError
from arkwright.diagnostics.wire import ready
from arkwright.net.proxy import is_loopback
from arkwright.oci.reference import DEFAULT_DOMAIN, Reference, is_short, parse_reference

_DOCKER_SERVER = "registry-1.docker.io"
_SYSTEM_PATH = "/etc/containers/registries.conf"
_FILE_LIMIT = 4 << 20
PullFrom = Literal["all", "digest-only", "tag-only"]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A server and the repository's path there.

    `host` has the port if it is not the default, `domain` is the registry's name for credentials.
    `verify` and `plain_http` say what the configuration allows on the way.
    """

    host: str
    repository: str
    domain: str
    verify: bool = True
    plain_http: bool = False
    mirror: bool = False


class Mirror(msgspec.Struct, frozen=True, rename="kebab"):
    """A `[[registry.mirror]]`."""

    location: str = ""
    insecure: bool = False
    pull_from_mirror: PullFrom | Literal[""] = ""


class Registry(msgspec.Struct, frozen=True, rename="kebab"):
    """A `[[registry]]`."""

    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirror: tuple[Mirror, ...] = ()


class _File(msgspec.Struct, rename="kebab"):
    unqualified_search_registries: tuple[str, ...] | None = None
    short_name_mode: str = ""
    registry: tuple[Registry, ...] = ()
    aliases: dict[str, str] = {}


ready(_File)


class RegistriesConfig:
    """The configuration, merged. Reads no file itself: see `load`."""

    def __init__(
        self,
        registries: Iterable[Registry] = (),
        *,
        search: tuple[str, ...] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._registries = {(one.prefix or one.location): one for one in registries}
        self._search = search
        self._aliases = dict(aliases or {})

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> RegistriesConfig:
        """Read the files that the environment names.

        Raises `UserError` `invalid-registries-conf`.
        """
        registries: dict[str, Registry] = {}
        search: tuple[str, ...] = ()
        aliases: dict[str, str] = {}
        for path in configuration_files(os.environ if env is None else env):
            file = _load(path)
            registries |= {(one.prefix or one.location): one for one in file.registry}
            search = (
                search if file.unqualified_search_registries is None else file.unqualified_search_registries
            )
            aliases |= file.aliases
        return cls(registries.values(), search=search, aliases=aliases)

    def qualify(self, text: str, *, default_tag: str = "latest") -> Reference:
        """Parse a reference; a short name goes through the aliases, then to the first of
        `unqualified-search-registries`, else to docker.io.

        Raises `UserError` `invalid-reference`.
        """
        reference = parse_reference(text, default_tag=default_tag)
        if not is_short(text):
            return reference
        short = reference.path.removeprefix("library/") if "/" not in text else reference.path
        full = self._aliases.get(short) or (f"{self._search[0]}/{short}" if self._search else "")
        if not full:
            return reference
        named = parse_reference(full, default_tag="")
        return Reference(named.domain, named.path, reference.tag, reference.digest)

    def endpoints(
        self, reference: Reference, *, push: bool = False, tls_verify: bool | None = None
    ) -> tuple[Endpoint, ...]:
        """Where to ask for the image, first to last: mirrors, then the registry itself.

        A push goes to the registry only. `tls_verify` overrides `insecure`, and `True` also the
        plain HTTP that loopback may speak.
        Raises `Denied` `registry-blocked`.
        """
        prefix, registry = self._match(reference)
        if registry is None:
            return (_endpoint(reference.domain, reference.path, False, tls_verify),)
        if registry.blocked:
            raise _blocked(reference, prefix)
        location = _rewrite(reference.name, prefix, registry.location)
        primary = _split(location, registry.insecure, tls_verify)
        if push:
            return (primary,)
        mirrors = [
            msgspec.structs.replace(
                _split(_rewrite(reference.name, prefix, one.location), one.insecure, tls_verify), mirror=True
            )
            for one in registry.mirror
            if one.location and _serves(one, registry, reference)
        ]
        return (*mirrors, primary)

    def _match(self, reference: Reference) -> tuple[str, Registry | None]:
        found = [prefix for prefix in self._registries if _covers(prefix, reference)]
        if not found:
            return "", None
        # A wildcard is less specific than every real prefix.
        best = max(found, key=lambda prefix: (not prefix.startswith("*."), len(prefix)))
        return best, self._registries[best]


def configuration_files(env: Mapping[str, str]) -> list[str]:
    """The files that exist and count, in the order in which they are merged."""
    if env.get("CONTAINERS_REGISTRIES_CONF"):
        return [env["CONTAINERS_REGISTRIES_CONF"]]
    home = env.get("HOME") or os.path.expanduser("~")
    config_path = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    own_path = os.path.join(config_path, "containers/registries.conf")
    base = [path for path in (own_path, _SYSTEM_PATH) if os.path.isfile(path)][:1]
    return base + [
        path for directory in (_SYSTEM_PATH + ".d", own_path + ".d") for path in _drop_ins(directory)
    ]


def _drop_ins(directory: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in names]


def _load(path: str) -> _File:
    try:
        with open(path, "rb") as file:
            fields: dict[str, Any] = tomllib.loads(file.read(_FILE_LIMIT).decode("utf-8"))
        if "registries" in fields:
            raise _invalid(path, "it has the old version 1; write [[registry]] tables")
        found = msgspec.convert(fields, _File)
    except OSError as error:
        raise _invalid(path, error.strerror or "unreadable") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise _invalid(path, str(error)) from error
    for one in found.registry:
        if not (one.prefix or one.location):
            raise _invalid(path, "a [[registry]] has neither prefix nor location")
    return found


def _covers(prefix: str, reference: Reference) -> bool:
    name = reference.name
    if prefix.startswith("*."):
        domain, _, path = prefix.partition("/")
        host = reference.domain.rpartition(":")[0] or reference.domain
        return host.endswith(domain[1:]) and (not path or f"{reference.path}/".startswith(f"{path}/"))
    full = str(reference)
    return prefix in (name, full) or (full.startswith(prefix) and full[len(prefix)] in "/:@")


def _rewrite(name: str, prefix: str, location: str) -> str:
    if not location or prefix.startswith("*."):
        return f"{location}/{name.partition('/')[2]}" if location else name
    return location + name[len(prefix) :]


def _serves(mirror: Mirror, registry: Registry, reference: Reference) -> bool:
    when = mirror.pull_from_mirror or ("digest-only" if registry.mirror_by_digest_only else "all")
    return when == "all" or (when == "digest-only") == bool(reference.digest)


def _split(location: str, insecure: bool, tls_verify: bool | None) -> Endpoint:
    domain, _, path = location.partition("/")
    return _endpoint(domain, path, insecure, tls_verify)


def _endpoint(domain: str, path: str, insecure: bool, tls_verify: bool | None) -> Endpoint:
    loose = insecure if tls_verify is None else not tls_verify
    return Endpoint(
        host=_DOCKER_SERVER if domain == DEFAULT_DOMAIN else domain,
        repository=path,
        domain=domain,
        verify=not loose,
        plain_http=loose or (tls_verify is None and is_loopback(_bare_host(domain))),
    )


def _bare_host(domain: str) -> str:
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def _blocked(reference: Reference, prefix: str) -> ArkwrightError:
    return Denied.of(
        "registry-blocked",
        f"registries.conf blocks {reference.name}",
        hint="its administrator has set `blocked = true`",
        details={"rule": f"registries.conf: prefix {prefix!r} is blocked", "evidence": str(reference)},
    )


def _invalid(path: str, why: str) -> ArkwrightError:
    return UserError.of("invalid-registries-conf", f"{path}: {why}")
