"""Manifests of trees as mtree(5) has them, with the keywords and in the form of go-mtree.

    # etc                                 a comment
    /set type=file nlink=1 uid=0 gid=0    what the following lines say unless they say otherwise
    etc size=4096 type=dir mode=0755      a directory: what follows stands in it
        passwd size=12 sha256digest=…     a file
    ..                                    back to the directory above

Names are relative to the directory that they stand in and have backslash and octal digits for what
is not plain. Keywords: `type`, `size`, `uid`, `gid`, `mode`, `link`, `nlink`, `tar_time` (the
modification time in whole seconds, as a tar has it), `sha256digest`, and `xattr.NAME` in base64.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from arkwright.images.mtree_read import Keywords, Manifest, decode_name, encode_name, order
from arkwright.layer import attributes, files
from arkwright.layer.entry import Entry
from arkwright.layer.profile import CONSTANT_NS
from arkwright.layer.rooted import Root
from arkwright.layer.tree import Contents, walk
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.store.store import Store

Owners = Callable[[int, int], tuple[int, int]]

KEYWORDS = ("size", "type", "uid", "gid", "mode", "link", "nlink", "tar_time", "sha256digest", "xattr")
_SET = {"type": "file", "nlink": "1", "mode": "0664", "uid": "0", "gid": "0"}
_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}  # fmt: skip
_READ = 1 << 20


class Difference(msgspec.Struct, frozen=True):
    """One path that is not as the manifest says: `extra`, `missing`, or `changed` in the keywords, each
    with what the manifest says and what the tree has."""

    path: str
    kind: str
    keywords: dict[str, tuple[str, str]] = {}


def _same_owner(uid: int, gid: int) -> tuple[int, int]:
    return uid, gid


class TreeReader:
    """What the keywords say of the paths of a tree; digests are read when they are asked for. `owners`
    gives the ids to say for those of the files."""

    def __init__(self, root: Root, owners: Owners = _same_owner) -> None:
        self._root = root
        self._owners = owners
        self._contents = Contents(root)
        self._linked: dict[tuple[int, int], str] = {}

    def __enter__(self) -> TreeReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._contents.close()

    def entries(self) -> Iterator[tuple[Entry, os.stat_result]]:
        """All paths in the order of a layer; sockets are left out."""
        return walk(self._root)

    def keywords(self, entry: Entry, status: os.stat_result) -> Keywords:
        """All keywords but the digest."""
        uid, gid = self._owners(status.st_uid, status.st_gid)
        found = {
            "size": str(status.st_size),
            "type": _TYPES[stat.S_IFMT(status.st_mode)],
            "uid": str(uid),
            "gid": str(gid),
            "mode": f"0{stat.S_IMODE(status.st_mode):o}",
            "nlink": str(status.st_nlink),
            "tar_time": f"{status.st_mtime_ns // 10**9}.000000000",
        }
        if entry.type == "symlink":
            found["link"] = encode_name(entry.link)
        if entry.type in ("char", "block") and stat.S_ISREG(status.st_mode):
            node = attributes.encode_node(entry.type[0], entry.major, entry.minor)
            found[f"xattr.{attributes.NODE}"] = base64.b64encode(node).decode()
        for name, value in entry.xattrs:
            found[f"xattr.{encode_name(name)}"] = base64.b64encode(value).decode()
        return found

    def digest(self, path: str, status: os.stat_result) -> str:
        """The sha256 of a regular file, in hex; one with several names is read once."""
        if status.st_nlink < 2:
            return self._read(path)
        file = status.st_dev, status.st_ino
        if file not in self._linked:
            self._linked[file] = self._read(path)
        return self._linked[file]

    def _read(self, path: str) -> str:
        hasher = hashlib.sha256()
        with self._contents.open(path) as file:
            while data := file.read(_READ):
                hasher.update(data)
        return hasher.hexdigest()


def write_mtree(reader: TreeReader, write: Callable[[str], object]) -> None:
    """Write the manifest of a tree, piece by piece."""
    write(f"#      keywords: {','.join(KEYWORDS)}\n\n# .\n")
    write("/set " + " ".join(f"{name}={value}" for name, value in _SET.items()) + "\n")
    open_paths: list[str] = []
    for entry, status in reader.entries():
        if entry.path:
            while open_paths[-1] and not entry.path.startswith(open_paths[-1] + "/"):
                open_paths.pop()
                write("..\n")
        said = {
            name: value for name, value in reader.keywords(entry, status).items() if _SET.get(name) != value
        }
        if stat.S_ISREG(status.st_mode):
            said["sha256digest"] = reader.digest(entry.path, status)
        name = encode_name(entry.path.rpartition("/")[2] or ".")
        text = " ".join([name, *(f"{key}={value}" for key, value in said.items())])
        if entry.type == "dir":
            if entry.path:
                write(f"\n# {encode_name(entry.path, comment=True)}\n")
            write(text + "\n")
            open_paths.append(entry.path)
        else:
            write(f"    {text}\n")
    write("..\n" * len(open_paths))


def compare(
    expected: Keywords, reader: TreeReader, entry: Entry, status: os.stat_result, *, xattrs: bool
) -> dict[str, tuple[str, str]]:
    """The keywords in which a path is not as expected; those that the manifest does not have do not
    count, nor do size and links of directories, which are the file system's. `xattrs`: attributes that it
    does not name are a difference."""
    have = reader.keywords(entry, status)
    found = {}
    for name, wanted in expected.items():
        if name in ("sha256digest", "sha256") or (entry.type == "dir" and name in ("size", "nlink")):
            continue
        known = (
            have.get(name)
            if name != "time"
            else f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"
        )
        if known is None and (name.startswith("xattr.") or name == "link"):
            known = ""
        if known is not None and not _equal(name, wanted, known):
            found[name] = (wanted, known)
    if xattrs:
        for name in have.keys() - expected.keys():
            if name.startswith("xattr."):
                found[name] = ("", have[name])
    digest_wanted = expected.get("sha256digest") or expected.get("sha256")
    if digest_wanted and stat.S_ISREG(status.st_mode) and not ({"size", "type"} & found.keys()):
        digest = reader.digest(entry.path, status)
        if digest != digest_wanted:
            found["sha256digest"] = (digest_wanted, digest)
    return found


def verify(manifest: Manifest, reader: TreeReader) -> Iterator[Difference]:
    """Where a tree is not as its manifest says, in the order of a layer."""
    for path, found, keywords in side_by_side(reader, manifest):
        if found is None:
            if keywords is not None and "optional" not in keywords:
                yield Difference(path, "missing")
        elif keywords is None:
            if path:
                yield Difference(path, "extra")
        elif differs := compare(keywords, reader, *found, xattrs=manifest.xattrs):
            yield Difference(path, "changed", differs)


Found = tuple[Entry, os.stat_result]


def side_by_side(
    reader: TreeReader, manifest: Manifest
) -> Iterator[tuple[str, Found | None, Keywords | None]]:
    """Every path of a tree or of a manifest, in the order of a layer, with what each of them has there."""
    there = ((order(entry.path), entry.path, (entry, status)) for entry, status in reader.entries())
    before = ((order(path), path, keywords) for path, keywords in manifest)
    one, other = next(there, None), next(before, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[1], one[2], None
            one = next(there, None)
        elif one is None or other[0] < one[0]:
            yield other[1], None, other[2]
            other = next(before, None)
        else:
            yield one[1], one[2], other[2]
            one, other = next(there, None), next(before, None)


def image_mtree(store: Store, image: Descriptor, write: Callable[[str], object]) -> None:
    """The manifest of an image's tree, which exists in memory only meanwhile.

    Raises `UserError` `missing-blob`, and as `layer.apply`.
    """
    from arkwright.layer.apply import apply
    from arkwright.layer.codec import decompress
    from arkwright.layer.virtual_nodes import Spool, VirtualTree
    from arkwright.oci.manifest import Manifest as ImageManifest
    from arkwright.oci.manifest import parse

    document = parse(store.content.read(image.digest))
    assert isinstance(document, ImageManifest)
    claim = store.claim_work()
    try:
        tree = VirtualTree(Spool(claim.path))
        with Root(tree.path) as root:
            for layer in document.layers:
                with store.content.open(layer.digest) as blob:
                    apply(decompress(blob, layer_codec(layer.media_type)), root)
            files.utime(root.fd, ns=(CONSTANT_NS, CONSTANT_NS))
            with TreeReader(root) as reader:
                write_mtree(reader, write)
    finally:
        store.trash(claim.path)
        claim.close()


def _equal(name: str, wanted: str, known: str) -> bool:
    if name == "mode":
        return wanted.lstrip("0") == known.lstrip("0")
    if name == "link":
        return decode_name(wanted) == decode_name(known)
    if name == "tar_time":
        return wanted.partition(".")[0] == known.partition(".")[0]
    return wanted == known
