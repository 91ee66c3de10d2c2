"""The real program for tests: a builder with a store of its own, and what its builds left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from arkwright.events.journal import read_journal
from arkwright.events.types import AnyEvent
from identities import identity_prefix

TIMEOUT_S = 120


class Builder:
    """`arkwright` with one store, as one user."""

    def __init__(self, scratch: Path, identity: str, store: str = "store") -> None:
        self.prefix, self.uid = identity_prefix(identity)
        self.identity = identity
        self.scratch = scratch
        self.store = scratch / f"{store}-{identity}"
        self.store.mkdir(exist_ok=True)
        os.chown(self.store, self.uid, self.uid)
        self.home = scratch / f"home-{identity}"
        self.home.mkdir(exist_ok=True)
        os.chown(self.home, self.uid, self.uid)
        self.env: dict[str, str] = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "ARKWRIGHT_ROOT": str(self.store),
            # A collection beside the test would still work in the store that the test removes.
            "ARKWRIGHT_GC": "off",
        }

    def command(self, *args: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "arkwright", *args]

    def start(
        self, *args: str, cwd: Path | None = None, umask: int = 0o022, **more: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*args), cwd=cwd or self.home, env=self.env, text=True, umask=umask,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def run(
        self,
        *args: str,
        cwd: Path | None = None,
        status: int = 0,
        umask: int = 0o022,
        input: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Done:
        done = subprocess.run(
            self.command(*args), cwd=cwd or self.home, env=self.env, umask=umask, timeout=timeout_s,
            capture_output=True, check=False, input=input if input is not None else b"",
        )  # fmt: skip
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert done.returncode == status, f"status {done.returncode}, not {status}\n{out}\n{err}"
        return Done(out, err)

    def build(self, context: Path, *args: str, **more: Any) -> Built:
        """Build a context; gives the image digest and the journal."""
        metadata = self.home / "metadata.json"
        self.run(
            "build", "--progress", "plain", "--metadata-file", str(metadata), *args, str(context), **more
        )
        fields = msgspec.json.decode(metadata.read_bytes())
        return Built(self, fields)


class Done:
    """What a run printed."""

    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err


class Built:
    """A finished build."""

    def __init__(self, builder: Builder, fields: dict[str, Any]) -> None:
        self.digest: str = fields.get("containerimage.digest", "")
        self.fields = fields
        path = builder.store / "history" / fields["arkwright.build"] / "journal.jsonl"
        self.events: list[AnyEvent] = list(read_journal(str(path)))
        self.names = {event.vertex: event.name for event in self.events if type(event).__name__ == "Declared"}

    def having(self, kind: str) -> list[str]:
        """The names of the vertices with an event of this kind."""
        return [self.names[event.vertex] for event in self.events if type(event).__name__ == kind]  # type: ignore[union-attr]

    @property
    def ran(self) -> list[str]:
        return self.having("Started")


MakeBuilder = Callable[..., Builder]
Context = Callable[..., Path]


def processes_with(marker: str) -> list[int]:
    """Pids of processes whose command line holds a marker, other than ours."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(int(name))
    return found


def wait_until_gone(marker: str) -> None:
    """Wait until no process has the marker on its command line."""
    deadline = time.monotonic() + 30
    while processes_with(marker):
        assert time.monotonic() < deadline, f"processes with {marker} survive: {processes_with(marker)}"
        time.sleep(0.01)


def host_mounts() -> set[str]:
    """The mounts of this mount namespace, but for those that other tests make meanwhile for
    themselves: stores on file systems of their own, roots that mmdebstrap fills."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    own = ("test-store ", "/dev/loop")
    return {line for line in lines if "/mmdebstrap." not in line and not line.startswith(own)}
