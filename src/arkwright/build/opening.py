"""The gate of a request: its policies and its lock file, read before anything else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from arkwright.build.contexts import MAIN, Contexts
from arkwright.build.gate import Gate
from arkwright.build.locks import lock_place, read_lock
from arkwright.build.means import Means
from arkwright.build.policing import check_file, check_request
from arkwright.build.request import BuildRequest
from arkwright.build.signatures import SignatureCheck
from arkwright.diagnostics.errors import Diagnostic, UserError
from arkwright.frontends.secret_names import is_secret_name

if TYPE_CHECKING:
    from arkwright.policy.lock import Locked, Name
    from arkwright.policy.model import Policy

_SYNTAX = "BUILDKIT_SYNTAX"


def policies_of(request: BuildRequest) -> tuple[Policy, ...]:
    """Raises what `policy.load.load` raises."""
    if not request.policies:
        return ()
    from arkwright.policy.load import load

    return tuple(map(load, dict.fromkeys(request.policies)))


def open_gate(
    request: BuildRequest,
    means: Means,
    warn: Callable[[Diagnostic], None],
    known: dict[Name, Locked] | None = None,
    fresh: Callable[[Name], bool] | None = None,
) -> Gate:
    """Put a gate before the sources of a build. `fresh` is given by who makes a lock, together with the
    one that is `known`.

    Raises `UserError` `missing-lock` and as `policies_of` and `read_lock`; `Denied` `policy-refused`.
    """
    policies = policies_of(request)
    check_request(policies, request)
    gate = Gate(
        policies,
        SignatureCheck(means.store, tls_verify=means.tls_verify),
        warn,
        must=request.lock == "must",
        recording=fresh is not None,
        fresh=fresh or (lambda name: False),
        hidden=[value for name, value in request.build_args.items() if value and is_secret_name(name)],
    )
    if fresh is not None:
        gate.lock = known or {}
    elif request.lock != "ignore" and (request.lock_file or os.path.isdir(request.context)):
        _find_lock(gate, request, "")
    # Without rules and without a lock nobody has to be asked.
    if policies or gate.lock is not None or not os.path.isdir(request.context):
        means.door = gate
    return gate


def check_contexts(gate: Gate, request: BuildRequest, contexts: Contexts) -> None:
    """Look at what the contexts brought: the Dockerfile, and the lock of a context from elsewhere.

    Raises as `open_gate`, and `UserError` `lock-drift`.
    """
    if gate.lock is None and request.lock != "ignore" and not gate.recording:
        _find_lock(gate, request, contexts.trees[MAIN].root)
    gate.check_frontend(contexts.dockerfile, request.build_args.get(_SYNTAX, ""))
    check_file(
        gate.policies, contexts.dockerfile, contexts.dockerfile_path, request.build_args.get(_SYNTAX, "")
    )


def _find_lock(gate: Gate, request: BuildRequest, root: str) -> None:
    place = lock_place(request, root)
    gate.lock = read_lock(place)
    if gate.lock is None and request.lock == "must":
        raise UserError.of(
            "missing-lock", f"there is no lock file {place}".rstrip(),
            hint="`arkwright lock` makes one beside the Dockerfile, and --lock-file names another",
        )  # fmt: skip
