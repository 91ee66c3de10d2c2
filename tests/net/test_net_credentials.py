from __future__ import annotations

import base64
import json
import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.net.credentials import Credential, Credentials, ask_helper, credential_files

SECRET = "hunter2-very-secret"


def auth(user: str = "alice", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "XDG_RUNTIME_DIR": f"{tmp_path}/run",
    }


def helper(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def refused(call: Any, code: str) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    shown = (
        "".join(traceback.format_exception(caught.value))
        + repr(caught.value.diagnostics)
        + repr(caught.value.details)
    )
    assert SECRET not in shown and base64.b64encode(SECRET.encode()).decode()[:12] not in shown
    assert (caught.value.code, caught.value.exit_code) == (code, 1)
    return caught.value


def test_secrets_are_not_shown() -> None:
    for one in (Credential("alice", SECRET), Credential(identity_token=SECRET)):
        assert SECRET not in repr(one) + str(one) + f"{one}" + repr([one]) + repr(list(one.__rich_repr__()))
    assert "alice" in repr(Credential("alice", SECRET))


def test_the_order_of_the_files(tmp_path: Path, env: dict[str, str]) -> None:
    docker = {**env, "DOCKER_CONFIG": f"{tmp_path}/docker"}
    assert credential_files(env) == [
        f"{tmp_path}/run/containers/auth.json", f"{tmp_path}/.config/containers/auth.json", f"{tmp_path}/.docker/config.json",
    ]  # fmt: skip
    assert (
        credential_files(docker)[0] == f"{tmp_path}/docker/config.json" and len(credential_files(docker)) == 3
    )
    assert credential_files({**docker, "REGISTRY_AUTH_FILE": "/a"}) == ["/a"]
    assert credential_files({"HOME": "/h"})[0] == f"/run/containers/{os.getuid()}/auth.json"


def test_the_first_file_that_knows_decides(tmp_path: Path, env: dict[str, str]) -> None:
    write(tmp_path / "run/containers/auth.json", {"auths": {"a.test": auth("first")}})
    write(tmp_path / ".docker/config.json", {"auths": {"a.test": auth("last"), "b.test": auth("other")}})
    credentials = Credentials(env)
    assert credentials.lookup("a.test") == Credential("first", SECRET)
    assert credentials.lookup("b.test") == Credential("other", SECRET)
    assert credentials.lookup("c.test") is None and SECRET not in repr(credentials) + repr(vars(credentials))


def test_no_files_mean_nobody(env: dict[str, str]) -> None:
    assert Credentials(env).lookup("a.test", "b") is None
    assert Credentials({"REGISTRY_AUTH_FILE": "/nonexistent/auth.json"}).lookup("a.test") is None


def test_the_longest_name_wins(tmp_path: Path, env: dict[str, str]) -> None:
    auths = {"a.test": auth("host"), "a.test/team": auth("team"), "a.test/team/app": auth("app")}
    write(tmp_path / ".docker/config.json", {"auths": auths})
    credentials = Credentials(env)
    for repository, user in (
        ("x", "host"),
        ("team/x", "team"),
        ("team/app", "app"),
        ("team/app/x", "app"),
        ("teamy", "host"),
    ):
        assert credentials.lookup("a.test", repository) == Credential(user, SECRET)
    assert credentials.lookup("a.test:5000") is None


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"]
)
def test_dockers_own_key(tmp_path: Path, env: dict[str, str], key: str) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {key: auth()}})
    assert Credentials(env).lookup("docker.io", "library/debian") == Credential("alice", SECRET)


@pytest.mark.parametrize(
    "key", ["https://a.test", "http://a.test/", "https://a.test/v1/", "https://a.test/v2", "a.test/"]
)
def test_old_spellings_of_keys(tmp_path: Path, env: dict[str, str], key: str) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {key: auth()}})
    assert Credentials(env).lookup("a.test", "app") == Credential("alice", SECRET)


def test_other_forms_of_entries(tmp_path: Path, env: dict[str, str]) -> None:
    auths = {
        "a.test": {"username": "u", "password": SECRET}, "b.test": {**auth("t", ""), "identitytoken": SECRET},
        "c.test": {}, "d.test": None, "e.test": auth("u", SECRET + "\0\0"), "f.test": auth("u", "a:b"),
    }  # fmt: skip
    write(
        tmp_path / ".docker/config.json", {"auths": auths, "HttpHeaders": {"X": "y"}, "currentContext": "z"}
    )
    credentials = Credentials(env)
    assert credentials.lookup("a.test") == Credential("u", SECRET)
    assert credentials.lookup("b.test") == Credential("t", "", SECRET)
    assert credentials.lookup("c.test") is None and credentials.lookup("d.test") is None
    assert credentials.lookup("e.test") == Credential("u", SECRET)
    assert credentials.lookup("f.test") == Credential("u", "a:b")


@pytest.mark.parametrize(
    "content",
    [
        b"{", b'"' + SECRET.encode() + b'"', json.dumps({"auths": {"a.test": {"auth": [SECRET]}}}).encode(),
        json.dumps({"auths": {"a.test": {"auth": SECRET}}}).encode(), b"\xff" + SECRET.encode(),
        json.dumps({"auths": {"a.test": {"auth": base64.b64encode(SECRET.encode()).decode()}}}).encode(),
        b'{"auths": {"a.test": {"auth": "' + SECRET.encode(), b" " * (5 << 20),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(tmp_path: Path, env: dict[str, str], content: bytes) -> None:
    write(tmp_path / ".docker/config.json", content)
    if not content.strip():
        assert Credentials(env).lookup("a.test") is None
        return
    error = refused(lambda: Credentials(env).lookup("a.test"), "invalid-credentials-file")
    assert ".docker/config.json" in str(error)


def test_a_directory_is_no_file(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    refused(lambda: Credentials(env).lookup("a.test"), "invalid-credentials-file")


# Helpers


def test_a_helper_is_asked_on_its_standard_input(tmp_path: Path, env: dict[str, str]) -> None:
    answer = json.dumps({"ServerURL": "x", "Username": "bob", "Secret": SECRET})
    helper(tmp_path, "test", f"echo \"$@\" > {tmp_path}/args; cat > {tmp_path}/input; echo '{answer}'")
    write(
        tmp_path / ".docker/config.json",
        {"credHelpers": {"a.test": "test"}, "auths": {"a.test": auth(), "b.test": auth()}},
    )
    credentials = Credentials(env)
    assert credentials.lookup("a.test", "app") == Credential("bob", SECRET)
    assert (tmp_path / "args").read_text() == "get\n" and (tmp_path / "input").read_text() == "a.test"
    (tmp_path / "input").unlink()
    assert credentials.lookup("a.test", "app") == Credential("bob", SECRET)
    assert credentials.lookup("b.test") == Credential("alice", SECRET)
    assert not (tmp_path / "input").exists()


def test_the_store_of_all_credentials(tmp_path: Path, env: dict[str, str]) -> None:
    helper(tmp_path, "all", f'cat > {tmp_path}/input; echo \'{{"Username":"<token>","Secret":"{SECRET}"}}\'')
    write(tmp_path / ".docker/config.json", {"credsStore": "all"})
    assert Credentials(env).lookup("docker.io") == Credential(identity_token=SECRET)
    assert (tmp_path / "input").read_text() == "https://index.docker.io/v1/"


def test_a_helper_that_knows_nothing(tmp_path: Path, env: dict[str, str]) -> None:
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    write(tmp_path / ".docker/config.json", {"credsStore": "none", "auths": {"a.test": auth()}})
    assert Credentials(env).lookup("a.test") == Credential("alice", SECRET)
    assert Credentials(env).lookup("b.test") is None


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("fails", f"echo {SECRET}; echo {SECRET} >&2; exit 3"), ("babbles", f"echo {SECRET}"),
        ("wrong", f'echo \'{{"Username":["{SECRET}"]}}\''), ("killed", "kill -9 $$"), ("absent", ""),
        ("../evil", ""), ("", ""), ("-x", ""), ("bytes", "printf '\\377'"),
    ],
)  # fmt: skip
def test_a_helper_that_fails(tmp_path: Path, env: dict[str, str], name: str, script: str) -> None:
    if script:
        helper(tmp_path, name, script)
    error = refused(lambda: ask_helper(name, "a.test", env), "credential-helper-failed")
    assert (error.__cause__ is None and error.__suppress_context__) or error.__context__ is None


def test_a_helper_that_leaves_without_reading(tmp_path: Path, env: dict[str, str]) -> None:
    helper(tmp_path, "hasty", f'echo \'{{"Username":"u","Secret":"{SECRET}"}}\'')
    assert ask_helper("hasty", "a" * 200_000, env) == Credential("u", SECRET)
