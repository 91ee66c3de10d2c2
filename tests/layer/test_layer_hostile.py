"""Hostile archives: each is refused by its code, and nothing outside the root is touched."""

from __future__ import annotations

import io
import os
import tarfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_trees import as_nobody, change, entries_of, python_tar, tar_of, whiteout

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.layer.apply import apply
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import Limits, read_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs-root: gives files their owners")

GOOD = tar_of([change("a", data=b"x" * 700), change("b", data=b"y")])
LINK, SYMLINK, DIR = ({"type": kind} for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE))


def _pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A PAX header with any bytes in it."""
    body = b""
    for key, value in records.items():
        rest = len(key) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        body += b"%d %s=%s\n" % (length, key, value)
    return _raw_pax(body, kind)


def _raw_pax(body: bytes, kind: bytes = b"x") -> bytes:
    info = tarfile.TarInfo("pax")
    info.type = kind
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    """A header field overwritten, the checksum made right."""
    block = bytearray(data[:512])
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


@pytest.fixture
def jail(tmp_path):
    """A root with a canary beside it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/canary").write_text("sings")
    before = _state(tmp_path / "outside")
    yield tmp_path / "root"
    assert _state(tmp_path / "outside") == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def _state(path) -> list:
    found = []
    for where, dirs, files in os.walk(path):
        for name in ["", *dirs, *files]:
            status = os.lstat(os.path.join(where, name))
            found.append(
                (
                    where,
                    name,
                    status.st_mode,
                    status.st_uid,
                    status.st_nlink,
                    status.st_size,
                    status.st_mtime_ns,
                )
            )
    return found


def _refused(jail, data: bytes, code: str, **options) -> None:
    with Root(str(jail)) as root, pytest.raises(ArkwrightError) as caught:
        apply(io.BytesIO(data), root, **options)
    assert caught.value.code == code


ESCAPES = {
    "up": python_tar(("../outside/canary", {}, b"silent")),
    "up-in-the-middle": python_tar(("a/../../outside/canary", {}, b"silent")),
    "up-at-the-end": python_tar(("a/..", DIR, b"")),
    "only-up": python_tar(("..", DIR, b"")),
    "absolute-up": python_tar(("/../outside/canary", {}, b"silent")),
    "up-in-pax": _pax({b"path": b"../outside/canary"}) + GOOD,
    "up-in-gnu-long-name": python_tar(("../" * 60 + "outside/canary", {}, b"x"), format=tarfile.GNU_FORMAT),
    "up-in-a-sparse-name": _pax(
        {b"GNU.sparse.name": b"../outside/canary", b"GNU.sparse.map": b"0,700", b"GNU.sparse.size": b"700"}
    )
    + GOOD,
    "hard-link": python_tar(("a", {**LINK, "linkname": "../outside/canary"}, b"")),
    "hard-link-in-pax": _pax({b"linkpath": b"x/../../outside/canary"})
    + python_tar(("a", {**LINK, "linkname": "b"}, b"")),
    "whiteout-of-up": python_tar((".wh...", {}, b"")),
    "whiteout-of-the-directory": python_tar((".wh..", {}, b"")),
    "whiteout-of-nothing": python_tar(("a/.wh.", {}, b"")),
    "whiteout-below-up": python_tar(("../.wh.outside", {}, b"")),
    "opaque-above": python_tar(("../outside/.wh..wh..opq", {}, b"")),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_what_would_leave_the_root_is_refused_by_name(jail, name):
    _refused(jail, ESCAPES[name], "path-escapes-root")


@pytest.mark.parametrize("target", ["../outside", "/outside", "{outside}", "../../../../../../{outside}"])
def test_writing_through_a_link_to_outside_stays_inside(jail, target):
    target = target.format(outside=str(jail.parent / "outside").lstrip("/"))
    data = python_tar(
        ("link", {**SYMLINK, "linkname": target}, b""),
        ("link/canary", {"mode": 0o777}, b"silent"),
        ("link/.wh.canary", {}, b""),
        ("link/.wh..wh..opq", {}, b""),
        ("link/new", DIR, b""),
    )
    with Root(str(jail)) as root:
        apply(io.BytesIO(data), root)


def test_a_hard_link_through_a_link_to_outside_finds_nothing(jail):
    data = python_tar(
        ("link", {**SYMLINK, "linkname": "../outside"}, b""),
        ("mine", {**LINK, "linkname": "link/canary"}, b""),
    )
    _refused(jail, data, "missing-link-target")


def test_a_file_over_a_link_to_outside_replaces_the_link(jail):
    os.symlink("../outside/canary", jail / "a")
    os.symlink("../outside", jail / "b")
    with Root(str(jail)) as root:
        apply(
            io.BytesIO(python_tar(("a", {"mode": 0o777}, b"new"), ("b", {**DIR, "mode": 0o777}, b""))), root
        )
    assert (jail / "a").read_text() == "new" and not (jail / "b").is_symlink()


def test_a_device_node_of_the_tree_is_not_opened(jail):
    os.mkfifo(jail / "pipe")
    with Root(str(jail)) as root:
        apply(io.BytesIO(python_tar(("pipe", {}, b"would block"))), root)
    assert (jail / "pipe").read_text() == "would block"


BAD_FOR_THE_TREE = {
    "parent-is-a-file": ([change("a", data=b"x"), change("a/b")], "not-a-directory"),
    "link-target-below-a-file": (
        [change("a", data=b"x"), change("b", "hardlink", link="a/c")],
        "not-a-directory",
    ),
    "link-circle": (
        [change("a", "symlink", link="b"), change("b", "symlink", link="a"), change("a/c")],
        "symlink-loop",
    ),
    "component-of-256-bytes": ([change("n" * 256)], "name-too-long"),
    "missing-target": ([change("a", "hardlink", link="b")], "missing-link-target"),
    "hard-link-to-a-directory": ([change("d", "dir"), change("a", "hardlink", link="d")], "invalid-archive"),
    "hard-link-to-the-root": ([change("a", "hardlink", link="")], "invalid-archive"),
    "empty-symlink": ([change("a", "symlink", link="")], "invalid-archive"),
    "symlink-as-root": ([change("", "symlink", link="x")], "invalid-archive"),
    "device-number": ([change("a", "char", major=4096, minor=1)], "invalid-archive"),
    "whiteout-below-whiteout": ([change(".wh.a/b", data=b"x")], "reserved-name"),
}


@pytest.mark.parametrize("name", BAD_FOR_THE_TREE)
@pytest.mark.parametrize("strategy", ["remove", "overlay"])
def test_trees_that_make_no_sense(jail, name, strategy):
    changes, code = BAD_FOR_THE_TREE[name]
    owner = {"uid": os.geteuid(), "gid": os.getegid()}
    data = tar_of(
        [msgspec.structs.replace(c, entry=msgspec.structs.replace(c.entry, **owner)) for c in changes]
    )
    _refused(jail, data, code, whiteouts=strategy)


BROKEN = {
    "checksum": (b"b" + GOOD[1:], "invalid-archive"),
    "text": (b"this is not an archive at all".ljust(1024, b"."), "invalid-archive"),
    "octal": (_patched(GOOD, 124, b"0000000999x\0"), "invalid-archive"),
    "negative-size": (_patched(GOOD, 124, b"\xff" * 12), "invalid-archive"),
    "negative-owner": (_patched(GOOD, 108, b"\xff" * 8), "invalid-archive"),
    "owner-that-chown-ignores": (_patched(GOOD, 108, b"\x80\0\0\0\xff\xff\xff\xff"), "invalid-archive"),
    "unknown-type": (_patched(GOOD, 156, b"Z"), "invalid-archive"),
    "multi-volume": (_patched(GOOD, 156, b"M"), "invalid-archive"),
    "pax-no-length": (_raw_pax(b"path=x\n") + GOOD, "invalid-archive"),
    "pax-length-beyond": (_raw_pax(b"99 path=x\n") + GOOD, "invalid-archive"),
    "pax-length-zero": (_raw_pax(b"0 path=x\n") + GOOD, "invalid-archive"),
    "pax-without-equals": (_raw_pax(b"9 path_x\n") + GOOD, "invalid-archive"),
    "pax-nul-in-name": (_pax({b"path": b"a\0b"}) + GOOD, "invalid-archive"),
    "pax-size": (_pax({b"size": b"-5"}) + GOOD, "invalid-archive"),
    "pax-mtime": (_pax({b"mtime": b"1.2.3"}) + GOOD, "invalid-archive"),
    "pax-mtime-infinite": (_pax({b"mtime": b"9" * 400}) + GOOD, "invalid-archive"),
    "pax-uid": (_pax({b"uid": b"4294967295"}) + GOOD, "invalid-archive"),
    "sparse-descending": (_pax({b"GNU.sparse.size": b"9000", b"GNU.sparse.map": b"500,600,0,100"}) + GOOD, "invalid-archive"),
    "sparse-beyond": (_pax({b"GNU.sparse.size": b"500", b"GNU.sparse.map": b"0,700"}) + GOOD, "invalid-archive"),
    "sparse-odd": (_pax({b"GNU.sparse.size": b"900", b"GNU.sparse.map": b"0,700,1"}) + GOOD, "invalid-archive"),
    "sparse-other-length": (_pax({b"GNU.sparse.size": b"900", b"GNU.sparse.map": b"0,600"}) + GOOD, "invalid-archive"),
    "sparse-1.0-no-numbers": (_pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}) + GOOD, "invalid-archive"),
    "sparse-no-size": (_pax({b"GNU.sparse.map": b"0,700"}) + GOOD, "invalid-archive"),
    "truncated-header": (GOOD[:300], "truncated-archive"),
    "truncated-content": (GOOD[:900], "truncated-archive"),
    "truncated-padding": (GOOD[:1300], "truncated-archive"),
    "truncated-pax": (_pax({b"path": b"p" * 600})[:900], "truncated-archive"),
    "pax-for-nothing": (_pax({b"path": b"p"}), "truncated-archive"),
    "content-of-a-terabyte-missing": (_pax({b"size": b"60000000000"}) + GOOD, "truncated-archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives(jail, name):
    data, code = BROKEN[name]
    _refused(jail, data, code)
    with pytest.raises(UserError) as caught:
        entries_of(data)
    assert caught.value.code == code


ENDS = {
    "no-end-mark": (GOOD[:-1024], "truncated-archive"),
    "empty": (b"", "truncated-archive"),
    "one-zero-block": (GOOD[:-512], ""),
    "garbage-behind": (GOOD + b"garbage", "invalid-archive"),
    "archive-behind": (GOOD + GOOD, "invalid-archive"),
    "zero-block-between": (GOOD[:-1024] + bytes(512) + GOOD, "invalid-archive"),
    "padding-behind": (GOOD + bytes(10240), ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_an_archive(jail, name):
    data, code = ENDS[name]
    if code:
        with pytest.raises(UserError) as caught:
            entries_of(data)
        assert caught.value.code == code
        _refused(jail, data, code, require_end=True)
    else:
        assert len(entries_of(data)) == 2
    # A layer's digest is checked elsewhere; what others unpack is unpacked.
    with Root(str(jail)) as root:
        apply(io.BytesIO(data), root)


SMALL = Limits(max_bytes=10_000, max_entries=5, max_name_bytes=300, max_pax_bytes=2000, max_xattr_bytes=500)
BOMBS = {
    "bytes": python_tar(("a", {}, bytes(6000)), ("b", {}, bytes(6000))),
    "announced-bytes": _patched(GOOD, 124, b"\x80" + (1 << 50).to_bytes(11, "big")),
    "pax-bytes": _pax({b"size": b"999999999999"}) + GOOD,
    "sparse-bytes": _pax({b"GNU.sparse.size": b"99999999999", b"GNU.sparse.map": b"0,700"}) + GOOD,
    "bytes-of-a-directory": _patched(python_tar(("d", {"type": b"D"}, b"")), 124, b"00000777777\0"),
    "entries": python_tar(*((f"f{n}", {}, b"") for n in range(6))),
    "headers": _pax({b"comment": b"x"}) * 30 + GOOD,
    "name": python_tar(("n" * 400, {}, b"")),
    "gnu-name": python_tar(("n" * 400, {}, b""), format=tarfile.GNU_FORMAT),
    "pax-header": _pax({b"comment": b"x" * 3000}) + GOOD,
    "global-headers": b"".join(_pax({b"k%d" % n: b"x" * 900}, b"g") for n in range(4)) + GOOD,
    "xattrs": _pax({b"SCHILY.xattr.user.%d" % n: b"x" * 200 for n in range(3)}) + GOOD,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_stop_at_the_limits(jail, name):
    _refused(jail, BOMBS[name], "archive-too-large", limits=SMALL)
    assert len(entries_of(GOOD, limits=SMALL)) == 2


def test_a_sparse_map_without_end_is_bounded():
    header = _patched(GOOD, 156, b"S")
    header = bytearray(header[:512])
    header[482] = 1
    block = _patched(bytes(header), 0, b"s")

    class Endless(io.RawIOBase):
        sent = False

        def read(self, size=-1):
            if not self.sent:
                self.sent = True
                return block
            extension = bytearray(512)
            extension[504] = 1
            for at in range(0, 504, 24):
                extension[at : at + 24] = b"00000000000\0" * 2
            return bytes(extension) * 100

    with pytest.raises(UserError) as caught:
        next(read_tar(Endless()))
    assert caught.value.code == "archive-too-large"


def test_the_default_limits_admit_50_gb_and_two_million_entries():
    limits = Limits()
    assert limits.max_bytes > 50 * 10**9 and limits.max_entries > 2_000_000


def test_nothing_is_written_outside_without_privilege(tmp_path, open_path):
    if os.geteuid() != 0:
        pytest.skip("needs-root: switches to another user")
    os.mkdir(f"{open_path}/root", 0o777)
    os.chmod(f"{open_path}/root", 0o777)

    def body() -> None:
        for data in ESCAPES.values():
            with Root(f"{open_path}/root") as root, pytest.raises(UserError) as caught:
                apply(io.BytesIO(data), root)
            assert caught.value.code == "path-escapes-root"

    as_nobody(body)
    assert os.listdir(open_path) == ["root"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_archives_never_break_the_reader(data):
    """Any bytes give entries or one of our errors."""
    base = bytearray(
        data.draw(
            st.sampled_from([GOOD, *[BROKEN[name][0] for name in BROKEN], *BOMBS.values(), *ESCAPES.values()])
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, min(len(base) - 1, 2048))))
        base[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
    block = bytearray(base[:512])
    if len(block) == 512 and data.draw(st.booleans()):
        base[:512] = _patched(bytes(block), 0, b"")
    try:
        entries_of(bytes(base), limits=Limits(max_bytes=1 << 24))
    except UserError as error:
        assert error.code in {
            "invalid-archive", "truncated-archive", "archive-too-large", "path-escapes-root", "reserved-name",
        }  # fmt: skip


def test_codes_name_the_path():
    with pytest.raises(UserError, match=r"\.\./outside/canary"):
        entries_of(ESCAPES["up"])
    with pytest.raises(UserError, match="whiteout"):
        tar = tar_of([whiteout("..")])
        entries_of(tar)
