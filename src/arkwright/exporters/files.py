"""`type=local` and `type=tar`: the files of an image, as a directory or as one tar.

A tar is normalised like a layer. A directory keeps the times that the build's steps gave; owners,
and with them devices, setuid and setgid, are kept only for root: otherwise every file is the
user's. Extended attributes are not copied into a directory.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.exporters.base import AssembledImage, BuiltImage, ExportReport, Output
from arkwright.exporters.means import ExportMeans, View, WithMeans
from arkwright.exporters.outputs import flag
from arkwright.images.destination import not_writable, open_destination
from arkwright.layer.diff import diff
from arkwright.layer.entry import Change, Entry
from arkwright.layer.rooted import Root, set_mode
from arkwright.layer.tree import Contents, walk
from arkwright.oci.platform import Platform
from arkwright.store.space import space_needed

_COPY_SIZE = 1 << 20


class LocalExporter(WithMeans):
    """Copies trees into a directory; files that are there are replaced, others stay."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """Raises `UserError` `output-not-writable`, `output-conflict`, `no-space`."""
        split = flag(output, "platform-split", len(built) > 1)
        try:
            with space_needed(output.dest, output.dest):
                for one in built:
                    target_path = os.path.join(output.dest, _folder(one.platform)) if split else output.dest
                    os.makedirs(target_path, exist_ok=True)
                    with _view(self._means)(one.layers) as tree_path, Root(tree_path) as tree:
                        with Root(target_path) as target:
                            _Copy(tree, target, self._means.keep_owner).run()
        except OSError as error:
            raise not_writable(error.filename or output.dest, error) from error
        return ExportReport(type="local", destination=output.dest)


class TarExporter(WithMeans):
    """Writes the merged tree as one tar."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """Raises `UserError` `output-not-writable`, `output-is-a-terminal`, `no-space`,
        `invalid-output-attribute`."""
        from arkwright.layer.tar_write import write_tar

        split = flag(output, "platform-split", len(built) > 1)
        if len(built) > 1 and not split:
            raise UserError.of(
                "invalid-output-attribute", "a tar of several platforms cannot have platform-split=false"
            )
        with open_destination(output.dest) as sink:
            write_tar(self._changes(built, split), sink, stamp=self._means.stamps.of)
        return ExportReport(type="tar", destination=output.dest)

    def _changes(self, built: tuple[BuiltImage, ...], split: bool) -> Iterator[Change]:
        for one in sorted(built, key=lambda item: _folder(item.platform)):
            with _view(self._means)(one.layers) as tree_path, Root(tree_path) as tree:
                for change in diff(None, tree):
                    if split:
                        yield Change(_moved(change.entry, _folder(one.platform)), change.open)
                    elif change.entry.path:
                        yield change


def _view(means: ExportMeans) -> View:
    assert means.view is not None, "trees exist only in the worker"
    return means.view


def _folder(platform: Platform) -> str:
    """The directory of one platform, such as `linux_amd64`."""
    return str(platform).replace("/", "_")


def _moved(entry: Entry, folder: str) -> Entry:
    path = f"{folder}/{entry.path}" if entry.path else folder
    link = f"{folder}/{entry.link}" if entry.type == "hardlink" else entry.link
    return msgspec.structs.replace(entry, path=path, link=link)


class _Copy:
    """One tree into a directory. Parents come first and are real directories by then, so no link
    at the target, old or new, is followed."""

    def __init__(self, tree: Root, target: Root, keep_owner: bool) -> None:
        self._tree = tree
        self._target = target
        self._keep_owner = keep_owner
        self._contents = Contents(tree)
        self._directories: list[tuple[str, int, int]] = []
        self._links: dict[tuple[int, int], str] = {}

    def run(self) -> None:
        try:
            for entry, status in walk(self._tree):
                if entry.path:
                    self._place(entry, status)
        finally:
            self._contents.close()
        # Last, and children before parents: until then we must be able to write into them.
        for path, mode, mtime_ns in reversed(self._directories):
            fd = self._target.open_dir(path, follow=False)
            try:
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def _place(self, entry: Entry, status: os.stat_result) -> None:
        parent_fd, name = self._target.open_parent(entry.path)
        try:
            if entry.type == "dir":
                self._directory(parent_fd, name, entry)
            elif entry.type == "file" and status.st_nlink > 1:
                first = self._links.setdefault((status.st_dev, status.st_ino), entry.path)
                if first != entry.path:
                    self._hard_link(parent_fd, name, entry, first)
                else:
                    self._other(parent_fd, name, entry)
            elif entry.type in ("file", "symlink", "fifo") or self._keep_owner:
                self._other(parent_fd, name, entry)
        finally:
            os.close(parent_fd)

    def _directory(self, parent_fd: int, name: str, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=parent_fd)
                os.mkdir(name, 0o700, dir_fd=parent_fd)
            else:
                set_mode(parent_fd, name, stat.S_IMODE(found.st_mode) | 0o700)
        if self._keep_owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        self._directories.append((entry.path, self._mode(entry), entry.mtime_ns))

    def _hard_link(self, parent_fd: int, name: str, entry: Entry, first_path: str) -> None:
        first_fd, first = self._target.open_parent(first_path)
        temporary = _temporary(name)
        try:
            os.link(first, temporary, src_dir_fd=first_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        finally:
            os.close(first_fd)
        self._replace(parent_fd, temporary, name, entry)

    def _other(self, parent_fd: int, name: str, entry: Entry) -> None:
        temporary = _temporary(name)
        try:
            if entry.type == "file":
                self._file(parent_fd, temporary, entry)
            elif entry.type == "symlink":
                os.symlink(entry.link, temporary, dir_fd=parent_fd)
            elif entry.type == "fifo":
                os.mkfifo(temporary, 0o600, dir_fd=parent_fd)
            else:
                kind = stat.S_IFCHR if entry.type == "char" else stat.S_IFBLK
                device = os.makedev(entry.major, entry.minor)
                os.mknod(temporary, kind | 0o600, device, dir_fd=parent_fd)
            if entry.type != "file" and self._keep_owner:
                os.chown(temporary, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
            if entry.type not in ("file", "symlink"):
                set_mode(parent_fd, temporary, self._mode(entry))
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(temporary, ns=times, dir_fd=parent_fd, follow_symlinks=False)
        except BaseException:
            _discard(parent_fd, temporary)
            raise
        self._replace(parent_fd, temporary, name, entry)

    def _file(self, parent_fd: int, name: str, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent_fd), "wb") as target:
            with self._contents.open(entry.path) as source:
                while chunk := source.read(_COPY_SIZE):
                    target.write(chunk)
            # A later write would drop setuid.
            target.flush()
            if self._keep_owner:
                os.fchown(target.fileno(), entry.uid, entry.gid)
            os.fchmod(target.fileno(), self._mode(entry))

    def _replace(self, parent_fd: int, temporary: str, name: str, entry: Entry) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
        except IsADirectoryError as error:
            raise UserError.of(
                "output-conflict",
                f"{self._target.path}/{entry.path} is a directory, in the image it is a {entry.type}",
                hint="remove it, or export into an empty directory",
            ) from error
        finally:
            # rename(2) of two links of one file does nothing and leaves both names.
            _discard(parent_fd, temporary)

    def _mode(self, entry: Entry) -> int:
        return entry.mode if self._keep_owner else entry.mode & 0o1777


def _temporary(name: str) -> str:
    return f".{name[:100]}.{secrets.token_hex(6)}"


def _discard(parent_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
