"""The canonical diff: what a layer must say so that a lower tree becomes an upper one.

A pure function of the two trees. A path appears if and only if its type, mode, owner, attributes,
content, link target, device or time differ, or if it is an ancestor of such a path, or a
member of a hard-link group with such a member. Which names are one file is no change by itself: overlayfs
splits a group when it copies one name up, so a layer that told it would depend on the tier. Deletions are whiteouts per name; there are no
opaque entries. The time is the one that the layer will say, if the caller gives the rule for it (`stamp`): no
cache key covers a raw mtime, and a layer that came back from a registry has none. The root itself appears only when its mode, owner or attributes differ (from
0755 0:0 if there is no lower tree): its time says nothing, and it is nobody's ancestor.

Two plain trees:             `diff(lower, upper)`
An overlay's upper directory: `diff(lower, upper, overlay=True)`, where `lower` is a view of the
                             merged lower directories: reads only what the upper one holds
Other upper layouts:         `diff_facts(lower, upper, facts)` with your own sorted `tree.Fact`s:
                             every path that may have changed and all its ancestors from the root
                             (`""`) down; deletions as `whiteout` entries; `opaque` on a directory
                             that hides its lower counterpart, which holds for all below it too
One pair of entries:         `same(...)`

The changes come sorted as `tree` says and are made lazily. Their `open` works while `upper` is
open. All functions raise `HostUnsupported` `tree-unreadable`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.layer.entry import Change, Entry
from arkwright.layer.pending import Candidate, Pending
from arkwright.layer.rooted import DirStack, Root, duplicate
from arkwright.layer.tree import Contents, Fact, Skip, entry_at, facts, sorted_names

_BLOCK = 1 << 18
_PLAIN_ROOT = Entry(path="", type="dir", mode=0o755)

Open = Callable[[str], BinaryIO]
Untouched = Callable[[str, os.stat_result], bool]
Stamp = Callable[[Entry], int]


def diff(
    lower: Root | None,
    upper: Root,
    *,
    overlay: bool = False,
    on_skip: Skip | None = None,
    untouched: Untouched | None = None,
    stamp: Stamp | None = None,
) -> Iterator[Change]:
    """The changes that turn the tree `lower` (None: nothing at all) into `upper`.

    With `overlay`, `upper` is an upper directory of overlayfs on `lower`: char devices 0/0 are
    deletions, `user.overlay.opaque` directories hide. `on_skip` gets the paths of sockets.
    `untouched` says of a path and its status in `upper` that the content is known to be that of `lower`.
    `stamp` gives the time of an entry that counts, in nanoseconds; without it the raw mtime does.
    """
    found = facts(upper, overlay=overlay, on_skip=on_skip)
    return diff_facts(lower, upper, found if overlay else _hiding(found), untouched, stamp)


def diff_facts(
    lower: Root | None,
    upper: Root,
    facts: Iterable[Fact],
    untouched: Untouched | None = None,
    stamp: Stamp | None = None,
) -> Iterator[Change]:
    """The changes that `facts`, sorted and with all ancestors, make of `lower`; for the rest see `diff`."""
    contents = Contents(upper)
    pending = Pending()
    try:
        with _reading():
            for candidate in _compare(lower, contents, facts, untouched, stamp):
                pending.add(candidate)
                for entry in pending.ready():
                    yield _change(entry, contents)
            pending.finish()
            for entry in pending.ready():
                yield _change(entry, contents)
    finally:
        contents.close()


def same(
    one: tuple[Entry, os.stat_result],
    other: tuple[Entry, os.stat_result],
    open_one: Callable[[], BinaryIO],
    open_other: Callable[[], BinaryIO],
    stamp: Stamp | None = None,
) -> bool:
    """Whether two entries of one path are alike in all that a layer says; for `stamp` see `diff`.

    Content is read only when all else is alike and the inode is not the same.
    """
    if _identity(one[1]) == _identity(other[1]):
        return True
    if not _told_alike(one[0], other[0], stamp):
        return False
    if one[0].type != "file" or one[0].size == 0:
        return True
    with open_one() as stream, open_other() as counterpart:
        return _same_content(stream, counterpart)


def _told_alike(one: Entry, other: Entry, stamp: Stamp | None) -> bool:
    if stamp is None or one.mtime_ns == other.mtime_ns:
        return one == other
    if stamp(one) != stamp(other):
        return False
    return one == msgspec.structs.replace(other, mtime_ns=one.mtime_ns)


def _hiding(found: Iterable[Fact]) -> Iterator[Fact]:
    for fact in found:
        yield fact if fact.entry.path else fact._replace(opaque=True)


def _change(entry: Entry, contents: Contents) -> Change:
    if entry.type != "file":
        return Change(entry)
    return Change(entry, partial(_open, contents, entry.path))


def _open(contents: Contents, path: str) -> BinaryIO:
    with _reading():
        return contents.open(path)


class _Level:
    """A directory of the upper tree, and what the lower one has there."""

    __slots__ = ("hiding", "in_lower", "names", "next", "prefix")

    def __init__(self, path: str, *, in_lower: bool, hiding: bool, names: list[str]) -> None:
        self.prefix = path + "/" if path else ""
        self.in_lower = in_lower
        self.hiding = hiding
        # Lower names, only if hiding: those passed over are deleted.
        self.names = names
        self.next = 0


class _Lower:
    """The lower tree, followed down in step with the upper one."""

    def __init__(self, root: Root | None) -> None:
        self._root = root
        self._stack = DirStack(duplicate(root.fd)) if root is not None else None
        self._contents = Contents(root) if root is not None else None
        self.levels: list[_Level] = []

    def entry(self, name: str, path: str) -> tuple[Entry, os.stat_result] | None:
        """The counterpart of `path`, which is in the current directory."""
        if self._stack is None or (self.levels and not self.levels[-1].in_lower):
            return None
        return entry_at(self._stack.fd, name, path)

    def open(self, path: str) -> BinaryIO:
        assert self._contents is not None
        return self._contents.open(path)

    def enter(self, fact: Fact, counterpart: tuple[Entry, os.stat_result] | None) -> None:
        """Go down with a directory of the upper tree."""
        in_lower = counterpart is not None and counterpart[0].type == "dir"
        hiding = fact.opaque or (bool(self.levels) and self.levels[-1].hiding)
        names: list[str] = []
        if in_lower and self._stack is not None:
            if self.levels:
                self._stack.push(fact.entry.path.rpartition("/")[2])
            names = sorted_names(self._stack.fd) if hiding else []
        self.levels.append(_Level(fact.entry.path, in_lower=in_lower, hiding=hiding, names=names))

    def leave(self) -> Iterator[Candidate]:
        """Go up; what the lower directory had after the last upper name was deleted."""
        yield from self.passed_over(None)
        if self.levels.pop().in_lower and self.levels and self._stack is not None:
            self._stack.pop()

    def passed_over(self, name: str | None) -> Iterator[Candidate]:
        """Deletions of the lower names before `name` (None: all that are left)."""
        level = self.levels[-1]
        key = None if name is None else os.fsencode(name)
        while level.next < len(level.names):
            candidate = level.names[level.next]
            if key is not None and os.fsencode(candidate) >= key:
                level.next += candidate == name
                return
            level.next += 1
            path = level.prefix + candidate
            if self.entry(candidate, path) is not None:
                yield Candidate(Entry(path=path, type="whiteout"), None, changed=True)

    def close(self) -> None:
        if self._stack is not None and self._contents is not None:
            self._stack.close()
            self._contents.close()


def _compare(
    lower: Root | None,
    contents: Contents,
    facts: Iterable[Fact],
    untouched: Untouched | None,
    stamp: Stamp | None,
) -> Iterator[Candidate]:
    below = _Lower(lower)
    try:
        for fact in facts:
            entry = fact.entry
            if entry.path == "":
                yield _root_candidate(fact, below)
                continue
            while below.levels and not entry.path.startswith(below.levels[-1].prefix):
                yield from below.leave()
            name = entry.path.rpartition("/")[2]
            yield from below.passed_over(name)
            counterpart = below.entry(name, entry.path)
            if fact.status is None:
                if counterpart is not None:
                    yield Candidate(entry, None, changed=True)
                continue
            if counterpart is not None and untouched is not None and untouched(entry.path, fact.status):
                changed = not _told_alike(entry, counterpart[0], stamp)
            else:
                changed = counterpart is None or not same(
                    (entry, fact.status),
                    counterpart,
                    partial(contents.open, entry.path),
                    partial(below.open, entry.path),
                    stamp,
                )
            yield Candidate(entry, fact.status, changed=changed)
            if entry.type == "dir":
                below.enter(fact, counterpart)
        while below.levels:
            yield from below.leave()
    finally:
        below.close()


def _root_candidate(fact: Fact, below: _Lower) -> Candidate:
    counterpart = below.entry(".", "")
    reference = counterpart[0] if counterpart is not None else _PLAIN_ROOT
    timed = msgspec.structs.replace(reference, mtime_ns=fact.entry.mtime_ns)
    below.enter(fact, counterpart)
    return Candidate(fact.entry, fact.status, changed=timed != fact.entry)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _same_content(one: BinaryIO, other: BinaryIO) -> bool:
    # Raw files: a read gives all that was asked for unless the file ends.
    while block := one.read(_BLOCK):
        if block != other.read(_BLOCK):
            return False
    return not other.read(1)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise HostUnsupported.of(
            "tree-unreadable",
            f"cannot read the tree of a layer: {error.strerror or error}{where}",
            details={"probe": f"errno {error.errno}", "fix": "check the file system of the store"},
        ) from error
