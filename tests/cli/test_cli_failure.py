"""The end of a failed build, as the user sees it."""

from __future__ import annotations

from arkwright.cli.failure import describe
from arkwright.diagnostics.errors import HostUnsupported, Label, RemoteError, StepFailed
from arkwright.diagnostics.spans import SourceFile, Span

FILE = SourceFile("Dockerfile", "FROM debian\nRUN make all\n")


def test_a_failed_step() -> None:
    error = StepFailed.of(
        "step-failed",
        "the command ended with status 2",
        Label(Span(FILE, 12, 24), "this step"),
        details={
            "vertex": "sha256:1",
            "command": "/bin/sh -c make all",
            "status": 2,
            "signal": None,
            "oom": False,
            "tail": ["cc app.c", "\x1b[31merror\x1b[0m: no\x07"],
            "shell": "arkwright run --failed-step 1f0c9a",
        },
    )
    assert describe(error) == (
        "error[step-failed]: the command ended with status 2\n"
        "  Dockerfile:2:1\n"
        "2 │ RUN make all\n"
        "  │ ^^^^^^^^^^^^ this step\n"
        "  docs: docs/reference/errors/step-failed.md\n"
        "  command: /bin/sh -c make all\n"
        "  status:  exit 2\n"
        "  last output:\n"
        "    │ cc app.c\n"
        "    │ error: no\\x07\n"
        "  to open a shell where it failed: arkwright run --failed-step 1f0c9a\n"
    )


def test_the_shell_is_named_once() -> None:
    error = StepFailed.of(
        "step-failed",
        "m",
        hint="look: arkwright run --failed-step 1f",
        details={"shell": "arkwright run --failed-step 1f"},
    )
    assert describe(error).count("--failed-step") == 1


def test_a_step_that_was_killed() -> None:
    details = {"command": "a\nb", "status": 137, "signal": 9, "oom": True, "tail": [], "shell": None}
    text = describe(StepFailed.of("step-failed", "m", details=details))
    assert text.splitlines()[2:] == [
        "  command: a",
        "           b",
        "  status:  exit 137, killed by signal 9 (SIGKILL), out of memory",
    ]


def test_a_remote_failure_names_the_request() -> None:
    error = RemoteError.of(
        "remote-unreachable",
        "m",
        details={
            "method": "GET",
            "url": "https://r.example/v2/",
            "status": 503,
            "remote_code": "UNAVAILABLE",
            "attempts": 4,
        },
    )
    assert describe(error).splitlines()[2:] == [
        "  request: GET https://r.example/v2/",
        "  answer:  503 UNAVAILABLE",
        "  attempts: 4",
    ]


def test_a_host_that_lacks_something_says_what_would_fix_it() -> None:
    error = HostUnsupported.of("no-runtime", "m", details={"probe": "x", "fix": "apt install crun"})
    assert describe(error).splitlines()[-1] == "  fix: apt install crun"
