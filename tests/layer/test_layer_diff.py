from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess

import pytest
from layer_trees import as_nobody, paths, snapshot, tar_of, write

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.layer.apply import apply
from arkwright.layer.attributes import NODE, encode_node, portable_capability
from arkwright.layer.diff import diff, diff_facts
from arkwright.layer.entry import Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import read_tar
from arkwright.layer.tree import Fact, facts, walk


def _diff(lower: str | None, upper: str, **options) -> list[tuple[str, str]]:
    return [(entry.path, entry.type) for entry in _entries(lower, upper, **options)]


def _entries(lower: str | None, upper: str, **options) -> list[Entry]:
    with Root(upper) as above:
        if lower is None:
            return [change.entry for change in diff(None, above, **options)]
        with Root(lower) as below:
            return [change.entry for change in diff(below, above, **options)]


def _layer(lower: str, upper: str, **options) -> bytes:
    with Root(lower) as below, Root(upper) as above:
        return tar_of(diff(below, above, **options))


@pytest.fixture
def pair(tmp_path):
    """A tree and its exact copy."""
    lower = str(tmp_path / "lower")
    write(f"{lower}/usr/bin/tool", b"tool", 0o755)
    write(f"{lower}/usr/bin/other", b"other", 0o755)
    write(f"{lower}/usr-local/file", b"x")
    write(f"{lower}/etc/passwd", b"root:x:0:0")
    write(f"{lower}/etc/sub/deep/file", b"deep")
    os.symlink("usr/bin", f"{lower}/bin")
    os.mkfifo(f"{lower}/etc/pipe")
    write(f"{lower}/var/a", b"linked")
    os.link(f"{lower}/var/a", f"{lower}/var/b")
    os.link(f"{lower}/var/a", f"{lower}/var-c")
    os.chmod(lower, 0o755)
    return lower, _copy(lower, str(tmp_path / "upper"))


def _copy(source: str, target: str) -> str:
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def test_equal_trees_have_no_diff(pair):
    assert _diff(*pair) == []
    assert _diff(pair[0], pair[0]) == []


def test_the_first_layer_holds_everything_in_order(pair):
    found = [path for path, _ in _diff(None, pair[0])]
    assert [path for path in found if path] == [
        "bin", "etc", "etc/passwd", "etc/pipe", "etc/sub", "etc/sub/deep", "etc/sub/deep/file",
        "usr", "usr/bin", "usr/bin/other", "usr/bin/tool", "usr-local", "usr-local/file",
        "var", "var/a", "var/b", "var-c",
    ]  # fmt: skip
    links = {entry.path: entry.link for entry in _entries(None, pair[0]) if entry.type == "hardlink"}
    assert links == {"var/b": "var/a", "var-c": "var/a"}


def test_a_changed_file_brings_its_ancestors(pair):
    write(f"{pair[1]}/etc/sub/deep/file", b"DEEP")
    assert _diff(*pair) == [
        ("etc", "dir"),
        ("etc/sub", "dir"),
        ("etc/sub/deep", "dir"),
        ("etc/sub/deep/file", "file"),
    ]


@pytest.mark.parametrize("what", ["mode", "owner", "xattr", "time", "content", "type"])
def test_every_difference_counts(pair, what, as_root):
    path = f"{pair[1]}/usr/bin/tool"
    before = os.stat(path)
    if what == "mode":
        os.chmod(path, 0o4755)
    elif what == "owner":
        os.chown(path, 0, 7)
    elif what == "xattr":
        os.setxattr(path, "user.x", b"1")
    elif what == "content":
        with open(path, "r+b") as file:
            file.write(b"TOOL")
    elif what == "type":
        os.unlink(path)
        os.symlink("other", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (what == "time")), follow_symlinks=False)
    os.utime(f"{pair[1]}/usr/bin", ns=(0, os.stat(f"{pair[0]}/usr/bin").st_mtime_ns))
    kind = "symlink" if what == "type" else "file"
    assert _diff(*pair) == [("usr", "dir"), ("usr/bin", "dir"), ("usr/bin/tool", kind)]


def test_content_is_compared_only_when_all_else_is_alike(pair, monkeypatch):
    read = []
    monkeypatch.setattr(
        "arkwright.layer.diff._same_content", lambda one, other: read.append(one.name) or True
    )
    write(f"{pair[1]}/etc/passwd", b"longer than it was")
    _diff(*pair)
    # Nine files less the changed one; hard links of an unchanged group are read by name.
    assert len(read) == 7


def test_deletions_are_per_name_whiteouts_in_their_place(pair):
    shutil.rmtree(f"{pair[1]}/etc/sub")
    os.unlink(f"{pair[1]}/bin")
    os.unlink(f"{pair[1]}/usr-local/file")
    assert _diff(*pair) == [
        ("bin", "whiteout"), ("etc", "dir"), ("etc/sub", "whiteout"),
        ("usr-local", "dir"), ("usr-local/file", "whiteout"),
    ]  # fmt: skip


def test_a_renamed_tree_is_a_whiteout_and_a_new_tree(pair):
    os.rename(f"{pair[1]}/etc/sub", f"{pair[1]}/etc/renamed")
    assert _diff(*pair) == [
        ("etc", "dir"), ("etc/renamed", "dir"), ("etc/renamed/deep", "dir"),
        ("etc/renamed/deep/file", "file"), ("etc/sub", "whiteout"),
    ]  # fmt: skip


def test_a_directory_replaced_by_a_file_and_the_other_way(pair):
    shutil.rmtree(f"{pair[1]}/etc")
    write(f"{pair[1]}/etc", b"")
    os.unlink(f"{pair[1]}/bin")
    write(f"{pair[1]}/bin/sh", b"")
    assert _diff(*pair) == [("bin", "dir"), ("bin/sh", "file"), ("etc", "file")]


def test_all_members_of_a_touched_hard_link_group_appear(pair):
    os.chmod(f"{pair[1]}/var-c", 0o600)
    assert _diff(*pair) == [("var", "dir"), ("var/a", "file"), ("var/b", "hardlink"), ("var-c", "hardlink")]


def test_a_new_link_to_an_old_file_brings_the_old_names(pair):
    os.link(f"{pair[1]}/etc/passwd", f"{pair[1]}/zz")
    assert _diff(*pair) == [("etc", "dir"), ("etc/passwd", "file"), ("zz", "hardlink")]


def test_which_names_are_one_file_is_no_change_by_itself(pair):
    """As overlayfs does it: opening one of several names to write, and closing it, makes it a file of its own.
    Whoever has both trees for good may tell it all the same, as `images.layer_trees.tell_links` does."""
    lower, upper = pair
    status = os.stat(f"{upper}/var/b")
    shutil.copy2(f"{upper}/var/b", f"{upper}/var/new")
    os.replace(f"{upper}/var/new", f"{upper}/var/b")
    for path in (f"{upper}/var/b", f"{upper}/var"):
        kept = os.stat(path.replace(upper, lower))
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert os.stat(f"{upper}/var/b").st_ino != status.st_ino
    assert _diff(lower, upper) == []
    # Once something else of it changes, the names are told as they are.
    os.chmod(f"{upper}/var/a", 0o600)
    found = {entry.path: (entry.type, entry.link) for entry in _entries(lower, upper)}
    assert found == {"var": ("dir", ""), "var/a": ("file", ""), "var-c": ("hardlink", "var/a")}


def test_an_untouched_group_does_not_hold_back_what_follows(pair):
    write(f"{pair[1]}/zz", b"")
    os.link(f"{pair[1]}/zz", f"{pair[1]}/../elsewhere")
    assert _diff(*pair) == [("zz", "file")]


def test_the_root_appears_only_for_its_mode_owner_and_attributes(pair):
    os.utime(pair[1], (1, 1))
    assert _diff(*pair) == []
    os.chmod(pair[1], 0o700)
    assert _diff(*pair) == [("", "dir")]
    assert _diff(None, pair[1])[0] == ("", "dir")


def test_sockets_are_reported_and_left_out(pair):
    skipped: list[str] = []
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(f"{pair[1]}/etc")
        try:
            server.bind("sock")
        finally:
            os.chdir("/")
        assert ("etc/sock", "file") not in _diff(*pair, on_skip=skipped.append)
        assert skipped == ["etc/sock"]
        # Nor is its disappearance a deletion: no layer had it.
        before = os.stat(f"{pair[1]}/etc")
        os.utime(f"{pair[0]}/etc", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert _diff(pair[1], pair[0]) == []


def test_overlay_attributes_and_host_labels_are_not_carried(pair, as_root):
    path = f"{pair[1]}/etc/passwd"
    for name in ("user.overlay.opaque", "trusted.overlay.metacopy", "user.arkwright.x", "trusted.md5sum"):
        os.setxattr(path, name, b"y")
    assert _diff(*pair) == []


def test_a_recorded_device_is_read_as_the_device(pair):
    path = f"{pair[1]}/null"
    write(path)
    os.setxattr(path, NODE, encode_node("c", 1, 3))
    (entry,) = _entries(*pair)
    assert (entry.type, entry.major, entry.minor, entry.xattrs) == ("char", 1, 3, ())


def test_file_capabilities_are_portable():
    revision_2 = bytes.fromhex("0100000200200000000000000000000000000000")
    assert portable_capability(revision_2) == revision_2
    revision_3 = bytes.fromhex("0100000300200000000000000000000000000000")
    assert portable_capability(revision_3 + bytes(4)) == revision_2
    assert portable_capability(revision_3 + (1000).to_bytes(4, "little")) is None


def test_deep_trees_are_compared(tmp_path):
    fds = []
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        fd = os.open(tmp_path / name, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("d", dir_fd=fd)
            below_fd = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.utime(fd, (5, 5))
            os.close(fd)
            fd = below_fd
        os.utime(fd, (5, 5))
        fds.append(fd)
    try:
        assert _diff(str(tmp_path / "lower"), str(tmp_path / "upper")) == []
        os.mkfifo("pipe", dir_fd=fds[1])
        found = _diff(str(tmp_path / "lower"), str(tmp_path / "upper"))
        assert len(found) == 1201 and found[-1] == ("d/" * 1200 + "pipe", "fifo")
    finally:
        for fd in fds:
            os.close(fd)
        subprocess.run(["rm", "-rf", tmp_path / "lower", tmp_path / "upper"], check=True)


def test_walk_of_a_subtree_begins_with_it(pair):
    with Root(pair[0]) as root:
        assert [entry.path for entry, _ in walk(root, "etc/sub")] == [
            "etc/sub",
            "etc/sub/deep",
            "etc/sub/deep/file",
        ]
        assert [entry.path for entry, _ in walk(root, "etc/passwd")] == ["etc/passwd"]


def test_a_tree_that_cannot_be_read_is_an_error_of_the_host(open_path, as_root):
    write(f"{open_path}/top/file", b"x")
    os.chown(f"{open_path}/top/file", 0, 0)
    os.chmod(f"{open_path}/top/file", 0)
    os.chmod(f"{open_path}/top", 0o755)

    def body() -> None:
        with Root(f"{open_path}/top") as root, pytest.raises(HostUnsupported) as caught:
            tar_of(diff(None, root))
        assert caught.value.code == "tree-unreadable"

    as_nobody(body)


def test_custom_facts(pair):
    """Another upper layout: what may have changed, with its ancestors."""
    write(f"{pair[1]}/etc/passwd", b"new")
    with Root(pair[0]) as lower, Root(pair[1]) as upper:
        found = [fact for fact in facts(upper) if fact.entry.path in ("", "etc", "etc/passwd")]
        found.insert(2, Fact(Entry(path="etc/absent", type="whiteout"), None))
        found.append(Fact(Entry(path="usr", type="whiteout"), None))
        changes = [(c.entry.path, c.entry.type) for c in diff_facts(lower, upper, found)]
    assert changes == [("etc", "dir"), ("etc/passwd", "file"), ("usr", "whiteout")]


SCRIPTS = {
    "nothing": "true",
    "create": "mkdir -p new/dir; echo x > new/dir/file; echo y > etc/added",
    "append": "echo more >> etc/passwd",
    "chmod-and-back": "chmod 600 etc/passwd; chmod 644 etc/passwd; chmod 700 etc; chmod 755 etc",
    "delete": "rm etc/passwd; rm -r etc/sub; rm bin",
    "delete-and-create": "rm etc/passwd; echo new > etc/passwd",
    "replace-directory": "rm -r etc; mkdir etc; echo x > etc/only",
    "replace-deep-directory": "rm -r etc/sub; mkdir -p etc/sub/deep; echo x > etc/sub/deep/other",
    "directory-to-file": "rm -r etc/sub; echo x > etc/sub",
    "file-to-directory": "rm etc/passwd; mkdir etc/passwd; echo x > etc/passwd/x",
    "link-to-directory": "rm bin; mkdir bin; echo x > bin/sh",
    "directory-to-link": "rm -r usr-local; ln -s etc usr-local",
    "through-a-link": "echo new > bin/tool",
    "new-hard-link": "ln etc/passwd etc/passwd2",
    "new-group": "echo x > g1; ln g1 g2; ln g1 etc/g3",
    "unlink-a-member": "rm var/b",
    "created-and-removed": "echo x > etc/gone; rm etc/gone; mkdir t; rmdir t",
    "rename-file": "mv etc/passwd etc/passwd-",
    "rename-directory": "mkdir -p fresh/a; echo x > fresh/a/b; mv fresh moved",
    "attributes": "setfattr -n user.k -v v etc/passwd; setfattr -n user.d -v v usr",
    "devices": "mknod dev-null c 1 3; mkfifo p; rm etc/pipe; mkfifo etc/pipe",
    "owner": "chown 5:6 etc/passwd; chown -h 7:8 bin; chown 9 usr",
    "everything-gone": "rm -rf ./*",
    "truncate-times": "touch -d @1000000000 usr/bin/other usr",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_overlay_and_plain_trees_give_the_same_layer(pair, tmp_path, name, as_root, tool):
    _check_both(pair, tmp_path, SCRIPTS[name], tool)


def _random_script(seed: int) -> str:
    chance = random.Random(seed)
    names = [
        "usr",
        "usr/bin",
        "usr/bin/tool",
        "etc",
        "etc/passwd",
        "etc/sub",
        "etc/sub/deep",
        "n1",
        "n1/n2",
        "etc/n3",
    ]
    lines = []
    for number in range(chance.randint(2, 9)):
        one, two = chance.choice(names), chance.choice(names)
        lines.append(
            chance.choice([
                f"rm -rf {one}", f"mkdir -p {one}", f"echo {number} > {one}", f"chmod 7{number}5 {one}",
                f"rm -rf {one}; ln -s {two} {one}", f"rm -rf {one}; cp -a {two} {one}",
                f"rm -rf {one}; mkdir {one}; echo {number} > {one}/x{number}",
            ])
        )  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(12))
def test_overlay_and_plain_trees_agree_on_random_scripts(pair, tmp_path, seed, as_root, tool):
    _check_both(pair, tmp_path, _random_script(seed), tool)


def _check_both(pair, tmp_path, script: str, tool) -> None:
    lower, plain = pair
    for name in ("over", "work", "merged"):
        (tmp_path / name).mkdir(mode=0o755)
    os.utime(tmp_path / "over", ns=(0, os.stat(lower).st_mtime_ns))
    options = (
        f"userxattr,metacopy=off,index=off,lowerdir={lower},upperdir={tmp_path}/over,workdir={tmp_path}/work"
    )
    merged = f"{tmp_path}/merged"
    # The clocks of the two runs differ; what they do to times must not.
    inner = f"mount -t overlay overlay -o {options} {merged} && cd {merged} && {{ {script}\n}} 2>/dev/null; cp -a {merged} {tmp_path}/result"
    subprocess.run([tool("unshare"), "--mount", "sh", "-c", inner], check=True)
    subprocess.run(["sh", "-c", f"{script}\ntrue"], check=True, cwd=plain, stderr=subprocess.DEVNULL)
    over, full = _layer(lower, str(tmp_path / "over"), overlay=True), _layer(lower, plain)
    listed = [[entry for entry, _ in read_tar(io.BytesIO(data))] for data in (over, full)]
    assert listed[0] == listed[1]
    assert over == full
    for data in (over, full):
        copy = _copy(lower, str(tmp_path / f"copy{os.urandom(4).hex()}"))
        with Root(copy) as root:
            apply(io.BytesIO(data), root)
        assert snapshot(copy) == snapshot(str(tmp_path / "result")) == snapshot(plain)
    assert paths(plain) == paths(str(tmp_path / "result"))
