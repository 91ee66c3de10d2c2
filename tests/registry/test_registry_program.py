"""The program itself against a registry with TLS and basic auth: build and push, pull, build from it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from registry_images import PASSWORD, USER, Guarded

from building import Context, MakeBuilder


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
