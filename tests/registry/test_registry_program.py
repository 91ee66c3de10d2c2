"""The program itself against a registry with TLS and basic auth: build and push, pull, build from it."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from registry_images import PASSWORD, USER, Guarded, image
from serving import eventually

from arkwright.oci import descriptor as media
from arkwright.oci.digest import sha256
from building import Builder, Context, MakeBuilder
from loopback_server import Exchange, LoopbackRegistry


def test_push_pull_and_build_from_a_guarded_registry(
    make_builder: MakeBuilder, context: Context, guarded_registry: Guarded, scratch: Path
) -> None:
    name = f"{guarded_registry.host}/team/app:1"
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = scratch / "docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"auths": {guarded_registry.host: {"auth": secret}}}))
    environment = {
        "DOCKER_CONFIG": str(config),
        "SSL_CERT_FILE": str(guarded_registry.authority.ca_path),
    }
    builder, other = make_builder("root"), make_builder("root", "other")
    root = context({"Dockerfile": "FROM busybox\nRUN echo hi > /x\nCMD cat /x\n"})

    stranger = builder.run("build", "-t", name, "--push", str(root), status=5)
    assert "error[tls-verification-failed]" in stranger.err
    builder.env["SSL_CERT_FILE"] = environment["SSL_CERT_FILE"]
    denied = builder.run("build", "-t", name, "--push", str(root), status=5)
    assert "error[registry-denied]" in denied.err
    builder.env.update(environment)
    other.env.update(environment)

    pushed = builder.build(root, "-t", name, "--push")
    builder.build(root, "-t", name)
    again = builder.run("push", name)
    assert "0 blobs uploaded" in again.err
    assert pushed.digest in again.out

    assert pushed.digest in other.run("pull", name).out
    assert other.run("run", name).out == "hi\n"
    derived = context({"Dockerfile": f"FROM {name}\nRUN cat /x /x > /y\nCMD cat /y\n"}, "derived")
    third = make_builder("subids", "third")
    third.env.update(environment)
    for path in (config, config / "config.json", Path(environment["SSL_CERT_FILE"])):
        path.chmod(0o755 if path.is_dir() else 0o644)
    readable = scratch / "ca.crt"
    readable.write_bytes(Path(environment["SSL_CERT_FILE"]).read_bytes())
    third.env["SSL_CERT_FILE"] = str(readable)
    third.build(derived, "-t", "derived")
    assert third.run("run", "derived").out == "hi\nhi\n"
    for builder_ in (builder, other, third):
        for path in builder_.store.rglob("*"):
            if path.is_file() and path.stat().st_size < 1 << 20:
                assert PASSWORD.encode() not in path.read_bytes()


@pytest.mark.parametrize("args", [("pull", "{host}/team/nothing:1"), ("push", "busybox", "{host}/team/x")])
def test_refusals_name_the_registry(
    args: tuple[str, ...], make_builder: MakeBuilder, guarded_registry: Guarded
) -> None:
    builder = make_builder("root")
    builder.env["SSL_CERT_FILE"] = str(guarded_registry.authority.ca_path)
    done = builder.run(*(text.format(host=guarded_registry.host) for text in args), status=5)
    assert "error[registry-denied]" in done.err
    assert guarded_registry.host in done.err


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a program says that is told to end. An interrupt that falls into a callback of the
    interpreter's own is lost (the exception is ignored there): people press the key again."""
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=6)
    raise AssertionError("it does not end")


def sizes(path: Path) -> list[int]:
    return [one.stat().st_size for one in path.iterdir()]


@pytest.mark.parametrize("command", ["pull", "copy", "push"])
def test_ctrl_c_ends_a_transfer_that_goes_on_later(
    command: str, scratch: Path, busybox_layout: Path, server: LoopbackRegistry
) -> None:
    """A server that does not get on with it: the signal ends the command at once, whatever it waits for,
    and the next one asks for no more than what is missing."""
    builder = Builder(scratch, "root")
    kept: dict[str, bytes] = {}

    def keep(data: bytes) -> str:
        kept[sha256(data)] = data
        return server.add_blob(data)

    made = image(keep, "slow", layers=1, size=3 << 20)
    server.add_manifest("1", media.MANIFEST, kept[made.digest])
    (layer,) = json.loads(kept[made.digest])["layers"]
    waiting, leave = threading.Event(), threading.Event()
    half = 2 << 20

    def stall(exchange: Exchange) -> None:
        if command != "push":
            exchange.reply(200, kept[layer["digest"]][:half], announce=layer["size"])
        waiting.set()
        leave.wait(120)

    if command == "push":
        builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
        server.on("PATCH", "/blobs/uploads/", stall, times=99)
        server.on("PUT", "/blobs/uploads/", stall, times=99)
    else:
        server.on("GET", layer["digest"], stall)
    words = {
        "pull": ("pull", f"{server.host}/app:1"),
        "copy": ("copy", f"docker://{server.host}/app:1", "app:1"),
        "push": ("push", "busybox", f"{server.host}/new:1"),
    }[command]
    process = builder.start(*words)
    try:
        assert waiting.wait(120)
        # What was sent has arrived.
        eventually(lambda: command == "push" or half in sizes(builder.store / "ingest"))
        said = interrupted(process)
        assert process.returncode == 130, said
    finally:
        leave.set()
        process.kill()
    assert "Traceback" not in said[1] and "error[" not in said[1]
    if command == "push":
        assert "1" in server.manifests and len(server.manifests) == 2
        return
    assert "app:1" not in builder.run("images").out
    builder.run(*words)
    # One request before, which was not taken up again, and one after.
    (asked,) = [one.headers.get("Range", "") for one in server.requests("GET", layer["digest"])][1:]
    assert asked == f"bytes={half}-"
    assert "app:1" in builder.run("images").out
