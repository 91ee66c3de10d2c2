"""`arkwright config|append|squash|flatten|filter|chown-map|annotate|index|rebase` as programs: alike for
whoever runs them and wherever, and read by other tools."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from typing import Any

import msgspec
from layer_model import Member, directory, hardlink, tar_bytes

from building import Builder, MakeBuilder

TAR = [
    directory("opt"),
    Member("opt/a", data=b"a" * 4000, uid=7),
    hardlink("opt/b", "opt/a"),
    Member("opt/c.pyc", data=b"c"),
]
MORE = [Member("opt/.wh.c.pyc", mode=0), Member("opt/d", data=b"d", mode=0o4755), Member("dev", tarfile.CHRTYPE, device=(1, 3))]  # fmt: skip

COMMANDS = (
    "config busybox -e A=1 -l k=v --port 80-81 --user 7 -t new:config",
    "append new:config --layer one.tar --layer two.tar.gz -t new:append",
    "append busybox --layer tree --prefix srv/www --compression zstd -t new:tree",
    "append busybox --layer two.tar.gz --verbatim -t new:verbatim",
    "squash new:append --since busybox -t new:squash",
    "flatten new:append -t new:flatten",
    "filter new:append --drop opt/a --drop **/*.pyc -t new:filter",
    "chown-map new:append 0:1000 7:70:3 -t new:owners",
    "annotate new:append a=b -t new:notes",
    "index create new:index new:append",
    "config new:index --cmd x --history-comment why -t new:every",
    "rebase new:append --old-base busybox --new-base new:config -t new:rebase",
)


def prepared(builder: Builder) -> Builder:
    home = builder.home
    import gzip

    (home / "one.tar").write_bytes(tar_bytes(TAR))
    (home / "two.tar.gz").write_bytes(gzip.compress(tar_bytes(MORE), mtime=0))
    (home / "tree" / "sub").mkdir(parents=True)
    (home / "tree" / "sub" / "f").write_bytes(b"f")
    os.link(home / "tree" / "sub" / "f", home / "tree" / "g")
    for path in (
        home / "tree",
        home / "tree" / "sub",
        home / "tree" / "g",
        home / "one.tar",
        home / "two.tar.gz",
    ):
        path.chmod(0o755)
    return builder


def results(builder: Builder, **more: Any) -> dict[str, str]:
    return {command: builder.run(*command.split(), **more).out for command in COMMANDS}


def test_the_same_images_for_whoever_runs_it_and_wherever(make_builder: MakeBuilder) -> None:
    root = prepared(make_builder("root"))
    names = root.run("images", "--json").out
    raw = root.run("inspect", "--raw", "busybox").out
    found = results(root)
    assert root.run("inspect", "--raw", "busybox").out == raw
    before = {one["name"]: one for one in msgspec.json.decode(names)}
    after = {one["name"]: one for one in msgspec.json.decode(root.run("images", "--json").out)}
    assert before.items() <= after.items() and len(after) == len(before) + len(COMMANDS)
    for command, out in found.items():
        name, digest = out.split()
        assert after[f"docker.io/library/{name}"]["digest"] == digest, command
    sealed = prepared(make_builder("sealed"))
    sealed.env |= {"TZ": "Asia/Kathmandu", "LC_ALL": "C"}
    assert results(sealed, umask=0o077) == found


def test_without_a_name_it_is_there_by_digest(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    digest = builder.run("config", "busybox", "--user", "5").out.strip()
    assert builder.run("config", digest, "--format", "config.User").out == "5\n"
    assert "sha256:" in digest and builder.run("images", "-q").out.count("\n") == 1
    named = builder.run("config", "busybox", "--user", "5", "-t", "a", "-t", "oci:out:b", "-q").out
    assert named == f"{digest}\n" * 2
    assert builder.run("config", "oci:out:b").out == builder.run("config", "a").out
    builder.env["SOURCE_DATE_EPOCH"] = "86400"
    other = builder.run("config", "busybox", "--user", "5").out.strip()
    assert builder.run("config", other, "--format", "created").out == "1970-01-02T00:00:00Z\n"


EVERY = {
    "--env": "A=b c", "--label": "k=v=w", "--entrypoint": '["/e", "x y"]', "--cmd": "one 'two three'",
    "--workdir": "/w", "--user": "7:8", "--port": "53/udp", "--volume": "/data", "--stop-signal": "SIGUSR1",
    "--healthcheck": "curl -f localhost", "--healthcheck-interval": "1m30s", "--healthcheck-timeout": "5s",
    "--healthcheck-start-period": "2s", "--healthcheck-retries": "4", "--shell": "/bin/bash -c", "--onbuild": "RUN x",
    "--author": "Me", "--created": "2024-05-01T12:00:00Z", "--history-comment": "why",
}  # fmt: skip


def test_other_tools_read_what_was_set(
    make_builder: MakeBuilder, skopeo: Callable[..., str], podman: Callable[..., str]
) -> None:
    builder = make_builder("root")
    options = [word for pair in EVERY.items() for word in pair]
    builder.run(
        "config",
        "busybox",
        *options,
        "--healthcheck-start-interval",
        "3s",
        "-t",
        "oci:out:tag",
        "-t",
        "full:1",
    )
    fields = msgspec.json.decode(skopeo("inspect", "--config", "--raw", f"oci:{builder.home}/out:tag"))
    inner = fields["config"]
    assert fields["author"] == "Me" and fields["created"] == "2024-05-01T12:00:00Z"
    assert inner["Entrypoint"] == ["/e", "x y"] and inner["Cmd"] == ["one", "two three"]
    assert "A=b c" in inner["Env"] and inner["Labels"] == {"k": "v=w"}
    builder.run("save", "--format", "docker-archive", "-o", "full.tar", "full:1")
    podman("pull", "-q", f"docker-archive:{builder.home}/full.tar")
    (seen,) = msgspec.json.decode(podman("inspect", "--type", "image", "full:1"))
    config = seen["Config"]
    assert config["WorkingDir"] == "/w" and config["User"] == "7:8" and config["StopSignal"] == "SIGUSR1"
    assert config["ExposedPorts"] == {"53/udp": {}} and config["Volumes"] == {"/data": {}}
    assert inner["OnBuild"] == ["RUN x"]
    check = seen["Healthcheck"]
    assert check["Test"] == ["CMD-SHELL", "curl -f localhost"]
    assert (check["Interval"], check["Timeout"], check["StartPeriod"], check["Retries"]) == (
        90 * 10**9,
        5 * 10**9,
        2 * 10**9,
        4,
    )
    assert seen["History"][-1]["comment"] == "why"


def test_a_layer_from_standard_input(make_builder: MakeBuilder) -> None:
    builder = prepared(make_builder("root"))
    piped = builder.run(
        "append", "busybox", "--layer", "-", input=(builder.home / "one.tar").read_bytes()
    ).out
    assert piped == builder.run("append", "busybox", "--layer", "one.tar").out


def test_the_name_of_an_index_goes_with_its_changes(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    builder.run("config", "busybox", "--arch", "arm64", "-t", "arm")
    builder.run("index", "create", "both", "busybox")
    first = builder.run("inspect", "--format", "digest", "both").out
    builder.run("index", "add", "both", "arm")
    assert builder.run("inspect", "--format", "digest", "both").out != first
    assert "linux/arm64" in builder.run("inspect", "--format", "platforms", "both").out
    builder.run("index", "rm", "both", "arm64")
    assert builder.run("inspect", "--format", "digest", "both").out == first
