"""The options of `arkwright config|append|…`: what they become, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from changing import put_layers
from click.testing import CliRunner, Result
from layer_model import Member, directory, tar_bytes

from arkwright.cli.main import program
from arkwright.store.store import Store

Run = Callable[..., Result]
NAME = "docker.io/library/app:latest"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("config", "app")`, in a store that has this image."""
    for name in [name for name in os.environ if name.startswith("ARKWRIGHT_") or name == "SOURCE_DATE_EPOCH"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ARKWRIGHT_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("ARKWRIGHT_GC", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "one.tar").write_bytes(tar_bytes([Member("f", data=b"f")]))
    with Store.open(str(tmp_path / "store")) as store:
        inner = {"Env": ["A=1"], "Cmd": ["c"], "User": "u", "Labels": {"k": "v"}}
        store.names.set(NAME, put_layers(store, [[directory("d")], [Member("d/f")]], inner=inner))
    return lambda *args: CliRunner().invoke(program, args)


@pytest.mark.parametrize(
    "words, key, value",
    [
        (["--entrypoint", "a 'b c'"], "Entrypoint", ["a", "b c"]),
        (["--entrypoint", '["a", "b c"]'], "Entrypoint", ["a", "b c"]),
        (["--cmd", ""], "Cmd", None),
        (["--cmd", "x"], "Cmd", ["x"]),
        (["--user", ""], "User", None),
        (["--clear", "labels", "-l", "a=b=c"], "Labels", {"a": "b=c"}),
        (["-p", "80", "-p", "53-54/udp"], "ExposedPorts", {"80/tcp": {}, "53/udp": {}, "54/udp": {}}),
        (["--healthcheck", "none"], "Healthcheck", {"Test": ["NONE"]}),
        (["--healthcheck", '["curl", "x"]'], "Healthcheck", {"Test": ["CMD", "curl", "x"]}),
        (["--healthcheck", '["CMD-SHELL", "x"]'], "Healthcheck", {"Test": ["CMD-SHELL", "x"]}),
        (["--healthcheck", "x", "--healthcheck-start-interval", "1.5s"], "Healthcheck", {"Test": ["CMD-SHELL", "x"], "StartInterval": 1500000000}),
        (["--unsetenv", "A", "-e", "B="], "Env", ["B="]),
        (["--workdir", r"C:\app"], "WorkingDir", r"C:\app"),
    ],
)  # fmt: skip
def test_how_values_are_written(run: Run, words: list[str], key: str, value: Any) -> None:
    made = run("config", "app", *words, "-t", "new")
    assert made.exit_code == 0, made.output
    shown = msgspec.json.decode(run("config", "new").stdout)["config"]
    assert shown.get(key) == value


def test_seconds_as_a_time(run: Run) -> None:
    run("config", "app", "--created", "86400", "-t", "new")
    assert run("config", "new", "--format", "created").stdout == "1970-01-02T00:00:00Z\n"


@pytest.mark.parametrize(
    "words, code",
    [
        ("append app --layer none.tar -t Upper", "invalid-reference"),
        (f"append app --layer none.tar -t x@sha256:{'0' * 64}", "name-with-digest"),
        ("config app --env A", "invalid-option-value"),
        ("config app --port 99999", "invalid-option-value"),
        ("config app --port 90-80", "invalid-option-value"),
        ("config app --port 80/icmp", "invalid-option-value"),
        ("config app --workdir rel", "invalid-option-value"),
        ("config app --volume rel", "invalid-option-value"),
        ("config app --stop-signal NOPE", "invalid-option-value"),
        ("config app --entrypoint [1]", "invalid-option-value"),
        ("config app --cmd 'x", "invalid-option-value"),
        ("config app --created yesterday", "invalid-option-value"),
        ("config app --healthcheck-interval 5", "invalid-option-value"),
        ("config app --healthcheck-timeout -5s", "invalid-option-value"),
        ("config app --arch=", "invalid-option-value"),
        ("config app -t x", "invalid-option-value"),
        ("append app --layer tree --verbatim", "invalid-option-value"),
        ("append app --layer one.tar --verbatim --prefix x", "conflicting-options"),
        ("append app --layer one.tar --owner me", "invalid-option-value"),
        ("annotate app", "invalid-option-value"),
        ("annotate app novalue", "invalid-option-value"),
        ("annotate app --index --manifest a=b", "conflicting-options"),
        ("annotate app --index --platform amd64 a=b", "conflicting-options"),
        ("chown-map app 1", "invalid-id-map"),
        ("chown-map app 1:2:x", "invalid-id-map"),
        ("rebase app --new-base app", "unknown-base"),
        ("append app --layer nowhere", "unreadable-file"),
        ("append app --layer one.tar --prefix ../x", "path-escapes-root"),
        ("annotate app --index a=b", "index-annotation"),
        ("index rm app amd64", "not-an-index"),
        ("index create new app app --platform linux/s390x -t UPPER", "invalid-reference"),
        ("squash nowhere", "unknown-image"),
        ("filter app --drop a[", "invalid-wildcard"),
    ],
)
def test_what_is_refused(run: Run, words: str, code: str) -> None:
    done = run(*words.split())
    assert done.exit_code in (1, 2) and done.stderr.startswith(f"error[{code}]"), done.output


def test_notes_go_to_standard_error(run: Run) -> None:
    done = run("filter", "app", "--drop", "none")
    assert done.stderr == "note: nothing matched none\n" and done.stdout.startswith("sha256:")
    assert run("squash", "app", "-q", "-t", "small").stdout.startswith("sha256:")


def test_the_base_that_an_image_records_is_taken(run: Run) -> None:
    base = run("config", "app", "-e", "X=1", "-t", "base").stdout.split()[1]
    run("append", "base", "--layer", "one.tar", "-t", "own")
    run("annotate", "own", f"org.opencontainers.image.base.digest={base}", "-t", "own")
    done = run("rebase", "own", "--new-base", "app", "-t", "moved")
    assert done.exit_code == 0, done.output
    assert run("config", "moved", "--format", "config.Env").stdout.split() == ["[", '"A=1"', "]"]
    assert run("inspect", "moved", "--format", "manifest.annotations").stdout.count("library/app:latest") == 1


def test_an_archive_on_standard_output_is_followed_by_nothing(run: Run) -> None:
    command = [sys.executable, "-m", "arkwright", "squash", "app", "-t", "oci-archive:-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.endswith(bytes(1024))
    assert re.fullmatch(rb"oci-archive:- sha256:[0-9a-f]{64}", done.stderr.splitlines()[-1])


def test_what_an_image_says_does_not_drive_a_terminal(run: Run, tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "store")) as store:
        store.names.set(NAME, put_layers(store, [], top={"created": "\x1b[2J2020", "author": "a\x1b[2Jb"}))
    assert "\x1b" not in run("images").stdout
    pty_fd, terminal_fd = os.openpty()
    command = [sys.executable, "-m", "arkwright", "config", "app", "--format", "author"]
    subprocess.run(command, stdout=terminal_fd, check=True)
    os.close(terminal_fd)
    assert os.read(pty_fd, 1 << 16) == rb"a\x1b[2Jb" + b"\r\n"
    os.close(pty_fd)
