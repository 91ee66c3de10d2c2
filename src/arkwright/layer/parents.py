"""The parent directories of the entries of an archive, kept open between entries."""

from __future__ import annotations

from collections.abc import Callable

from arkwright.layer import files
from arkwright.layer.rooted import DIRECTORY, Create, Root, open_at

_KEPT_OPEN = 64

Enter = Callable[[int, str], None]


class Parents:
    """Descriptors of parent directories by their path in the archive.

    `create` makes what is missing (see `Root.open_directories`); `enter` is called with the
    descriptor and canonical path of a directory before anything is changed in it.
    """

    def __init__(self, root: Root, create: Create, enter: Enter) -> None:
        self._root = root
        self._create = create
        self._enter = enter
        self._open: dict[str, tuple[int, str]] = {}
        self._stale = False

    def of(self, path: str, *, create: bool = True) -> tuple[int, str, str]:
        """The parent's descriptor, the canonical path of `path`, its last name.

        The descriptor stays open until the next call. Without `create`, a missing parent is a
        `FileNotFoundError`.
        """
        if self._stale:
            self.close()
        parent, _, name = path.rpartition("/")
        found = self._open.get(parent)
        if found is None:
            found = self._find(parent, create)
        fd, canonical = found
        return fd, f"{canonical}/{name}" if canonical else name, name

    def forget(self) -> None:
        """A directory or link was removed: at the next call, look again."""
        self._stale = True

    def close(self) -> None:
        for fd, _ in self._open.values():
            files.close(fd)
        self._open.clear()
        self._stale = False

    def _find(self, parent: str, create: bool) -> tuple[int, str]:
        found = self._step(parent)
        if found is None:
            maker = self._create if create else None
            found = self._root.open_directories(parent.split("/"), create=maker)
        if len(self._open) >= _KEPT_OPEN:
            oldest = next(iter(self._open))
            files.close(self._open.pop(oldest)[0])
        self._open[parent] = found
        self._enter(*found)
        return found

    def _step(self, parent: str) -> tuple[int, str] | None:
        """From the parent's own parent, if that is open and the step is a plain one."""
        above, _, name = parent.rpartition("/")
        known = self._open.get(above)
        if known is None or not name:
            return None
        try:
            fd = open_at(known[0], name, DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return fd, f"{known[1]}/{name}" if known[1] else name
