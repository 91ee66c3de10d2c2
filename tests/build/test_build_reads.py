"""What a build opens and lists of the user's directories, told by inotify(7), which sees every
process; and that it never changes anything there."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from copy_cases import result_tree

from building import Builder, Context, MakeBuilder

_ACCESS, _ATTRIB, _OPEN, _ISDIR, _OVERFLOW = 0x1, 0x4, 0x20, 0x40000000, 0x4000
_MODIFIED = 0x2 | _ATTRIB | 0x40 | 0x80 | 0x100 | 0x200
_EVENT = struct.Struct("iIII")


class Watch:
    """What happened in a tree; paths are relative to its top."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        self.changed: set[str] = set()


@contextmanager
def watched(top: Path, filled: list[Watch]) -> Iterator[None]:
    """Put a `Watch` of the body's time into `filled`."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0
    try:
        places: dict[int, str] = {}
        for here, _, _ in os.walk(top):
            number = libc.inotify_add_watch(fd, os.fsencode(here), _ACCESS | _OPEN | _MODIFIED)
            assert number >= 0, os.strerror(ctypes.get_errno())
            places[number] = os.path.relpath(here, top)
        _drain(fd)
        yield
        watch = Watch()
        for number, mask, name in _drain(fd):
            assert not mask & _OVERFLOW
            path = os.path.normpath(os.path.join(places[number], name))
            if mask & _MODIFIED:
                watch.changed.add(path)
            elif mask & _ISDIR and mask & _ACCESS and not name:
                watch.listed[path] += 1
            elif mask & _OPEN and not mask & _ISDIR:
                watch.opened[path] += 1
        filled.append(watch)
    finally:
        os.close(fd)


def _drain(fd: int) -> list[tuple[int, int, str]]:
    found = []
    while True:
        try:
            data = os.read(fd, 1 << 20)
        except BlockingIOError:
            return found
        while data:
            number, mask, _, size = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + size].rstrip(b"\0").decode()
            found.append((number, mask, name))
            data = data[_EVENT.size + size :]


def big(context: Context, text: str, count: int, ignore: str = "") -> Path:
    """A context of `count` files, a hundred in a directory, and three more in `src`."""
    files = {"Dockerfile": text, "src/a.c": "a", "src/b.c": "b", "src/sub/c.c": "c"}
    root = context(files | ({".dockerignore": ignore} if ignore else {}))
    for number in range(count // 100):
        place = root / f"more/{number % 10}/{number}"
        place.mkdir(parents=True)
        for name in range(100):
            (place / str(name)).touch()
    return root


def reads(builder: Builder, root: Path, *args: str) -> Watch:
    filled: list[Watch] = []
    with watched(root, filled):
        builder.run("build", *args, str(root))
    (watch,) = filled
    assert watch.changed == set()
    return watch


def check_literal(builder: Builder, root: Path) -> None:
    watch = reads(builder, root)
    assert watch.listed == {}
    assert set(watch.opened) == {"Dockerfile", "src/a.c", "src/b.c", "src/sub/c.c"}


LITERAL = (
    "FROM busybox\nCOPY src/a.c src/b.c /x/\nRUN --mount=type=bind,source=src/sub/c.c,target=/c cat /c > /o\n"
)


def test_literal_paths_list_nothing(builder: Builder, context: Context) -> None:
    check_literal(builder, big(context, LITERAL, 2_000))


@pytest.mark.soak
def test_literal_paths_of_a_hundred_thousand_files(make_builder: MakeBuilder, context: Context) -> None:
    count = 100_000 if os.environ.get("ARKWRIGHT_SOAK") else 3_000
    check_literal(make_builder("root"), big(context, LITERAL, count))


def test_a_wildcard_lists_its_directory_only(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    watch = reads(builder, big(context, "FROM scratch\nCOPY src/*.c /\n", 2_000))
    assert set(watch.listed) == {"src"}
    assert set(watch.opened) == {"Dockerfile", "src/a.c", "src/b.c"}


@pytest.mark.parametrize(
    ("text", "ignore", "opened"),
    [
        ("COPY . /", "more\n", {"src/a.c", "src/b.c", "src/sub/c.c", "Dockerfile", ".dockerignore"}),
        ("COPY . /", "*\n!src/*.c\n", {"src/a.c", "src/b.c"}),
        ("COPY --parents **/*.c /", "more\n", {"src/a.c", "src/b.c", "src/sub/c.c"}),
    ],
)
def test_what_is_ignored_is_not_looked_at(
    text: str, ignore: str, opened: set[str], make_builder: MakeBuilder, context: Context
) -> None:
    watch = reads(make_builder("root"), big(context, f"FROM scratch\n{text}\n", 2_000, ignore))
    assert not [path for path in watch.listed if path.startswith("more")]
    assert set(watch.opened) == opened | {"Dockerfile", ".dockerignore"}


def test_stages_that_nothing_needs_read_nothing(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    text = "FROM scratch AS other\nCOPY more /\nFROM scratch\nCOPY src/a.c /\n"
    watch = reads(builder, big(context, text, 200))
    assert (set(watch.opened), watch.listed) == ({"Dockerfile", "src/a.c"}, {})


def test_a_directory_is_walked_once_for_its_key(make_builder: MakeBuilder, context: Context) -> None:
    """A cached build needs the content of a directory that it copies, once for all who copy it."""
    builder = make_builder("root")
    root = big(context, "FROM scratch\nCOPY src /a\nCOPY src /b\nCOPY src /c\n", 200)
    builder.run("build", str(root))
    watch = reads(builder, root)
    # getdents(2) is called until it gives nothing: twice for one listing.
    assert set(watch.listed) == {"src", "src/sub"}
    assert max(watch.listed.values()) <= 2
    # The stat cache may not yet trust files this new; then each is read once.
    assert max(watch.opened[path] for path in ("src/a.c", "src/b.c", "src/sub/c.c")) <= 1


CLOSED = ("f", "d", "d/inner", "deep/below/f")


@pytest.fixture
def closed(context: Context, make_builder: MakeBuilder) -> tuple[Builder, Path]:
    """A plain user's builder, and a context of that user with files of mode 0."""
    builder = make_builder("subids")
    root = context(
        {"Dockerfile": "", "open": "x", "d/x": "x", "d/inner/x": "x", "f": "x", "deep/below/f": "x"}
    )
    for here, directories, files in os.walk(root):
        for name in (*directories, *files, "."):
            os.chown(os.path.join(here, name), builder.uid, builder.uid)
    for name in reversed(CLOSED):
        (root / name).chmod(0)
    return builder, root


def facts(root: Path) -> dict[str, tuple[int, int]]:
    """Mode and ctime, which any change of a mode moves, as root sees them."""
    found = {}
    for here, directories, files in os.walk(root):
        for name in (*directories, *files):
            status = os.lstat(os.path.join(here, name))
            found[os.path.join(here, name)] = (status.st_mode, status.st_ctime_ns)
    return found


FORBIDDEN = {
    "COPY f /": "f",
    "COPY . /x": "",
    "COPY d/x /x": "d/x",
    "COPY deep /x": "deep/below/f",
    "COPY d/* /x/": "d/*",
    "COPY --parents ./**/x /x": "**/x",
    "ADD f /": "f",
}


def test_modes_of_the_users_files_are_never_touched(closed: tuple[Builder, Path]) -> None:
    builder, root = closed
    for text, named in FORBIDDEN.items():
        (root / "Dockerfile").write_text(f"FROM scratch\n{text}\n")
        before = facts(root)
        filled: list[Watch] = []
        with watched(root, filled):
            done = builder.run("build", str(root), status=1)
        assert filled[0].changed == set(), text
        assert facts(root) == before, text
        first = next(line for line in done.err.splitlines() if line.startswith("error["))
        assert first.startswith("error[unreadable-path]"), text
        assert f"{named}:" in first, text
        assert "Dockerfile:2:" in done.err


def test_what_is_ignored_may_be_closed(closed: tuple[Builder, Path]) -> None:
    builder, root = closed
    (root / ".dockerignore").write_text("f\nd\ndeep\n")
    for text in ("COPY . /x", "COPY --parents ./**/open /x", "COPY */* op* /x/"):
        (root / "Dockerfile").write_text(f"FROM scratch\n{text}\n")
        before = facts(root)
        assert any(name.endswith("open") for name in result_tree(builder, root).members), text
        assert facts(root) == before, text


def test_root_reads_what_is_closed(make_builder: MakeBuilder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY d /\n", "d/x": "x"})
    (root / "d/x").chmod(0)
    (root / "d").chmod(0)
    found = result_tree(make_builder("root"), root).seen("x")
    assert found is not None
    assert (found.text, found.mode) == ("x", 0)
