"""`arkwright policy`: rules for what may enter a build, tried out."""

from __future__ import annotations

from typing import Any

import click

from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, root_option, tls_option


@click.group(
    "policy",
    cls=Commands,
    short_help="Check rules for what may enter builds.",
    epilog="\b\nExample:\n  arkwright policy check policy.toml .\n",
)
def policy() -> None:
    """Check rules for what may enter builds."""


@policy.command(
    "check",
    cls=Arguments,
    short_help="Read a policy, and try it on a Dockerfile.",
    epilog="""\
\b
Examples:
  arkwright policy check policy.toml       # is it understood?
  arkwright policy check policy.toml .     # would it allow a build of every stage?
""",
)
@click.argument("policy_path", metavar="FILE")
@click.argument("context", metavar="[CONTEXT]", required=False)
@click.option("-f", "--file", "file", metavar="PATH", help="The Dockerfile. [default: CONTEXT/Dockerfile]")
@click.option(
    "--build-arg", multiple=True, metavar="NAME[=VALUE]", help="As for `build`, where names depend on it."
)
@click.option("--build-context", multiple=True, metavar="NAME=VALUE", help="As for `build`.")
@click.option("--platform", multiple=True, metavar="OS/ARCH,…", help="As for `build`.")
@tls_option()
@root_option
@click.pass_obj
def check(invocation: Invocation, /, policy_path: str, context: str | None, **options: Any) -> None:
    """Read a policy strictly, and with CONTEXT say whether it would allow a build of every stage of its
    Dockerfile. Nothing runs; of images only the documents are fetched, and their signatures.

    The exit status is 3 when it would not.
    """
    from arkwright.policy.load import load

    load(policy_path)
    if context is None:
        return
    from arkwright.build.locking import check_allowed
    from arkwright.build.request import BuildRequest
    from arkwright.build.session import SessionInputs
    from arkwright.cli import values
    from arkwright.cli.build_request import named_contexts, policies
    from arkwright.events.stream import EventStream

    request = BuildRequest(
        context=context,
        dockerfile=options["file"] or "",
        build_args=values.settings("--build-arg", options["build_arg"]),
        named_contexts=named_contexts(options["build_context"]),
        platforms=values.platforms(options["platform"]),
        policies=policies((policy_path,)),
        allow=("network.host", "security.insecure"),
    )
    session = SessionInputs(tls_verify=options["tls_verify"])
    check_allowed(request, session, EventStream("policy"), invocation.store_root(options["root_path"]))
