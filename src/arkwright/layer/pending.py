"""The part of a diff that is not decided yet.

Whether a path appears may depend on paths that come later: an unchanged directory appears with
the first change below it, an unchanged member of a hard-link group with the first changed member.
Candidates wait in order until their fate is known; nothing else is kept, so that memory does not
grow with the tree.
"""

from __future__ import annotations

import enum
import os
from collections import deque
from collections.abc import Iterator

import msgspec

from arkwright.layer.entry import Entry


class _Fate(enum.Enum):
    OPEN = enum.auto()
    APPEARS = enum.auto()
    DROPPED = enum.auto()


class Candidate:
    """A path that may appear. `status` is None for a whiteout."""

    __slots__ = ("changed", "entry", "fate", "inode", "parent", "queued", "waiting_below")

    def __init__(self, entry: Entry, status: os.stat_result | None, *, changed: bool) -> None:
        self.entry = entry
        self.changed = changed
        self.inode: tuple[int, int, int] | None = None
        if status is not None and status.st_nlink > 1 and entry.type != "dir":
            self.inode = (status.st_dev, status.st_ino, status.st_nlink)
        self.parent: Candidate | None = None
        self.fate = _Fate.OPEN
        self.queued = False
        self.waiting_below = 0


class _Group:
    """A hard-link group of which not all members were seen."""

    __slots__ = ("members", "seen", "touched")

    def __init__(self) -> None:
        self.seen = 0
        self.touched = False
        self.members: list[Candidate] = []


class Pending:
    """Add candidates in order, take entries in order."""

    def __init__(self) -> None:
        self._queue: deque[Candidate] = deque()
        self._directories: list[Candidate] = []
        self._groups: dict[tuple[int, int, int], _Group] = {}
        self._first: dict[tuple[int, int, int], str] = {}

    def add(self, candidate: Candidate) -> None:
        path = candidate.entry.path
        directories = self._directories
        while directories and not path.startswith(directories[-1].entry.path + "/"):
            directories.pop()
        candidate.parent = directories[-1] if directories else None
        # The root is nobody's ancestor here.
        if candidate.entry.type == "dir" and path:
            directories.append(candidate)
        if candidate.inode is not None:
            self._join(candidate, candidate.inode)
        elif candidate.changed:
            self._appear(candidate)

    def ready(self) -> Iterator[Entry]:
        """The entries that are decided, up to the first that is not."""
        queue = self._queue
        while queue and queue[0].fate is not _Fate.OPEN:
            candidate = queue.popleft()
            candidate.queued = False
            if candidate.fate is _Fate.APPEARS:
                yield self._linked(candidate)

    def finish(self) -> None:
        """No more candidates come: groups with members elsewhere are what was seen of them."""
        for group in self._groups.values():
            self._drop_members(group)
        self._groups.clear()

    def _join(self, candidate: Candidate, inode: tuple[int, int, int]) -> None:
        group = self._groups.setdefault(inode, _Group())
        group.seen += 1
        if candidate.changed and not group.touched:
            group.touched = True
            for member in group.members:
                self._appear(member)
            group.members.clear()
        if group.touched:
            self._appear(candidate)
        else:
            self._wait(candidate)
            group.members.append(candidate)
        if group.seen == inode[2]:
            self._drop_members(group)
            del self._groups[inode]

    def _drop_members(self, group: _Group) -> None:
        for member in group.members:
            self._drop(member)
        group.members.clear()

    def _appear(self, candidate: Candidate) -> None:
        for node in reversed(self._chain(candidate)):
            node.fate = _Fate.APPEARS
            self._enqueue(node)

    def _wait(self, candidate: Candidate) -> None:
        for node in reversed(self._chain(candidate)):
            if node.fate is _Fate.OPEN and node.queued:
                continue
            node.fate = _Fate.OPEN
            self._enqueue(node)
            if node.parent is not None:
                node.parent.waiting_below += 1

    def _drop(self, candidate: Candidate | None) -> None:
        while candidate is not None and candidate.fate is _Fate.OPEN:
            candidate.fate = _Fate.DROPPED
            candidate = candidate.parent
            if candidate is not None:
                candidate.waiting_below -= 1
                if candidate.waiting_below:
                    return

    def _chain(self, candidate: Candidate) -> list[Candidate]:
        chain = []
        node: Candidate | None = candidate
        while node is not None and node.fate is not _Fate.APPEARS:
            chain.append(node)
            node = node.parent
        return chain

    def _enqueue(self, node: Candidate) -> None:
        if not node.queued:
            node.queued = True
            self._queue.append(node)

    def _linked(self, candidate: Candidate) -> Entry:
        entry = candidate.entry
        if candidate.inode is None:
            return entry
        first = self._first.setdefault(candidate.inode, entry.path)
        if first == entry.path:
            return entry
        return msgspec.structs.replace(
            entry, type="hardlink", link=first, size=0, xattrs=(), major=0, minor=0
        )
