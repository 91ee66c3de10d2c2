"""Authorization at one registry: challenges, basic, and the token server's dance.

Sources: RFC 9110 section 11 (challenges), the distribution project's "Token Authentication" and
"OAuth2 Token Authentication" specifications. Tokens are kept in memory only, per set of scopes.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlencode, urlsplit

import msgspec

from arkwright.diagnostics.errors import RemoteError
from arkwright.diagnostics.wire import ready
from arkwright.net.credentials import Credential
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.net.retry import Clock, RetryPolicy
from arkwright.net.transport import Transport
from arkwright.registry.errors import from_response

_CLIENT_ID = "arkwright"
_LIFETIME_S = 60.0  # the token specification's default for an absent `expires_in`
_MARGIN = 0.1  # a token is renewed when this part of its life is left
_ANSWER_LIMIT = 1 << 20
_SEPARATORS = " \t,"

Scopes = tuple[str, ...]


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of `WWW-Authenticate`; scheme and parameter names in lower case."""

    scheme: str
    params: dict[str, str]


class Token(msgspec.Struct, frozen=True):
    """A bearer token; `expires_s` on the monotonic clock."""

    value: str
    expires_s: float

    def __repr__(self) -> str:
        return "Token(hidden)"


class _Answer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


ready(_Answer)


def parse_challenges(values: Sequence[str]) -> tuple[Challenge, ...]:
    """The challenges of all `WWW-Authenticate` headers; what is malformed is skipped."""
    return tuple(challenge for value in values for challenge in _parse_header(value))


def _parse_header(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(text):
        if text[at] in _SEPARATORS:
            at += 1
            continue
        word, at = _word(text, at)
        if not word:
            at += 1
            continue
        after = _skip_blanks(text, at)
        if text[after : after + 1] == "=" and found:
            value, at = _value(text, _skip_blanks(text, after + 1))
            found[-1].params.setdefault(word.lower(), value)
        else:
            found.append(Challenge(word.lower(), {}))
    return found


def _word(text: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(text) and (text[end].isalnum() or text[end] in "!#$%&'*+-.^_`|~"):
        end += 1
    return text[at:end], end


def _value(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        end = at
        while end < len(text) and text[end] not in _SEPARATORS:
            end += 1
        return text[at:end], end
    letters, at = [], at + 1
    while at < len(text) and text[at] != '"':
        at += text[at] == "\\" and at + 1 < len(text)
        letters.append(text[at])
        at += 1
    return "".join(letters), at + 1


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t":
        at += 1
    return at


def repository_scope(repository: str, *actions: str) -> str:
    """The scope of a repository, such as `repository:library/debian:pull`."""
    return f"repository:{repository}:{','.join(actions)}"


class Authorizer:
    """Makes `Authorization` headers for one registry. Thread-safe.

    `credential` is asked when a challenge is there, with the repository's path; never before, as a
    credential helper may ask the user.
    """

    def __init__(
        self,
        transport: Transport,
        credential: Callable[[str], Credential | None],
        *,
        policy: RetryPolicy,
        clock: Clock,
        verify: bool = True,
    ) -> None:
        self._transport = transport
        self._credential = credential
        self._policy = policy
        self._clock = clock
        self._verify = verify
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._secure = True
        self._tokens: dict[Scopes, Token] = {}
        self._extra: dict[Scopes, set[str]] = {}

    def learn(self, response: Response) -> None:
        """Remember how the registry wants to be asked; bearer is preferred to basic."""
        challenges = parse_challenges(
            [str(value) for value in response.headers.get_all("WWW-Authenticate", [])]
        )
        known = [one for scheme in ("bearer", "basic") for one in challenges if one.scheme == scheme]
        if known:
            with self._lock:
                self._challenge = known[0]
                self._secure = response.url.startswith("https:")

    def header(self, scopes: Scopes) -> str:
        """The header's value for requests in these scopes, "" for none.

        Raises `RemoteError` `registry-denied` and whatever the token server failed with.
        """
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return ""
            if challenge.scheme == "basic":
                return _basic(self._credential(_repository(scopes)))
            token = self._tokens.get(scopes)
            if token is None or token.expires_s <= self._clock.monotonic():
                token = self._fetch(challenge, scopes)
                self._tokens[scopes] = token
            return f"Bearer {token.value}"

    def refused(self, scopes: Scopes, used: str, response: Response) -> bool:
        """Take note of a 401 for a request that carried `used`; whether another try makes sense.

        It does when the token can be a new one, has to be for more than we asked, or was missing.
        """
        self.learn(response)
        with self._lock:
            challenge = self._challenge
            if challenge is None or (challenge.scheme == "basic" and used.startswith("Basic ")):
                return False
            if challenge.scheme == "bearer":
                wanted = set(challenge.params.get("scope", "").split())
                self._extra.setdefault(scopes, set()).update(wanted - set(scopes))
                token = self._tokens.get(scopes)
                if token is not None and used == f"Bearer {token.value}":
                    del self._tokens[scopes]
            return True

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> Token:
        realm = challenge.params.get("realm", "")
        if _scheme(realm) not in (("https",) if self._secure else ("https", "http")):
            raise remote_error(
                "registry-denied",
                "the registry names a token server that is not https",
                method="GET", url=realm, retryable=False,
            )  # fmt: skip
        wanted = [*scopes, *sorted(self._extra.get(scopes, ()))]
        credential = self._credential(_repository(scopes))
        service = challenge.params.get("service", "")
        started_s = self._clock.monotonic()
        if credential is not None and credential.identity_token:
            response = self._post(realm, service, wanted, credential.identity_token)
        else:
            response = self._get(realm, service, wanted, credential)
        return self._read(response, started_s)

    def _get(
        self, realm: str, service: str, scopes: Sequence[str], credential: Credential | None
    ) -> Response:
        fields = [("service", service)] if service else []
        if credential is not None and credential.username:
            fields.append(("account", credential.username))
        query = urlencode([*fields, *(("scope", scope) for scope in scopes)], safe=":,/")
        url = f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
        authorization = _basic(credential)
        headers = {"Authorization": authorization} if authorization else {}
        return self._transport.request("GET", url, headers=headers, verify=self._verify)

    def _post(self, realm: str, service: str, scopes: Sequence[str], identity_token: str) -> Response:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT_ID,
            "scope": " ".join(scopes),
            "refresh_token": identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._transport.request(
            "POST", realm, headers=headers, body=urlencode(form).encode(), verify=self._verify
        )

    def _read(self, response: Response, started_s: float) -> Token:
        if response.status != 200:
            raise from_response(response, "a token for the registry", self._policy, self._clock)
        with response:
            data = response.read(_ANSWER_LIMIT)
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            answer = _Answer()
        value = answer.token or answer.access_token or ""
        if not value or not value.isascii() or not value.isprintable():
            # No chain: the decoder's message may quote the token.
            raise _unusable(response)
        life_s = answer.expires_in if answer.expires_in and answer.expires_in > 0 else _LIFETIME_S
        return Token(value, started_s + life_s * (1 - _MARGIN))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def _repository(scopes: Scopes) -> str:
    """The repository of the first scope, for which credentials are looked up."""
    return scopes[0].split(":")[1] if scopes and scopes[0].startswith("repository:") else ""


def _basic(credential: Credential | None) -> str:
    if credential is None or not credential.password:
        return ""
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _unusable(response: Response) -> RemoteError:
    return remote_error(
        "registry-error",
        "the registry's token server sent no usable token",
        method=response.method,
        url=response.url,
        retryable=False,
        status=response.status,
    )
