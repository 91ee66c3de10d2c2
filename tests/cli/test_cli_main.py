"""The program as a whole: table, help, errors, exit status, imports."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from arkwright import __version__
from arkwright.cli import report as report_module
from arkwright.cli.main import Program, program
from arkwright.cli.table import COMMANDS
from arkwright.diagnostics.errors import (
    ArkwrightError,
    Cancelled,
    Denied,
    HostUnsupported,
    RemoteError,
    StepFailed,
    UserError,
)

HEAVY = (
    "http",
    "ssl",
    "asyncio",
    "rich",
    "yaml",
    "subprocess",
    "tarfile",
    "zstandard",
    "sqlite3",
    "ctypes",
    "difflib",
)


def test_version(run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"arkwright {__version__}\n")


def test_the_overview_names_every_command_and_imports_none(spawn) -> None:
    result = spawn("--help")
    assert result.returncode == 0
    for name, entry in COMMANDS.items():
        assert name in result.stdout
        assert entry.short_help in result.stdout
    assert spawn().stdout == result.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_loads_and_teaches(run, name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    assert command.name == name
    assert command.short_help == COMMANDS[name].short_help
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"arkwright {name}" in result.stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["buidl"], "unknown-command", "did you mean `arkwright build`?"),
        (["zzz"], "unknown-command", "arkwright --help"),
        (["build", "--tagg", "x"], "invalid-usage", "did you mean --tag?"),
        (["build", "--cache-form", "x"], "invalid-usage", "did you mean --cache-from?"),
        (["build", "a", "b"], "invalid-usage", "unexpected extra argument"),
        (["build", "--network", "mars"], "invalid-usage", "'mars' is not one of"),
        (["build", "--jobs", "many"], "invalid-usage", "not a valid integer"),
        (["tag", "x"], "invalid-usage", "Missing argument"),
        (["run"], "invalid-usage", "Missing argument"),
        (["completion", "tcsh"], "invalid-usage", "'tcsh' is not one of"),
        (["--frobnicate"], "invalid-usage", "no option --frobnicate"),
    ],
)
def test_wrong_usage_exits_with_2(run, args: list[str], code: str, words: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error[{code}]: ")
    assert words in result.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("images")
    @click.pass_obj
    def images(invocation) -> None:
        invocation.journal_path = os.environ.get("TEST_JOURNAL", "")
        raise error

    monkeypatch.setattr(importlib.import_module("arkwright.cli.images"), "images", images)


def test_a_short_option_without_its_value_is_called_as_it_was_written(run) -> None:
    result = run("build", "-q", "-t")
    assert result.exit_code == 2
    assert "Option '-t' requires an argument" in result.output


def test_the_value_of_a_short_option_may_look_like_one(run, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    result = run("build", "-f", "-q", str(tmp_path))
    assert "error[dockerfile-not-found]" in result.output
    assert "-q" in result.output


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError.of("c", "m"), 1),
        (StepFailed.of("c", "m"), 1),
        (Denied.of("c", "m"), 3),
        (HostUnsupported.of("c", "m"), 4),
        (RemoteError.of("c", "m"), 5),
        (Cancelled.of("c", "m"), 130),
    ],
)
def test_errors_of_ours_have_their_exit_status(run, monkeypatch, error: ArkwrightError, status: int) -> None:
    failing(monkeypatch, error)
    result = run("images")
    assert result.exit_code == status
    assert result.stderr == "error[c]: m\n  docs: docs/reference/errors/c.md\n"
    assert result.stdout == ""


def test_a_fault_names_the_journal_and_hides_the_traceback(run, monkeypatch, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    monkeypatch.setenv("TEST_JOURNAL", str(journal))
    failing(monkeypatch, ZeroDivisionError("oh\x1b[2J"))
    result = run("images")
    assert result.exit_code == 70
    assert result.stderr == (
        "internal error: ZeroDivisionError: oh\\x1b[2J\n"
        "  This is a fault of Arkwright, not of your input.\n"
        f"  Please report it, with the journal of this build: {journal}\n"
        "  ARKWRIGHT_DEBUG=1 shows where it happened.\n"
    )
    monkeypatch.setenv("ARKWRIGHT_DEBUG", "1")
    assert "Traceback (most recent call last)" in run("images").stderr


def test_a_fault_of_the_worker_shows_the_worker_s_traceback(run, monkeypatch) -> None:
    failing(
        monkeypatch,
        ArkwrightError.of("internal-error", "KeyError: 'x'", details={"traceback": "in the worker"}),
    )
    monkeypatch.setenv("ARKWRIGHT_DEBUG", "1")
    result = run("images")
    assert result.exit_code == 70
    assert "internal error: KeyError: 'x'" in result.stderr
    assert "in the worker" in result.stderr


def test_a_full_disk_that_nobody_caught_is_not_called_a_fault(run, monkeypatch) -> None:
    failing(monkeypatch, OSError(errno.ENOSPC, "No space", "/store/x"))
    result = run("images")
    assert result.exit_code == 1
    assert result.stderr.startswith("error[no-space]: no space left on the file system of /store/x")


def test_an_interrupt_exits_with_130(run, monkeypatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    result = run("images")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert result.stderr.strip() == "interrupted"


def test_a_reader_that_went_away_is_no_drama(tmp_path: Path) -> None:
    code = "from arkwright.cli.main import main; main()"
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    process = subprocess.Popen(
        [sys.executable, "-c", code, "build", "--help"], stdout=write_fd, stderr=subprocess.PIPE
    )
    os.close(write_fd)
    _, stderr = process.communicate(timeout=60)
    assert stderr == b""
    assert process.returncode == 1


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "a socket's"), EOFError("torn")])
def test_a_broken_socket_is_not_taken_for_a_closed_output(run, monkeypatch, error: Exception) -> None:
    failing(monkeypatch, error)
    result = run("images")
    assert result.exit_code == 70
    assert result.stderr.startswith(f"internal error: {type(error).__name__}: ")


def test_a_signal_in_the_middle_exits_with_130(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import sys, importlib, click\n"
        "from arkwright.cli.main import main\n"
        "images = importlib.import_module('arkwright.cli.images')\n"
        "wait = lambda: (print('ready', flush=True), open(sys.argv[2]).read())\n"
        "images.images = click.Command('images', params=[click.Argument(['path'], expose_value=False)], callback=wait)\n"
        f"sys.argv = ['arkwright', 'images', {str(fifo)!r}]\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_what_the_program_imports(spawn) -> None:
    """Starting, and parsing a build, must stay light; see the import test of cached builds too."""
    code = (
        "import sys, json\n"
        "from arkwright.cli.main import program\n"
        "import arkwright.cli.build, arkwright.cli.progress\n"
        "try: program.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY)
    assert {name for name in loaded if name.startswith("arkwright.")} <= {
        "arkwright.build", "arkwright.build.request", "arkwright.build.session", "arkwright.cli",
        "arkwright.cache", "arkwright.cache.remote_options",
        "arkwright.diagnostics", "arkwright.diagnostics.amounts", "arkwright.diagnostics.errors", "arkwright.diagnostics.spans",
            "arkwright.diagnostics.wire",
        "arkwright.diagnostics.cells", "arkwright.diagnostics.suggest", "arkwright.events",
        "arkwright.events.types", "arkwright.exporters", "arkwright.exporters.annotations", "arkwright.exporters.base", "arkwright.exporters.outputs", "arkwright.graph",
        "arkwright.graph.ops", "arkwright.oci", "arkwright.oci.config", "arkwright.oci.descriptor",
        "arkwright.oci.digest", "arkwright.oci.platform", "arkwright.oci.reference",
        "arkwright.sandbox", "arkwright.sandbox.spec",
    } | {name for name in loaded if name.startswith("arkwright.cli.")}  # fmt: skip


def test_the_version_loads_no_command(spawn) -> None:
    code = (
        "import sys, json\n"
        "from arkwright.cli.main import program\n"
        "try: program.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in json.loads(done.stdout.splitlines()[-1]) if name.startswith("arkwright.cli.")}
    assert loaded == {f"arkwright.cli.{name}" for name in ("main", "invocation", "parameters", "table")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_ARKWRIGHT_COMPLETE" in result.stdout


def test_bash_can_read_the_script_and_complete(spawn, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(spawn("completion", "bash").stdout)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    words = {"_ARKWRIGHT_COMPLETE": "bash_complete", "COMP_WORDS": "arkwright bu", "COMP_CWORD": "1"}
    assert spawn(env=words).stdout.splitlines() == ["plain,build"]
    words = {
        "_ARKWRIGHT_COMPLETE": "bash_complete",
        "COMP_WORDS": "arkwright build --no-c",
        "COMP_CWORD": "2",
    }
    assert "plain,--no-cache" in spawn(env=words).stdout.splitlines()


def test_colour_follows_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    from arkwright.cli.invocation import wants_color

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_color(Terminal())  # type: ignore[arg-type]


def test_the_exit_codes_that_the_help_promises() -> None:
    assert (report_module.INTERNAL, report_module.INTERRUPTED) == (70, 130)
    assert isinstance(program, Program)


def test_the_reference_page_has_every_command_and_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arkwright.cli.reference import reference, write_reference

    page = reference()
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        assert f"### arkwright {name}\n" in page
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(spelling in page for spelling in option.opts), option.opts
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("ARKWRIGHT_ROOT", "/elsewhere")
    write_reference(str(tmp_path / "cli.md"))
    assert (tmp_path / "cli.md").read_text() == page
