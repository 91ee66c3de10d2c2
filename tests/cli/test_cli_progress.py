"""Progress as folds over a recorded journal; the golden text is written by hand."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arkwright.cli.board import Board, bytes_text
from arkwright.cli.plain import PlainProgress
from arkwright.cli.progress import DeferredTty, ProgressView, progress_view
from arkwright.cli.quiet import QuietProgress
from arkwright.cli.rawjson import RawJsonProgress
from arkwright.cli.steplog import Lines, neutralise
from arkwright.events import types
from arkwright.events.journal import read_journal

JOURNAL = Path(__file__).parent / "journals" / "mixed.jsonl"

PLAIN = """\
warning[keyword-case]: 'as' and 'FROM' differ in case
  Dockerfile:4:13
4 │ FROM debian as base
  │             ^^ write AS
  docs: docs/reference/errors/keyword-case.md

#1 [internal] load debian:bookworm
#1 CACHED

#2 [builder 2/3] RUN make

#3 [base] RUN <<EOF curl evil EOF
#2 layer 1 1.5MB / 10.0MB
#2 layer 1 10.0MB / 10.0MB done
#2 0.512 cc app.c
#3 0.500 red title
#3 0.500 100%
#2 0.600 ld app
#2 1.200 wide 漢 no end
#2 DONE 1.2s

#4 [builder 3/3] COPY . .
#3 ERROR: exit status 22

#4 CANCELED

exported oci to x.tar sha256:0000000000000000000000000000000000000000000000000000000000000009 as docker.io/library/x:latest
"""


def events() -> list[types.AnyEvent]:
    return list(read_journal(str(JOURNAL)))


def play(view: ProgressView) -> None:
    for event in events():
        view(event)
    view.finish()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain() -> None:
    out = io.StringIO()
    play(PlainProgress(out))
    assert out.getvalue() == PLAIN


def test_plain_leaves_colours_to_a_log_viewer() -> None:
    out = io.StringIO()
    play(PlainProgress(out, safe=False))
    assert "#3 0.500 \x1b[31mred\x1b[0m \x1b]0;owned\x07title\n" in out.getvalue()


def test_plain_depends_on_the_events_alone() -> None:
    """Two folds of one journal, one of them interleaved with another build's, are equal."""
    first, second, other = io.StringIO(), io.StringIO(), io.StringIO()
    play(PlainProgress(first))
    view, noise = PlainProgress(second), PlainProgress(other)
    for event in events():
        view(event)
        noise(event)
        noise(event)
    assert first.getvalue() == second.getvalue() == PLAIN


def test_every_prefix_of_the_journal_shows_a_prefix_of_the_text() -> None:
    recorded = events()
    for length in range(len(recorded)):
        out = io.StringIO()
        view = PlainProgress(out)
        for event in recorded[:length]:
            view(event)
        view.finish()
        assert PLAIN.startswith(out.getvalue())


def test_the_board() -> None:
    board = Board()
    for event in events():
        board.apply(event)
    assert [(step.number, step.state) for step in board.steps.values()] == [
        (1, "cached"), (2, "done"), (4, "cancelled"), (3, "failed"), (0, "waiting"),
    ]  # fmt: skip
    assert board.count("cached") == 1
    assert board.running() == []
    assert len(board.warnings) == len(board.exports) == 1


def test_rawjson_is_the_journal() -> None:
    out = io.StringIO()
    play(RawJsonProgress(out))
    assert out.getvalue().encode() == JOURNAL.read_bytes()
    assert all(next(iter(json.loads(line))) == "event" for line in out.getvalue().splitlines())


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    play(QuietProgress())
    assert capsys.readouterr() == ("", "")


def test_the_choice_of_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_view("auto", Terminal()), DeferredTty)
    assert isinstance(progress_view("tty", Terminal()), DeferredTty)
    assert isinstance(progress_view("auto", io.StringIO()), PlainProgress)
    assert isinstance(progress_view("tty", io.StringIO()), PlainProgress)
    assert isinstance(progress_view("plain", Terminal()), PlainProgress)
    assert isinstance(progress_view("rawjson", Terminal()), RawJsonProgress)
    assert isinstance(progress_view("quiet", Terminal()), QuietProgress)
    assert isinstance(progress_view("none", Terminal()), QuietProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_view("auto", Terminal()), PlainProgress)


def scrolled(text: str) -> list[str]:
    """The lines that stay: colours and redrawing taken away."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line.rsplit("\r", 1)[-1].rstrip() for line in plain.split("\n")]


def test_tty_shows_what_is_final_once_and_no_step_drives_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    play(DeferredTty(out))
    text = out.getvalue()
    lines = scrolled(text)
    for wanted in (
        " => CACHED [internal] load debian:bookworm",
        " => [builder 2/3] RUN make 1.2s",
        " => ERROR [base] RUN <<EOF curl evil EOF 1.2s",
        " => CANCELED [builder 3/3] COPY . . 0.1s",
        "warning[keyword-case]: 'as' and 'FROM' differ in case",
        " => exported oci to x.tar sha256:" + "0" * 63 + "9 as docker.io/library/x:latest",
    ):
        assert lines.count(wanted) == 1, wanted
    assert "\x1b]0;" not in text
    assert "\x1b[31mred" not in text
    assert text.rstrip().endswith("\x1b[?25h")


def test_the_terminal_s_thread_lives_only_while_a_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    view = DeferredTty(Terminal())
    threads = threading.active_count()
    counts: list[tuple[str, int]] = []
    for event in events():
        view(event)
        counts.append((type(event).__name__, threading.active_count() - threads))
    first_start = next(index for index, (name, _) in enumerate(counts) if name == "Started")
    assert all(extra == 0 for _, extra in counts[:first_start])
    assert counts[first_start][1] == 1
    assert counts[-1][1] == 0
    view.finish()
    view.finish()


def test_an_aborted_build_leaves_the_terminal_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = DeferredTty(out)
    threads = threading.active_count()
    for event in events()[:14]:
        view(event)
    assert threading.active_count() == threads + 1
    view.finish()
    assert threading.active_count() == threads
    assert out.getvalue().rstrip().endswith("\x1b[?25h")


def test_what_is_drawn_while_steps_run() -> None:
    from arkwright.cli.tty import live_lines

    board = Board()
    for event in events()[:15]:
        if isinstance(event, types.Log):
            board.step(event.vertex).lines(event)
        board.apply(event)
    drawn = [line.plain.rstrip() for line in live_lines(board, 500_000_000_000 + 650_000_000, 80)]
    assert drawn == [
        "[+] 0.7s  1 cached · 2 running",
        " => [builder 2/3] RUN make 0.6s",
        "    cc app.c",
        " => [base] RUN <<EOF curl evil EOF 0.5s",
        "    red title",
        "    100%",
    ]
    assert all(line.cell_len <= 40 for line in live_lines(board, 0, 40) if line.plain.startswith("    "))


def test_a_cached_build_on_a_terminal_loads_no_rich(tmp_path: Path) -> None:
    """On a real pseudo-terminal, in a process of its own."""
    import pty

    code = (
        "import sys\n"
        "from arkwright.cli.progress import progress_view\n"
        "from arkwright.events import types\n"
        "view = progress_view('auto')\n"
        "view(types.Declared(vertex='v', name='[1/1] RUN \\x1b[2Jx'))\n"
        "view(types.CacheHit(vertex='v'))\n"
        "view(types.Finished(vertex='v'))\n"
        "view.finish()\n"
        "loaded = {'rich'} & set(sys.modules)\n"
        "view(types.Started(vertex='w'))\n"
        "view(types.Finished(vertex='w'))\n"
        "view.finish()\n"
        "print(type(view).__name__, 'rich' in loaded, 'rich' in sys.modules)\n"
    )
    controller_fd, terminal_fd = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=terminal_fd,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal_fd)
    stdout, _ = done.communicate(timeout=60)
    shown = os.read(controller_fd, 65536).decode()
    os.close(controller_fd)
    assert stdout == b"DeferredTty False True\n"
    assert shown.startswith(" => CACHED [1/1] RUN \\x1b[2Jx\r\n")


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]52;c;ZXZpbA==\x07paste", "paste"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$rq\x1b\\dcs", "dcs"),
        ("a\x1b(Bb\x1bcc", "abc"),
        ("\x9b31mred", "red"),
        ("10%\r20%\r", "20%"),
        ("a\tb", "a        b"),
        ("bell\x07 back\x08", "bell\\x07 back\\x08"),
        ("cut \x1b[3", "cut 3"),
        ("\u202etxt.exe", "<U+202E>txt.exe"),
    ],
)
def test_neutralise(raw: str, safe: str) -> None:
    assert neutralise(raw) == safe


def test_lines_are_cut_where_the_bytes_say_and_never_lost() -> None:
    lines = Lines()
    text = "ä漢\r\nb\n\nlast".encode()
    found = [line for byte in text for line in lines.feed(bytes([byte]))] + lines.finish()
    assert found == ["ä漢", "b", "", "last"]
    assert lines.finish() == []
    assert lines.feed(b"\xff\n") == ["\ufffd"]
    endless = lines.feed(b"x" * 200_000) + lines.finish()
    assert "".join(endless) == "x" * 200_000
    assert len(endless) == 4


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1.0kB"), (1_500_000, "1.5MB"), (2 * 10**9, "2.0GB"), (10**13, "10.0TB")]
)  # fmt: skip
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count) == text
