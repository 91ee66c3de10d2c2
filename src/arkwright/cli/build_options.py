"""The options of `arkwright build`, by theme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from arkwright.cli.parameters import BareOption, Decorated, root_option, switch, tls_option
from arkwright.cli.pending import pending_options

PROGRESS = ("auto", "plain", "tty", "rawjson", "quiet", "none")
NETWORKS = ("default", "none", "host")
ENTITLEMENTS = ("network.host", "security.insecure")
# The heading of what `limit_options` adds.
LIMITS_INSIDE = "Limits in a container"
TIMESTAMPS = ("constant", "clamp", "source", "keep")
ISOLATIONS = ("default", "auto", "oci", "crun", "runc", "bubblewrap", "chroot")

_Decorator = Callable[[Any], Any]


def _many(*names: str, metavar: str, help: str) -> _Decorator:
    return click.option(*names, multiple=True, metavar=metavar, help=help)


_INPUTS: tuple[_Decorator, ...] = (
    click.option("-f", "--file", "file", metavar="PATH", help="The Dockerfile: a path, a URL, or `-`. [default: CONTEXT/Dockerfile]"),
    _many("--target", metavar="STAGE", help="Build up to this stage. Several are built together, and what they share once; -t and -o then say for which they are."),
    _many("--build-arg", metavar="NAME[=VALUE]", help="Set an ARG; a name alone takes its value from the environment."),
    _many("--build-context", metavar="NAME=VALUE", help="Another context, or a replacement for a stage or image of that name: a directory, oci-layout:///DIR[:TAG], docker-image://REF, a URL or a git URL."),
    _many("--platform", metavar="OS/ARCH,…", help="Build for these platforms; `local` is this host's."),
    switch("--locked", envvar="ARKWRIGHT_LOCKED", show_envvar=True, help="Take every source as the lock file has it; one that it lacks is an error."),
    switch("--no-lock", "no_lock", help="Do not look at a lock file. [default: what it has is taken from it]"),
    click.option("--lock-file", metavar="FILE", help="The lock file. [default: arkwright.lock beside the Dockerfile]"),
    _many("--policy", metavar="FILE", help="What may enter the build, as rules; nothing else does. With several, and with $ARKWRIGHT_POLICY, each has to allow it."),
    switch("--pull", help="Ask the registry for base images even when the store has them."),
)  # fmt: skip

_RESULT: tuple[_Decorator, ...] = (
    _many("-t", "--tag", metavar="NAME[:TAG]", help="Name the image; may be repeated. With several targets: STAGE=NAME[:TAG]."),
    _many("-o", "--output", metavar="SPEC", help="Where the result goes: type=image|registry|oci|docker|local|tar with dest=PATH, a directory, or `-` for a tar on standard output. May be repeated. With several targets, target=STAGE says for which. [default: type=image]"),
    switch("--push", help="Push to the registries of the names; short for --output type=registry."),
    switch("--load", help="Load into docker or podman; short for --output type=docker."),
    _many("--label", metavar="NAME=VALUE", help="Add a label to the image's config."),
    _many("--annotation", metavar="[TYPE:]NAME=VALUE", help="Add an annotation to the manifest, or to what TYPE names (index, manifest, …)."),
    click.option("--provenance", cls=BareOption, bare="true", multiple=True, metavar="[=SPEC]", help="Attach to what is pushed how it was made, beside the image, whose digest stays: mode=min (the default), mode=max, builder-id=URI; `false` keeps nothing at all. Without it, it is kept for `arkwright provenance`, `verify` and --metadata-file only."),
    click.option("--sbom", cls=BareOption, bare="true", multiple=True, metavar="[=BOOL|generator=IMAGE]", help="Attach to what is pushed which packages it is made of, by another image's account with generator=IMAGE."),
    _many("--attest", metavar="SPEC", help="The same, as type=provenance,mode=min|max or type=sbom; with `inline`, in one index with the image, as BuildKit does."),
    click.option("--iidfile", metavar="FILE", help="Write the image's digest to a file."),
    click.option("--metadata-file", metavar="FILE", help="Write what was built to a file, as JSON."),
    click.option("--source-date-epoch", "--timestamp", "epoch", type=click.IntRange(0, 2**33), metavar="SECONDS", help="The image's creation time, and the value of ARG SOURCE_DATE_EPOCH. [default: $SOURCE_DATE_EPOCH, else the commit of a git context, else 2000-01-01]"),
    click.option("--timestamps", type=click.Choice(TIMESTAMPS), default="constant", envvar="ARKWRIGHT_TIMESTAMPS", show_envvar=True, help="Times of files in layers: one `constant` for all; the `source` date epoch for all; `clamp` what is later than that epoch to it; `keep` them as they are, which is not reproducible. [default: constant]"),
    click.option("--scrub", type=click.Choice(("default", "none")), default="default", help="Drop logs and caches that depend on the clock (dpkg, apt, ldconfig) from layers, or keep them."),
)  # fmt: skip

_CACHE: tuple[_Decorator, ...] = (
    switch("--no-cache", help="Run every step."),
    _many("--no-cache-filter", metavar="STAGE,…", help="Run every step of these stages."),
    _many("--cache-from", metavar="SPEC", help="Where other machines' results may be: a name at a registry, or type=registry,ref=NAME or type=local,src=DIR. May be repeated."),
    _many("--cache-to", metavar="SPEC", help="Publish results: type=registry,ref=NAME, type=local,dest=DIR or type=inline, with mode=min|max. May be repeated."),
    click.option("--cache-export-timeout", metavar="DURATION", help="How long the end of a build may wait for --cache-to, such as 90s. [default: 5m]"),
    switch("--explain", help="Say at the end why each step ran, or from where it was taken."),
)  # fmt: skip

_STEPS: tuple[_Decorator, ...] = (
    _many("--secret", metavar="SPEC", help="A secret for RUN --mount=type=secret: id=ID,src=PATH or id=ID,env=NAME."),
    _many("--ssh", metavar="SPEC", help="An agent for RUN --mount=type=ssh and for git: `default`, ID=SOCKET, or ID=KEY[,KEY] with files of private keys."),
    click.option("--network", type=click.Choice(NETWORKS), default="default", help="The network of RUN steps."),
    switch("--hermetic", envvar="ARKWRIGHT_HERMETIC", show_envvar=True, help="Steps have no network, and nothing else that is not known before they run; one that asks for it is an error."),
    _many("--add-host", metavar="NAME:ADDRESS", help="Add a line to the steps' /etc/hosts."),
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", help="Limit the steps, such as nofile=1024:4096."),
    _many("--allow", metavar="ENTITLEMENT", help="What steps may ask for: network.host, security.insecure."),
    click.option("--shm-size", metavar="SIZE", help="Size of the steps' /dev/shm. [default: 64m]"),
    click.option("--isolation", type=click.Choice(ISOLATIONS), default="auto", help="How steps are isolated: the strongest way that works here (`auto`, `default`), an OCI runtime (`oci`: the first that works), or the one named. [default: auto]"),
    click.option("-j", "--jobs", type=click.IntRange(0, 4096), default=0, metavar="N", help="CPUs that steps may fill: as many run at once, if each weighs one. [default: four for each of the host, at least 16; those of the host with --step-weight]"),
    click.option("--jobs-memory", metavar="SIZE", help="Memory that steps with a weight may fill. [default: that of the host]"),
    _many("--step-weight", metavar="[STAGE=]CPUS[:MEMORY]", help="What a step takes of --jobs and --jobs-memory while it runs; no limit on the step. [default: 1]"),
    switch("-k", "--keep-going", help="After a failure, run the steps that do not need it, and report all failures; nothing is written out."),
    click.option("--on-error", type=click.Choice(("fail", "shell")), default="fail", help="What a failed step leads to: the end, or first a shell in its state, with its mounts, on this terminal. [default: fail]"),
)  # fmt: skip

_LIMITS: tuple[_Decorator, ...] = (
    click.option("-m", "--memory", metavar="SIZE", help="Memory of one step, such as 512m; a step that wants more is killed, and the failure says so."),
    click.option("--memory-swap", metavar="SIZE", help="Memory and swap of one step together; -1 is unlimited. [default: twice --memory]"),
    click.option("--cpus", type=float, metavar="N", help="How many CPUs' time one step may use, such as 1.5."),
    click.option("-c", "--cpu-shares", type=click.IntRange(2, 262144), metavar="N", help="A step's share of the CPUs when they are busy; others have 1024."),
    click.option("--cpu-period", type=click.IntRange(1000, 1000000), metavar="MICROSECONDS", help="The period of --cpu-quota. [default: 100000]"),
    click.option("--cpu-quota", type=click.IntRange(-1), metavar="MICROSECONDS", help="CPU time of one step in each period."),
    click.option("--cpuset-cpus", metavar="LIST", help="The CPUs that steps may run on, such as 0-2,4."),
    click.option("--pids-limit", type=click.IntRange(-1), metavar="N", help="Processes and threads of one step; -1 is unlimited."),
    click.option("--step-timeout", metavar="DURATION", help="Stop a step that runs for longer, such as 90s or 2h."),
    click.option("--max-output", metavar="SIZE", help="Stop a step that writes more output."),
    click.option("--cgroup-parent", metavar="PATH", help="Make the steps' control groups in this one, which must be there: below the builder's own, or from the root if it begins with /."),
)  # fmt: skip

_LIMITS_TOGETHER: tuple[_Decorator, ...] = (
    click.option("--build-memory", metavar="SIZE", help="Memory of all steps of the build together, those that run at once."),
    click.option("--build-cpus", type=float, metavar="N", help="How many CPUs' time all steps of the build may use together."),
    click.option("--build-pids-limit", type=click.IntRange(1), metavar="N", help="Processes and threads of all steps of the build together."),
    click.option("--build-timeout", metavar="DURATION", help="Stop a build whose steps, copies and outputs are not done by then, such as 30m; pushing is not interrupted."),
    click.option("--build-max-output", metavar="SIZE", help="Stop a build whose steps write more output together."),
)  # fmt: skip

_CALLS: tuple[_Decorator, ...] = (
    switch("--check", help="Check the Dockerfile instead of building; short for --call check."),
    click.option("--call", default="build", metavar="METHOD[,format=FORMAT]", help="What to do: `build`; `check` the Dockerfile; list its `targets`; `outline` what the target takes. FORMAT is text, json, or (for check) sarif. [default: build]"),
)  # fmt: skip

_PROGRAM: tuple[_Decorator, ...] = (
    click.option("--progress", type=click.Choice(PROGRESS), default="auto", envvar="ARKWRIGHT_PROGRESS", help="How progress is shown: `tty` and `plain` for people, `rawjson` for programs, `quiet` shows the digest only, `none` nothing; `auto` is tty on a terminal, else plain."),
    switch("-q", "--quiet", help="Print the image's digest and nothing else; short for --progress quiet."),
    tls_option(),
    root_option,
)  # fmt: skip


_THEMES = {
    "Inputs": _INPUTS,
    "Result": _RESULT,
    "Cache": _CACHE,
    "Steps": _STEPS,
    "Limits of each step": _LIMITS,
    "Limits of all steps together": _LIMITS_TOGETHER,
    "Instead of a build": _CALLS,
    "Program": _PROGRAM,
}


def limit_options(command: Decorated) -> Decorated:
    """The limits of steps alone, for commands that run one."""
    for option in reversed(_LIMITS):
        command = option(command)
        declared: list[Any] = command.__click_params__  # type: ignore[attr-defined]
        declared[-1].theme = LIMITS_INSIDE
    return command


def build_options(command: Decorated) -> Decorated:
    """Every option of `arkwright build`; `theme` of an option is its heading in the help."""
    command = pending_options(command)
    for theme, options in reversed(_THEMES.items()):
        for option in reversed(options):
            command = option(command)
            declared: list[Any] = command.__click_params__  # type: ignore[attr-defined]
            declared[-1].theme = theme
    return command
