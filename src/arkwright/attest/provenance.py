"""SLSA provenance (slsa.dev/spec/v1.0/provenance) of what a build observed.

The parameters are laid out as BuildKit does for its provenance of version 1, so that policies which read
those find them here. `min` leaves out what may be private, as there: build arguments, labels, secrets, agents,
names of steps, the Dockerfile's text and the graph.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from arkwright.attest.statement import ResourceDescriptor, Statement, digest_set

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPES = "https://arkwright.invalid/build-types/"
LOCAL_BUILDER = "https://arkwright.invalid/builders/local"
# What a tree digest is called among the algorithms of a digest set: what was read of a context, by names,
# types, modes, link targets and content.
TREE = "arkwrightTree1"

Mode = Literal["min", "max"]
Reason = Literal["network", "cache-mount", "insecure"]


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One vertex. `cached` says that its result was there already. `kind` is that of its op; `network`, `secrets` and the rest belong to those that run a command.
    `tier` is its isolation in this build, `origin` the remote cache that it came from."""

    vertex: str
    name: str = ""
    kind: str = ""
    inputs: tuple[str, ...] = ()
    cached: bool = False
    origin: str = ""
    tier: str = ""
    network: str = ""
    insecure: bool = False
    cache_mounts: bool = False
    secrets: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()

    def gaps(self) -> tuple[Reason, ...]:
        """Why what it used is not all known."""
        found: tuple[tuple[Reason, bool], ...] = (
            ("network", self.network not in ("", "none")),
            ("cache-mount", self.cache_mounts),
            ("insecure", self.insecure),
        )
        return tuple(reason for reason, is_so in found if is_so)


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One target's image: every digest that an output gave it (they differ by compression), the first one
    first."""

    target: str = ""
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class BuildFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a build at its end. Nothing secret is in it.

    `args` are request parameters as BuildKit names them (`build-arg:NAME`, `label:NAME`, `target`, …);
    `hidden` says that values were left out. `context_uri` and `context_digest` are of a context from elsewhere.
    `dockerfile` is the text; `frontend` is `container` when commands made a working container instead. `sources` are pinned sources and contexts. `epoch` is in seconds, `started` and
    `finished` in nanoseconds since 1970. `recipe` is what builds the same again (see `build.recipe`); `hidden_args` are
    build arguments whose values it lacks.
    """

    build: str
    frontend: Literal["dockerfile", "container"] = "dockerfile"
    mode: Mode = "min"
    builder: str = LOCAL_BUILDER
    started: int = 0
    finished: int = 0
    images: tuple[Image, ...] = ()
    context_uri: str = ""
    context_digest: str = ""
    dockerfile_path: str = ""
    dockerfile: str = ""
    dockerfile_digest: str = ""
    args: dict[str, str] = {}
    hidden: bool = False
    contexts: tuple[str, ...] = ()
    sources: tuple[ResourceDescriptor, ...] = ()
    steps: tuple[Step, ...] = ()
    platform: str = ""
    epoch: int = 0
    profile: str = ""
    versions: dict[str, str] = {}
    recipe: dict[str, Any] = {}
    hidden_args: tuple[str, ...] = ()

    def digests(self) -> tuple[str, ...]:
        """Of all images, each once."""
        return tuple(dict.fromkeys(digest for image in self.images for digest in image.digests))


def statement(facts: BuildFacts, subjects: Sequence[str], mode: Mode) -> Statement:
    """What is claimed of images, by digest. `subjects` must not be empty."""
    names = {digest: name for image in facts.images for digest in image.digests for name in image.names[:1]}
    return Statement(
        subject=tuple(
            ResourceDescriptor(name=names.get(digest, ""), digest=digest_set(digest)) for digest in subjects
        ),
        predicate_type=PREDICATE,
        predicate=predicate(facts, mode),
    )


def predicate(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    """The predicate: the same facts give the same one."""
    return {
        "buildDefinition": {
            "buildType": f"{BUILD_TYPES}{facts.frontend}/v1",
            "externalParameters": {
                "configSource": _filled(
                    uri=facts.context_uri,
                    digest=digest_set(facts.context_digest) if facts.context_digest else {},
                    path=facts.dockerfile_path,
                ),
                "request": _request(facts, mode),
            },
            "internalParameters": _internal(facts, mode),
            "resolvedDependencies": [
                msgspec.to_builtins(one) for one in (*_dockerfile(facts, mode), *facts.sources)
            ],
        },
        "runDetails": {
            "builder": {"id": facts.builder, "version": facts.versions},
            "metadata": {
                "invocationId": facts.build,
                "startedOn": _moment(facts.started),
                "finishedOn": _moment(facts.finished),
            },
        },
    }


def _request(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    secrets = sorted({one for step in facts.steps for one in step.secrets})
    agents = sorted({one for step in facts.steps for one in step.ssh})
    private = ("build-arg:", "label:") if mode == "min" else ()
    return _filled(
        frontend=facts.frontend,
        args={name: value for name, value in facts.args.items() if not name.startswith(private)},
        secrets=[{"id": one} for one in secrets if mode == "max"],
        ssh=[{"id": one} for one in agents if mode == "max"],
        locals=[{"name": name} for name in facts.contexts],
    )


def _internal(facts: BuildFacts, mode: Mode) -> dict[str, Any]:
    gaps = [
        _filled(reason=reason, step=step.vertex, name=step.name if mode == "max" else "",
                network=step.network if reason == "network" else "")
        for step in facts.steps for reason in step.gaps()
    ]  # fmt: skip
    found: dict[str, Any] = {
        "builderPlatform": facts.platform,
        "epoch": facts.epoch,
        "compression": facts.profile,
        "isolation": sorted({step.tier for step in facts.steps if step.tier}),
        "hermetic": not gaps,
        "gaps": gaps,
        "completeness": {
            "request": mode == "max" and not facts.hidden,
            "resolvedDependencies": not gaps,
        },
    }
    if mode == "max":
        found["buildConfig"] = {"steps": [msgspec.to_builtins(step) for step in facts.steps]}
        found["recipe"] = {**facts.recipe, "hiddenArgs": list(facts.hidden_args)}
    return found


def _dockerfile(facts: BuildFacts, mode: Mode) -> tuple[ResourceDescriptor, ...]:
    if not facts.dockerfile_digest:
        return ()
    import base64

    text = base64.b64encode(facts.dockerfile.encode()).decode() if mode == "max" else ""
    return (ResourceDescriptor(name="Dockerfile", digest=digest_set(facts.dockerfile_digest), content=text),)


def _filled(**fields: Any) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value}


def _moment(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(nanoseconds // 1_000_000_000))
