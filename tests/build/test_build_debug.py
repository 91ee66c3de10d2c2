"""Looking into steps: a shell where one fails, the same later, and the tree of any step."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

from building import Builder, Context, MakeBuilder

DOCKERFILE = """\
FROM busybox AS tool
RUN echo from-a-stage > /given
FROM busybox
WORKDIR /work
ENV WHO=step
RUN --mount=type=cache,target=/kept --mount=from=tool,target=/stage --mount=target=/context \\
    --mount=type=secret,id=token,target=/token --mount=type=tmpfs,target=/memory \\
    echo cached > /kept/file && touch done && echo before && exit 7
"""


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, builder: Builder, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            builder.command(*args), cwd=builder.home, env={**builder.env, "TERM": "dumb"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def expect(self, pattern: str, *, timeout_s: float = 60) -> None:
        """Read until the pattern is in what was printed since the last expectation."""
        deadline = time.monotonic() + timeout_s
        begin = len(self.seen)
        while not re.search(pattern, self.seen[begin:]):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            ready, _, _ = select.select([self._ours], [], [], 0.5)
            if ready:
                self.seen += self._read()

    def _read(self) -> str:
        try:
            return os.read(self._ours, 65536).decode(errors="replace")
        except OSError:
            raise AssertionError(f"the terminal was closed after {self.seen!r}") from None

    def send(self, line: str) -> None:
        os.write(self._ours, line.encode() + b"\n")

    def finish(self) -> int:
        """Read to the end; the exit status."""
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        os.close(self._ours)
        return self._process.wait(timeout=60)


def contexts(context: Context, scratch: Path) -> tuple[Path, Path]:
    root = context({"Dockerfile": DOCKERFILE, "source": "from-the-context\n"})
    token = scratch / "token"
    token.write_text("hunter2")
    token.chmod(0o644)
    return root, token


def test_a_shell_where_the_step_failed(builder: Builder, context: Context, scratch: Path) -> None:
    root, token = contexts(context, scratch)
    terminal = Terminal(builder, "build", "--on-error=shell", "--secret", f"id=token,src={token}", str(root))
    terminal.expect("the step failed with status 7")
    terminal.expect("# ")
    terminal.send(
        "echo $WHO $(pwd) $(ls) $(cat /kept/file /stage/given /context/source /token) && tty && echo o''k"
    )
    terminal.expect("ok\r")
    answer = terminal.seen.replace("\r", "")
    assert "step /work done cached from-a-stage from-the-context hunter2\n" in answer
    assert "/dev/" in answer.rpartition("hunter2")[2]
    terminal.send("exit 3")
    assert terminal.finish() == 1
    assert "error[step-failed]" in terminal.seen
    assert "exited with status 7" in terminal.seen
    assert builder.run("fsck").out == "nothing is wrong\n"


def test_a_shell_in_a_failed_step_needs_a_terminal(make_builder: MakeBuilder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN false\n"})
    assert "error[not-a-terminal]" in make_builder().run("build", "--on-error=shell", str(root), status=2).err


def test_debug_opens_a_failed_step_later(builder: Builder, context: Context, scratch: Path) -> None:
    root, token = contexts(context, scratch)
    builder.run("build", "--secret", f"id=token,src={token}", str(root), status=1)
    script = "echo $WHO $(pwd) $(ls) $(cat /kept/file /stage/given /context/source); ls /token; touch /new"
    looked = builder.run("debug", "", "", "sh", "-c", script)
    assert "step /work done cached from-a-stage from-the-context\n" in looked.out
    assert "not mounted: /token (a secret of the build)" in looked.err
    assert "hunter2" not in looked.out + looked.err
    # What was changed is thrown away; the context is gone by now, and its mount with it.
    (root / "source").unlink()
    (root / "Dockerfile").unlink()
    root.rmdir()
    again = builder.run("debug", "", "RUN --mount", "ls", "/")
    assert "new" not in again.out.split()
    assert "not mounted: /context" in again.err
    assert builder.run("debug", "", "", "sh", "-c", "exit 5", status=5)


def test_debug_on_a_terminal(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.run("build", str(context({"Dockerfile": "FROM busybox\nRUN touch /seen && false\n"})), status=1)
    terminal = Terminal(builder, "debug")
    terminal.expect("# ")
    terminal.send("ls /seen && tty")
    terminal.expect("/seen\r\n/dev/")
    terminal.send("exit 4")
    assert terminal.finish() == 4


def test_the_tree_of_any_step(builder: Builder, context: Context) -> None:
    dockerfile = "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\nRUN --network=none false\n"
    root = context({"Dockerfile": dockerfile})
    builder.run("build", str(root), status=1)
    assert builder.run("run", "--step", "echo one", "ls", "/one").out == "/one\n"
    assert builder.run("run", "--step", "echo one", "ls", "/two", status=1).out == ""
    assert builder.run("run", "--step", "echo two", "cat", "/one", "/two").out == "one\ntwo\n"
    assert builder.run("debug", "", "echo two", "cat", "/two").out == "two\n"
    assert "error[ambiguous-step]" in builder.run("run", "--step", "echo", "ls", status=1).err
    assert "error[unknown-step]" in builder.run("run", "--step", "cheese", "ls", status=1).err
    assert "error[step-not-kept]" in builder.run("run", "--step", "false", "ls", status=1).err
    assert (
        "error[unknown-build]" in builder.run("run", "--step", "one", "--build", "none", "ls", status=1).err
    )
    builder.run("prune", "--all")
    assert "error[step-not-kept]" in builder.run("run", "--step", "echo one", "ls", status=1).err
    builder.build(context({"Dockerfile": "FROM busybox\n"}, "fine"))
    assert "error[unknown-step]" in builder.run("debug", status=1).err
