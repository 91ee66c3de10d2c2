"""The agent of a build's own, with ssh-keygen(1) as the maker of keys and ssh-add(1) as the judge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.sandbox.ssh_keys import key_agent

pytestmark = pytest.mark.skipif(
    not shutil.which("ssh-agent") or not shutil.which("ssh-keygen"), reason="needs-openssh: keys and an agent"
)


def make_key(path: Path, *args: str, passphrase: str = "") -> str:
    """A new key; gives its public part without comment."""
    subprocess.run(["ssh-keygen", "-q", "-N", passphrase, "-f", str(path), *args], check=True)
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def listed(socket_path: str) -> list[str]:
    done = subprocess.run(
        ["ssh-add", "-L"], env={**os.environ, "SSH_AUTH_SOCK": socket_path}, capture_output=True, text=True, check=True
    )  # fmt: skip
    return [" ".join(line.split()[:2]) for line in done.stdout.splitlines()]


def test_it_holds_the_keys_and_ends_with_the_body(tmp_path: Path) -> None:
    public = [
        make_key(tmp_path / "a", "-t", "ed25519"),
        make_key(tmp_path / "b", "-t", "ecdsa"),
        make_key(tmp_path / "c", "-t", "rsa", "-m", "PEM"),
    ]
    # ssh-add itself would refuse a key that others may read.
    (tmp_path / "a").chmod(0o644)
    with key_agent([str(tmp_path / name) for name in "abc"]) as socket_path:
        assert sorted(listed(socket_path)) == sorted(public)
        assert os.stat(os.path.dirname(socket_path)).st_mode & 0o077 == 0
    assert not os.path.exists(os.path.dirname(socket_path))


@pytest.mark.parametrize(
    "kind", [["-t", "ed25519"], ["-t", "rsa", "-m", "PEM"], ["-t", "rsa", "-m", "PKCS8"]]
)
def test_a_passphrase_is_never_asked_for(tmp_path: Path, kind: list[str]) -> None:
    make_key(tmp_path / "k", *kind, passphrase="hidden-word")
    with pytest.raises(UserError, match="passphrase") as caught, key_agent([str(tmp_path / "k")]):
        pass
    assert caught.value.code == "ssh-key-unusable"
    assert "ssh-add" in (caught.value.diagnostics[0].hint or "")


@pytest.mark.parametrize("what", ["public", "text", "missing", "torn", "huge"])
def test_what_is_no_key(tmp_path: Path, what: str) -> None:
    make_key(tmp_path / "k", "-t", "ed25519")
    path = {"public": tmp_path / "k.pub", "missing": tmp_path / "gone"}.get(what, tmp_path / "x")
    if what == "torn":
        lines = (tmp_path / "k").read_text().splitlines()
        path.write_text("\n".join([lines[0], lines[1][:30], lines[-1]]) + "\n")
    elif what in ("text", "huge"):
        path.write_text("words" * (1 if what == "text" else 100_000))
    with pytest.raises(UserError) as caught, key_agent([str(path)]):
        pass
    assert caught.value.code == "ssh-key-unusable"


def test_a_host_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path / "k", "-t", "ed25519")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostUnsupported) as caught, key_agent([str(tmp_path / "k")]):
        pass
    assert caught.value.code == "missing-tool"


def test_no_agent_outlives_a_killed_builder(tmp_path: Path) -> None:
    make_key(tmp_path / "k", "-t", "ed25519")
    script = (
        "import sys, os\nfrom arkwright.sandbox.ssh_keys import key_agent\n"
        "with key_agent([sys.argv[1]]) as path:\n    print(path, flush=True)\n    sys.stdin.read()\n"
    )
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "k")], env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as builder:  # fmt: skip
        assert builder.stdout is not None
        path = builder.stdout.readline().strip()
        (agent,) = [
            pid for pid in _children(builder.pid) if b"ssh-agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        ended = os.pidfd_open(agent)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
    try:
        import select

        assert select.select([ended], [], [], 30)[0], "the agent lives on"
    finally:
        os.close(ended)
    assert path.endswith("/agent")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
