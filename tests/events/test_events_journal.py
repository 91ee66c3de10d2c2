"""The journal: what is written can be read, whoever wrote it and wherever a writer died."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import Diagnostic, Label, UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.events import types
from arkwright.events.journal import Journal, journal_path, read_journal
from arkwright.events.stream import EventStream

V = "sha256:" + "a" * 64


def every_kind() -> list[types.AnyEvent]:
    place = Label(Span(SourceFile("Dockerfile", "FROM ä\n"), 0, 4), "here")
    return [
        types.Declared(vertex=V, name="[1/2] FROM a", inputs=(V,), group="g"),
        types.Started(vertex=V, tier="crun"),
        types.CacheHit(vertex=V, recorded_at=5, by="content"),
        types.Progress(vertex=V, item="layer", done=1, total=2),
        types.Log(vertex=V, fd=2, data=b'\xff\x00\n{"event":"log"}'),
        types.Warning(diagnostic=Diagnostic(code="c", message="m", labels=(place,)), vertex=V),
        types.Finished(vertex=V),
        types.Failed(vertex=V, message="no", cancelled=True),
        types.Exported(kind="oci", destination="x.tar", digest=V, names=("a", "b")),
    ]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = journal_path(str(tmp_path), "b1")
    stream = EventStream("b1")
    seen: list[types.AnyEvent] = []
    with Journal(path) as journal:
        stream.subscribe(journal)
        stream.subscribe(seen.append)
        for event in every_kind():
            stream.emit(event)
    assert list(read_journal(path)) == seen
    assert [event.seq for event in seen] == list(range(1, 10))
    assert path == str(tmp_path / "history/b1/journal.jsonl")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_each_event_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write
    with Journal(str(tmp_path / "j")) as journal:
        monkeypatch.setattr(os, "write", lambda fd, data: writes.append(bytes(data)) or real(fd, data))
        for event in every_kind():
            journal(event)
        monkeypatch.undo()
    assert len(writes) == 9
    assert all(line.startswith(b'{"event":"') and line.count(b"\n") == 1 for line in writes)


def test_the_record_goes_on_after_a_fork(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    stream = EventStream("b")
    with Journal(path) as journal:
        stream.subscribe(journal)
        stream.emit(types.Started(vertex="parent"))
        child = os.fork()
        if child == 0:
            for number in range(200):
                stream.emit(types.Log(vertex="child", fd=1, data=b"%d" % number))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        stream.emit(types.Finished(vertex="parent"))
    events = list(read_journal(path))
    assert [getattr(event, "vertex", "") for event in events] == ["parent", *["child"] * 200, "parent"]


def test_every_truncation_of_the_last_line_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(str(path)) as journal:
        for event in every_kind():
            journal(event)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for size in range(last, len(whole)):
        path.write_bytes(whole[:size])
        assert list(read_journal(str(path))) == every_kind()[:-1]


def test_a_writer_that_goes_on_after_a_torn_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(str(path)) as journal:
        journal(every_kind()[4])
        whole = path.read_bytes()
        for size in range(1, len(whole)):
            path.write_bytes(whole + whole[:size])
            journal(types.Finished(vertex=V))
            assert list(read_journal(str(path))) == [every_kind()[4], types.Finished(vertex=V)]


def test_a_kind_of_a_later_version_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"event":"teleported","vertex":"x"}\n{"event":"finished","vertex":"v"}\n')
    assert list(read_journal(str(path))) == [types.Finished(vertex="v")]


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b'{"event":"finished","vertex":7}\n', b"\n"])
def test_a_corrupt_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"event":"finished","vertex":"v"}\n' + line)
    with pytest.raises(UserError) as caught:
        list(read_journal(str(path)))
    assert caught.value.code == "corrupt-journal"
    assert "line 2" in str(caught.value)


def test_a_missing_journal(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        list(read_journal(str(tmp_path / "none")))
    assert caught.value.code == "missing-journal"


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        Journal(str(tmp_path / "file" / "b" / "j"))
    assert caught.value.code == "unwritable-journal"


def test_a_full_disk_stops_the_record_not_the_build() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs-/dev/full")
    with Journal("/dev/full") as journal:
        journal(types.Started(vertex=V))
        journal(types.Finished(vertex=V))
        assert journal.error is not None
        assert journal.error.errno == errno.ENOSPC
