from __future__ import annotations

import io
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
from itertools import permutations

import pytest
from layer_trees import (
    NOBODY,
    as_nobody,
    change,
    in_child,
    modes,
    opaque,
    paths,
    python_tar,
    snapshot,
    tar_of,
    whiteout,
    write,
)

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.layer.apply import apply, apply_entries
from arkwright.layer.diff import diff
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import Limits, read_tar

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ME = {"uid": os.geteuid(), "gid": os.getegid()}


@pytest.fixture
def top(tmp_path):
    path = tmp_path / "tree"
    path.mkdir(mode=0o755)
    return str(path)


def _apply(top: str, *changes, whiteouts="remove", **options):
    with Root(top) as root:
        return apply(io.BytesIO(tar_of(changes, mtime_ns=None)), root, whiteouts=whiteouts, **options)


def _apply_tar(top: str, data: bytes, **options):
    with Root(top) as root:
        return apply(io.BytesIO(data), root, **options)


def _code(caught) -> str:
    return caught.value.code


def test_every_kind_of_entry_is_made(top, as_root):
    report = _apply(
        top,
        change("d", "dir", mode=0o2750, uid=5, gid=6, mtime_ns=10**9),
        change("d/suid", data=b"x" * 1000, mode=0o6755, uid=7, gid=8, mtime_ns=1_500_000_000),
        change(
            "d/capable",
            data=b"x",
            mode=0o755,
            uid=9,
            xattrs=(("security.capability", CAPABILITY), ("user.k", b"v")),
        ),
        change("d/link", "symlink", link="../elsewhere", uid=3, gid=4, mtime_ns=2 * 10**9),
        change("d/hard", "hardlink", link="d/suid"),
        change("d/null", "char", mode=0o622, gid=1, major=1, minor=3),
        change("d/disk", "block", mode=0o600, major=259, minor=1_000_000),
        change("d/pipe", "fifo", mode=0o622, uid=2, mtime_ns=3 * 10**9),
    )
    assert (report.entries, report.bytes, report.devices, report.dropped_xattrs) == (8, 1001, (), {})
    found = snapshot(top)
    assert found["d"][:4] == ("dir", "0o2750", 5, 6)
    assert found["d/suid"][:5] == ("file", "0o6755", 7, 8, b"x" * 1000)
    assert found["d/hard"][-1] == found["d/suid"][-1] == "d/hard"
    assert found["d/capable"][8] == (("security.capability", CAPABILITY), ("user.k", b"v"))
    assert found["d/link"][:6] == ("symlink", "0o777", 3, 4, b"", "../elsewhere")
    assert found["d/null"][:8] == ("char", "0o622", 0, 1, b"", "", 1, 3)
    assert found["d/disk"][6:8] == (259, 1_000_000)
    assert found["d/pipe"][:3] == ("fifo", "0o622", 2)
    times = {name: os.lstat(f"{top}/{name}").st_mtime_ns for name in ("d", "d/suid", "d/link", "d/pipe")}
    assert times == {"d": 10**9, "d/suid": 1_500_000_000, "d/link": 2 * 10**9, "d/pipe": 3 * 10**9}


def test_modes_do_not_depend_on_the_umask(top):
    data = tar_of([change("a/b/c", data=b"x", mode=0o666, **ME), change("d", "dir", mode=0o777, **ME)])

    def body() -> None:
        _apply_tar(top, data)

    # Whoever is not root cannot enter a directory that is born with no mode at all.
    in_child(body, lambda: os.umask(0o777 if os.geteuid() == 0 else 0o077) and None)
    assert [modes(f"{top}/{name}") for name in ("a", "a/b", "a/b/c", "d")] == [0o755, 0o755, 0o666, 0o777]


def test_missing_parents_are_made_plain(top, as_root):
    _apply(top, change("a/b/c", uid=5, mode=0o600))
    status = os.stat(f"{top}/a/b")
    assert (modes(f"{top}/a/b"), status.st_uid, status.st_mtime) == (0o755, 0, CONSTANT_EPOCH)


def test_directories_that_are_not_mentioned_keep_their_time(top):
    write(f"{top}/etc/sub/old")
    for name in ("etc/sub", "etc", "."):
        os.utime(f"{top}/{name}", ns=(0, 12345))
    _apply(top, change("etc/new", **ME), whiteout("etc/sub/old"), change("etc/sub/x/y", **ME))
    assert {os.stat(f"{top}/{name}").st_mtime_ns for name in ("", "etc", "etc/sub")} == {12345}


def test_negative_times_and_late_directories(top):
    _apply(
        top,
        change("d/file", mtime_ns=-1_500_000_000, **ME),
        change("d", "dir", mode=0o500, mtime_ns=-(10**9), **ME),
        change("d/other", **ME),
    )
    assert os.stat(f"{top}/d/file").st_mtime_ns == -1_500_000_000
    assert (os.stat(f"{top}/d").st_mtime_ns, modes(f"{top}/d")) == (-(10**9), 0o500)


def test_the_root_entry_sets_the_root(top):
    _apply(top, change("", "dir", mode=0o711, mtime_ns=5 * 10**9, **ME), change("a", **ME))
    assert (modes(top), os.stat(top).st_mtime_ns) == (0o711, 5 * 10**9)


def test_an_existing_directory_is_merged_and_takes_all_of_the_entry(top):
    write(f"{top}/d/kept")
    os.setxattr(f"{top}/d", "user.old", b"1")
    _apply(top, change("d", "dir", mode=0o711, xattrs=(("user.new", b"2"),), **ME))
    assert paths(top) == {"d", "d/kept"}
    assert snapshot(top)["d"][8] == (("user.new", b"2"),) and modes(f"{top}/d") == 0o711


KINDS = {
    "file": lambda: change("x", data=b"new", **ME),
    "dir": lambda: change("x", "dir", **ME),
    "symlink": lambda: change("x", "symlink", link="target", **ME),
    "fifo": lambda: change("x", "fifo", **ME),
    "hardlink": lambda: change("x", "hardlink", link="other"),
}


@pytest.mark.parametrize("old", ["file", "dir", "symlink", "fifo"])
@pytest.mark.parametrize("new", KINDS)
def test_type_replacement(top, old, new):
    write(f"{top}/other", b"other")
    write(f"{top}/elsewhere/kept", b"kept")
    if old == "dir":
        write(f"{top}/x/sub/file")
    elif old == "symlink":
        os.symlink("elsewhere", f"{top}/x")
    elif old == "fifo":
        os.mkfifo(f"{top}/x")
    else:
        write(f"{top}/x", b"old")
        os.link(f"{top}/x", f"{top}/linked")
    _apply(top, KINDS[new]())
    status = os.lstat(f"{top}/x")
    expected = {
        "file": stat.S_ISREG,
        "dir": stat.S_ISDIR,
        "symlink": stat.S_ISLNK,
        "fifo": stat.S_ISFIFO,
        "hardlink": stat.S_ISREG,
    }
    assert expected[new](status.st_mode)
    assert ("x/sub/file" in paths(top)) == (old == new == "dir")
    assert paths(top) >= {"other", "elsewhere/kept"}
    if old == "file":
        with open(f"{top}/linked", "rb") as file:
            assert file.read() == b"old"


def test_later_entries_of_one_name_win(top):
    _apply(
        top,
        change("x", data=b"1", **ME),
        change("x", "dir", **ME),
        change("x/y", **ME),
        change("x", data=b"2", **ME),
    )
    assert snapshot(top)["x"][4] == b"2"
    _apply(
        top,
        change("x", "dir", **ME),
        change("x/a", **ME),
        change("x", "symlink", link="z", **ME),
        change("x/b", **ME),
    )
    assert paths(top) == {"x", "z", "z/b"}


def test_merged_usr_links_and_absolute_names_are_followed(top):
    write(f"{top}/usr/bin/old")
    os.symlink("usr/bin", f"{top}/bin")
    os.symlink("/usr", f"{top}/opt")
    data = python_tar(
        ("bin/sh", ME, b"1"),
        ("/opt/bin/ls", ME, b"2"),
        ("bin/x", {"type": tarfile.LNKTYPE, "linkname": "/bin/sh"}, b""),
    )
    _apply_tar(top, data)
    assert {"usr/bin/sh", "usr/bin/ls", "usr/bin/x"} <= paths(top) and os.path.islink(f"{top}/bin")
    assert os.stat(f"{top}/usr/bin/x").st_ino == os.stat(f"{top}/usr/bin/sh").st_ino


def test_a_link_made_earlier_in_the_archive_is_followed_inside(top):
    _apply(
        top, change("a", "symlink", link="/real", **ME), change("real", "dir", **ME), change("a/file", **ME)
    )
    assert paths(top) == {"a", "real", "real/file"}


def test_a_hard_link_to_a_link_does_not_follow_it(top):
    _apply(top, change("a", "symlink", link="nowhere", **ME), change("b", "hardlink", link="a"))
    assert os.readlink(f"{top}/b") == "nowhere"
    assert os.lstat(f"{top}/a").st_ino == os.lstat(f"{top}/b").st_ino


def test_a_hard_link_to_itself_keeps_the_file(top):
    _apply(top, change("a", data=b"x", **ME), change("a", "hardlink", link="a"))
    assert snapshot(top)["a"][4] == b"x"


def test_whiteout_of_a_file_a_tree_and_nothing(top):
    write(f"{top}/a/file")
    write(f"{top}/b/c/d/file")
    _apply(top, whiteout("a/file"), whiteout("b"), whiteout("none"), whiteout("none/below"))
    assert paths(top) == {"a"}


def test_whiteout_of_a_link_leaves_its_target(top):
    write(f"{top}/dir/file")
    os.symlink("dir", f"{top}/link")
    _apply(top, whiteout("link/file"), whiteout("link"))
    assert paths(top) == {"dir"}


def _lower(top: str) -> None:
    shutil.rmtree(top)
    write(f"{top}/d/old/file")
    write(f"{top}/d/both", b"old")
    write(f"{top}/d/sub/old")
    write(f"{top}/d/sub/deep/old")
    os.chmod(f"{top}/d", 0o700)
    os.chmod(top, 0o755)


@pytest.mark.parametrize("marker", [opaque("d"), whiteout("d")], ids=["opaque", "whiteout"])
def test_deletions_hide_lower_content_only_wherever_they_stand(top, marker):
    made = [
        change("d", "dir", mode=0o711, **ME),
        change("d/both", data=b"new", **ME),
        change("d/sub/deep/new", **ME),
    ]
    results = []
    for order in permutations([marker, *made]):
        _lower(top)
        _apply(top, *order)
        results.append(snapshot(top))
    assert all(result == results[0] for result in results)
    assert set(results[0]) == {"", "d", "d/both", "d/sub", "d/sub/deep", "d/sub/deep/new"}
    assert results[0]["d/both"][4] == b"new" and results[0]["d"][1] == "0o711"


def test_a_whiteout_of_a_directory_that_is_only_implied_again_is_order_independent(top):
    results = []
    for order in permutations([whiteout("d"), change("d/sub/new", **ME)]):
        _lower(top)
        _apply(top, *order)
        results.append(snapshot(top))
    assert results[0] == results[1]
    assert results[0]["d"][1] == "0o755" and set(results[0]) == {"", "d", "d/sub", "d/sub/new"}


def test_an_opaque_root_empties_the_tree(top):
    write(f"{top}/a/b")
    _apply(top, change("new/file", **ME), opaque(""))
    assert paths(top) == {"new", "new/file"}


def test_an_opaque_directory_through_a_link(top):
    write(f"{top}/usr/lib/old")
    os.symlink("usr/lib", f"{top}/lib")
    _apply(top, opaque("lib"), change("lib/new", **ME))
    assert paths(top) == {"lib", "usr", "usr/lib", "usr/lib/new"}


def _mounted(top: str, lower: str, tmp_path, tool) -> dict:
    """What a mount of upper directory `top` on `lower` shows."""
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "merged").mkdir(exist_ok=True)
    copy = f"{tmp_path}/copy"
    shutil.rmtree(copy, ignore_errors=True)
    options = f"userxattr,lowerdir={lower},upperdir={top},workdir={tmp_path}/work"
    inner = f"mount -t overlay overlay -o {options} {tmp_path}/merged && cp -a {tmp_path}/merged {copy}"
    subprocess.run([tool("unshare"), "--mount", "sh", "-c", inner], check=True)
    return snapshot(copy)


OVERLAY_CASES = {
    "whiteout-file": [change("d", "dir", mode=0o700), whiteout("d/both")],
    "whiteout-tree": [whiteout("d")],
    "whiteout-then-directory": [whiteout("d"), change("d", "dir", mode=0o711), change("d/new")],
    "directory-then-whiteout": [change("d", "dir", mode=0o711), change("d/new"), whiteout("d")],
    "whiteout-then-implied": [whiteout("d"), change("d/sub/new")],
    "implied-then-whiteout": [change("d/sub/new"), whiteout("d")],
    "whiteout-then-file": [whiteout("d"), change("d", data=b"file")],
    "file-then-whiteout": [change("d", data=b"file"), whiteout("d")],
    "opaque-first": [opaque("d"), change("d", "dir", mode=0o711), change("d/both", data=b"n")],
    "opaque-last": [change("d", "dir", mode=0o711), change("d/both", data=b"n"), opaque("d")],
    "file-then-directory": [change("d", data=b"file"), change("d", "dir", mode=0o711), change("d/x")],
    "null-device": [change("d", "dir", mode=0o700), change("d/zero", "char", mode=0o600)],
}


@pytest.mark.parametrize("name", OVERLAY_CASES)
def test_both_strategies_give_the_same_tree(top, tmp_path, name, tool, as_root):
    lower = str(tmp_path / "lower")
    os.mkdir(lower)
    _lower(lower)
    _apply(top, *OVERLAY_CASES[name], whiteouts="overlay")
    merged = _mounted(top, lower, tmp_path, tool)
    _apply(lower, *OVERLAY_CASES[name])
    assert merged == snapshot(lower)


def test_an_opaque_root_cannot_be_marked(top):
    with pytest.raises(HostUnsupported) as caught:
        _apply(top, opaque(""), whiteouts="overlay")
    assert _code(caught) == "unsupported-root-opaque"


def test_a_device_that_cannot_be_made_becomes_a_record(open_path, as_root):
    os.mkdir(f"{open_path}/top", 0o755)
    os.chown(f"{open_path}/top", NOBODY, NOBODY)
    owner = {"uid": NOBODY, "gid": NOBODY}
    device = change("dev/null", "char", mode=0o622, major=1, minor=3, **owner)
    disk = change("disk", "block", mode=0o600, major=8, minor=17, **owner)

    def body() -> None:
        report = _apply(f"{open_path}/top", device, disk)
        assert report.devices == (device.entry, disk.entry)
        assert os.path.isfile(f"{open_path}/top/dev/null")
        with Root(f"{open_path}/top") as root:
            found = {item.entry.path: item.entry for item in diff(None, root)}
        assert (found["dev/null"], found["disk"]) == (device.entry, disk.entry)

    as_nobody(body)


def test_unprivileged_unpacking_of_unreadable_directories(open_path, as_root):
    owner = {"uid": NOBODY, "gid": NOBODY}
    os.mkdir(f"{open_path}/top", 0o755)
    os.chown(f"{open_path}/top", NOBODY, NOBODY)

    def body() -> None:
        top = f"{open_path}/top"
        _apply(
            top,
            change("d", "dir", mode=0, **owner),
            change("d/e", "dir", mode=0o111, mtime_ns=7, **owner),
            change("d/e/secret", data=b"x", mode=0, xattrs=(("user.k", b"v"),), **owner),
            change("ro", "dir", mode=0o555, **owner),
        )
        assert (modes(f"{top}/d"), modes(f"{top}/ro")) == (0, 0o555)
        _apply(top, change("ro/added", mode=0o400, **owner), whiteout("d"))
        assert (modes(f"{top}/ro"), os.listdir(top)) == (0o555, ["ro"])

    as_nobody(body)


def test_a_foreign_owner_without_privilege_is_refused(open_path, as_root):
    def body() -> None:
        with pytest.raises(HostUnsupported) as caught:
            _apply(open_path, change("a", uid=0, gid=0))
        assert _code(caught) == "owner-not-mapped"

    as_nobody(body)


def test_attributes_that_belong_to_a_host_are_left_out_and_counted(top):
    xattrs = (
        ("security.selinux", b"label"),
        ("system.posix_acl_access", b"x"),
        ("user.arkwright.node", b"c:1:3"),
        ("user.ok", b"1"),
    )
    report = _apply(top, change("a", xattrs=xattrs, **ME), change("b", xattrs=xattrs[:1], **ME))
    assert report.dropped_xattrs == {
        "security.selinux": 2,
        "system.posix_acl_access": 1,
        "user.arkwright.node": 1,
    }
    assert os.listxattr(f"{top}/a") == ["user.ok"]


def test_a_capability_of_revision_3_is_set_in_its_portable_form(top, as_root):
    third = bytes.fromhex("0100000300200000000000000000000000000000")
    report = _apply(
        top,
        change("zero", data=b"x", xattrs=(("security.capability", third + bytes(4)),)),
        change("foreign", data=b"x", xattrs=(("security.capability", third + b"\x01\0\0\0"),)),
    )
    assert os.getxattr(f"{top}/zero", "security.capability") == CAPABILITY
    assert os.listxattr(f"{top}/foreign") == [] and report.dropped_xattrs == {"security.capability": 1}


def test_sparse_files_stay_sparse(top, tmp_path, tool):
    with open(tmp_path / "sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
        file.truncate(100 << 20)
    command = [tool("tar"), "-S", "-C", str(tmp_path), "-cf", "-", "sparse"]
    _apply_tar(top, subprocess.run(command, check=True, capture_output=True).stdout)
    status = os.stat(f"{top}/sparse")
    assert status.st_size == 100 << 20 and status.st_blocks * 512 < 2 << 20
    with open(f"{top}/sparse", "rb") as file:
        file.seek(50 << 20)
        assert file.read(10) == b"end" + bytes(7)


def test_a_full_file_system_is_no_space(tmp_path, tool, as_root):
    big = tar_of([change("big", data=bytes(3 << 20))])
    (tmp_path / "layer.tar").write_bytes(big)
    (tmp_path / "mnt").mkdir()
    code = (
        "import sys\n"
        "from arkwright.layer.apply import apply\n"
        "from arkwright.layer.rooted import Root\n"
        "from arkwright.diagnostics.errors import UserError\n"
        f"with Root('{tmp_path}/mnt') as root, open('{tmp_path}/layer.tar', 'rb') as tar:\n"
        "    try: apply(tar, root)\n"
        "    except UserError as error: sys.exit(0 if error.code == 'no-space' else 3)\n"
        "sys.exit(4)\n"
    )
    inner = f'mount -t tmpfs -o size=1m none {tmp_path}/mnt && exec "$0" -c "$1"'
    subprocess.run([tool("unshare"), "--mount", "sh", "-c", inner, sys.executable, code], check=True)


def test_names_of_all_lengths_and_bytes(top):
    raw = os.fsdecode(b"\xff\xfe\x80")
    long = "/".join(["n" * 255] * 12)
    _apply(top, change(raw, **ME), change(long, data=b"deep", **ME))
    assert raw in paths(top) and long in paths(top)


def test_many_directories_do_not_exhaust_descriptors(top):
    before = len(os.listdir("/proc/self/fd"))
    _apply(top, *(change(f"d{number % 300}/f{number}", **ME) for number in range(900)))
    assert len(paths(top)) == 1200
    assert len(os.listdir("/proc/self/fd")) == before


def test_apply_entries_keeps_whiteout_names_of_raw_archives(top):
    data = python_tar(("a/.wh.b", ME, b"1"), ("a/.wh..wh..opq", ME, b"2"))
    write(f"{top}/a/b")
    with Root(top) as root:
        apply_entries(read_tar(io.BytesIO(data), raw=True), root)
    assert paths(top) == {"a", "a/b", "a/.wh.b", "a/.wh..wh..opq"}


def test_limits_stop_the_unpacking(top):
    with pytest.raises(UserError) as caught:
        _apply(top, *(change(f"f{number}", **ME) for number in range(20)), limits=Limits(max_entries=10))
    assert _code(caught) == "archive-too-large"
    assert len(paths(top)) == 10


@pytest.mark.parametrize("seed", range(15))
def test_random_layers_of_random_trees_bring_one_to_the_other(tmp_path, seed):
    """Plain trees: apply(lower, diff(lower, upper)) is upper."""
    chance = random.Random(seed)

    def fill(path: str) -> None:
        os.makedirs(path)
        os.chmod(path, 0o755)
        for _ in range(chance.randint(0, 25)):
            parts = [chance.choice("abc") for _ in range(chance.randint(1, 4))]
            target = "/".join([path, *parts])
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                kind = chance.randrange(5)
                if kind == 0:
                    os.symlink(chance.choice(["a", "/nowhere/b", "../c"]), target)
                elif kind == 1:
                    os.mkdir(target)
                elif kind == 2:
                    files = [
                        p
                        for p in paths(path)
                        if os.path.isfile(f"{path}/{p}") and not os.path.islink(f"{path}/{p}")
                    ]
                    os.link(f"{path}/{chance.choice(sorted(files))}", target, follow_symlinks=False)
                else:
                    write(target, chance.randbytes(chance.randint(0, 3)), chance.choice([0o600, 0o4755]))
            except (OSError, IndexError):
                continue

    lower, upper = str(tmp_path / "lower"), str(tmp_path / "upper")
    fill(lower)
    fill(upper)
    with Root(lower) as below, Root(upper) as above:
        data = tar_of(diff(below, above), mtime_ns=None)
        apply(io.BytesIO(data), below)
        assert snapshot(lower) == snapshot(upper)
        # Nothing is left to say.
        assert [item.entry for item in diff(below, above)] == []
