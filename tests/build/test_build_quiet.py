"""What a step sees of the world: the same whoever builds, where, and in what surroundings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from building import Builder, Context, MakeBuilder
from file_site import FileSite

REPORT = """\
FROM busybox
ENV ZEBRA=1 APPLE=2
ARG MIDDLE=3
RUN --mount=type=tmpfs,target=/mnt/late/below --mount=type=tmpfs,target=/srv --mount=type=tmpfs,target=/mnt/late \\
    { tr '\\0' '\\n' < /proc/$$/environ; echo; hostname; umask; pwd; ulimit -c; locale 2>/dev/null; readlink /proc/self/cwd; \\
      awk '{print $5}' /proc/self/mountinfo | grep -v -e '^/proc' -e '^/sys' -e '^/dev'; \\
      cat /etc/hosts; } > /report
"""
ODD = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Tokyo",
    "USER": "x",
    "TERM": "vt52",
    "HTTP_PROXY_OF": "no",
    "BUILD_ID": "77",
}


def report(builder: Builder, context: Path, umask: int) -> str:
    dest = builder.home / "out"
    builder.run("build", "--no-cache", "-o", str(dest), str(context), umask=umask)
    return (dest / "report").read_text()


def test_a_step_sees_one_world(builder: Builder, make_builder: MakeBuilder, context: Context) -> None:
    root = context({"Dockerfile": REPORT})
    plain = report(builder, root, 0o022)
    other = make_builder("root", "elsewhere")
    other.env |= ODD
    assert report(other, root, 0o077) == plain
    variables, _, rest = plain.partition("\n\n")
    # As declared and in this order; then what is the builder's, and nothing else.
    names = [line.partition("=")[0] for line in variables.splitlines()]
    assert names == ["PATH", "ZEBRA", "APPLE", "MIDDLE", "SOURCE_DATE_EPOCH", "HOME"]
    lines = rest.splitlines()
    assert lines[:3] == ["buildkitsandbox", "0022", "/"]
    places = [line for line in lines if line.startswith(("/mnt", "/srv"))]
    assert places == ["/srv", "/mnt/late", "/mnt/late/below"], "parents first, then as written"
    assert str(builder.store) not in plain and str(builder.home) not in plain


def test_a_directory_lists_alike_for_everybody(make_builder: MakeBuilder, context: Context) -> None:
    """What `ls -f` gives is the file system's; what COPY makes is made in one order."""
    names = [f"n{number * 7919 % 1000}" for number in range(60)]
    one = context(
        {"Dockerfile": "FROM busybox\nCOPY d /d\nRUN ls /d > /list\n", **{f"d/{n}": n for n in names}}
    )
    two = context(
        {
            "Dockerfile": "FROM busybox\nCOPY d /d\nRUN ls /d > /list\n",
            **{f"d/{n}": n for n in reversed(names)},
        },
        "other",
    )
    assert make_builder("root").build(one).digest == make_builder("subids").build(two).digest


def test_a_step_without_network_is_told_no_nameserver(builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN --network=none test ! -s /etc/resolv.conf && grep -q localhost /etc/hosts\n"
    builder.build(context({"Dockerfile": text}))


def internal(builder: Builder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(builder.run("provenance").out)["predicate"]["buildDefinition"]
    made: dict[str, Any] = found["internalParameters"]
    return made


def test_a_hermetic_build_has_no_network_and_no_gaps(builder: Builder, context: Context) -> None:
    with FileSite() as site:
        site.files["/f"] = b"declared"
        text = f"FROM busybox\nADD {site.url}/f /f\nRUN ! ip route | grep . && grep -q declared /f\n"
        root = context({"Dockerfile": text})
        loose = builder.build(root, "--network=none")
        assert builder.build(root, "--hermetic").ran == [], "the key of a step without network is one"
    assert internal(builder)["hermetic"] is True
    assert internal(builder)["gaps"] == []
    assert loose.digest


def test_a_step_that_had_the_network_is_no_hermetic_one(make_builder: MakeBuilder, context: Context) -> None:
    builder, root = make_builder("root"), context({"Dockerfile": "FROM busybox\nRUN echo x > /x\n"})
    builder.build(root)
    assert internal(builder)["hermetic"] is False
    assert builder.build(root, "--hermetic").ran
    assert internal(builder)["hermetic"] is True


def test_what_asks_for_more_by_name_is_refused_before_anything_runs(
    make_builder: MakeBuilder, context: Context
) -> None:
    text = (
        "FROM busybox\nRUN touch /ran\nRUN --network=default true\nRUN --network=host true\n"
        "RUN --security=insecure true\nRUN --mount=type=cache,target=/c true\n"
    )
    args = ("--hermetic", "--allow", "network.host", "--allow", "security.insecure", "--progress", "plain")
    done = make_builder("root").run("build", *args, str(context({"Dockerfile": text})), status=1)
    assert done.err.count("error[not-hermetic]") == 3
    assert [f"Dockerfile:{line}:" in done.err for line in (2, 3, 4, 5, 6)] == [False, False, True, True, True]
    assert "RUN touch /ran\n" not in done.out + done.err


def test_sources_are_there_before_any_step(make_builder: MakeBuilder, context: Context) -> None:
    with FileSite() as site:
        text = f"FROM busybox\nRUN echo the-step-ran\nADD {site.url}/missing /f\n"
        done = make_builder("root").run(
            "build", "--hermetic", "--progress=plain", str(context({"Dockerfile": text})), status=5
        )
    assert "http-status" in done.err and "Dockerfile:3:" in done.err
    assert "the-step-ran\n" not in done.err.partition("error[")[0].replace("RUN echo the-step-ran\n", "")


@pytest.mark.parametrize("args", [("--hermetic", "--network=host", "--allow=network.host")])
def test_contradictions(make_builder: MakeBuilder, context: Context, args: tuple[str, ...]) -> None:
    done = make_builder("root").run("build", *args, str(context({"Dockerfile": "FROM busybox\n"})), status=2)
    assert "conflicting-options" in done.err
