from __future__ import annotations

import errno
import os

import pytest
from layer_trees import as_nobody, modes, write

from arkwright.layer.rooted import DirStack, Root, duplicate, remove_tree


@pytest.fixture
def tree(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    top = tmp_path / "root"
    (top / "usr/bin").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "usr/bin/sh").write_text("inside")
    os.symlink("usr/bin", top / "bin")
    os.symlink("/usr/bin", top / "absolute")
    os.symlink("../../../../usr", top / "etc/up")
    os.symlink(str(outside), top / "out")
    os.symlink("loop2", top / "loop1")
    os.symlink("loop1", top / "loop2")
    os.symlink("/usr/bin/sh", top / "etc/shell")
    with Root(str(top)) as root:
        yield root


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("", ""), ("/", ""), ("..", ""), ("../../usr", "usr"), ("bin/sh", "usr/bin/sh"),
        ("absolute/sh", "usr/bin/sh"), ("etc/up/bin", "usr/bin"), ("etc/shell", "usr/bin/sh"),
        ("bin/../../etc", "etc"), ("bin/none/../x", "usr/bin/x"), ("usr/bin/sh/x", "usr/bin/sh/x"),
        ("./usr//bin/./", "usr/bin"),
    ],
)  # fmt: skip
def test_resolve_follows_links_as_in_a_chroot(tree, path, canonical):
    assert tree.resolve(path) == canonical


def test_a_link_to_an_absolute_path_stays_inside(tree):
    assert tree.lstat("out/secret") is None
    assert tree.resolve("out/secret").endswith("outside/secret")
    with pytest.raises(FileNotFoundError):
        tree.open_parent("out/secret")


def test_a_circle_of_links_is_eloop(tree):
    with pytest.raises(OSError) as caught:
        tree.open_parent("loop1/x")
    assert caught.value.errno == errno.ELOOP


def test_a_path_of_thousands_of_ups_and_downs_is_bounded(tree):
    with pytest.raises(OSError) as caught:
        tree.resolve("usr/bin/../../" * 30000)
    assert caught.value.errno == errno.ELOOP


def test_lookups(tree):
    assert tree.readlink("bin") == "usr/bin"
    assert tree.lstat("nothing") is None
    assert tree.lstat("usr/bin/sh/below") is None
    status = tree.lstat("bin/sh")
    assert status is not None and status.st_size == 6
    fd = tree.open_dir("bin")
    assert os.listdir(fd) == ["sh"]
    os.close(fd)
    with pytest.raises(NotADirectoryError):
        tree.open_dir("bin", follow=False)
    with pytest.raises(NotADirectoryError):
        tree.open_dir("usr/bin/sh")
    with os.fdopen(tree.open_file("bin/sh")) as file:
        assert file.read() == "inside"


def test_open_file_refuses_links_and_special_files(tree):
    os.mkfifo(os.path.join(tree.path, "pipe"))
    with pytest.raises(OSError) as caught:
        tree.open_file("etc/shell")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        tree.open_file("pipe")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError):
        tree.open_file("usr/bin")
    os.close(tree.open_file("pipe", special=True))


def test_create_makes_parents_one_by_one(tree):
    made = []

    def create(dir_fd: int, name: str, path: str) -> None:
        made.append(path)
        os.mkdir(name, dir_fd=dir_fd)

    fd, name = tree.open_parent("bin/a/b/c", create=create)
    os.close(fd)
    assert (name, made) == ("c", ["usr/bin/a", "usr/bin/a/b"])
    assert os.path.isdir(os.path.join(tree.path, "usr/bin/a/b"))


def test_the_root_and_a_last_up_give_the_directory_itself(tree):
    for path in ("", "/", "usr/bin/.."):
        fd, name = tree.open_parent(path)
        os.close(fd)
        assert name == "."


def test_very_deep_trees_are_walked_and_removed(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=fd)
    stack = DirStack(duplicate(fd))
    stack.push("top")
    for _ in range(3000):
        os.mkdir("d", dir_fd=stack.fd)
        stack.push("d")
    while len(stack) > 2:
        stack.pop()
    assert os.listdir(stack.fd) == ["d"]
    stack.close()
    remove_tree(fd, "top")
    os.close(fd)
    assert list(tmp_path.iterdir()) == []


def test_remove_tree_does_not_follow_links(tmp_path):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("x")
    (tmp_path / "gone/sub").mkdir(parents=True)
    os.symlink("../../keep", tmp_path / "gone/sub/link")
    fd = os.open(tmp_path, os.O_RDONLY)
    remove_tree(fd, "gone")
    os.close(fd)
    assert sorted(os.listdir(tmp_path)) == ["keep"]
    assert (tmp_path / "keep/file").read_text() == "x"


def test_own_unreadable_files_are_read_without_privilege(open_path, as_root):
    def body() -> None:
        write(f"{open_path}/top/dir/file", b"data")
        os.chmod(f"{open_path}/top/dir/file", 0)
        with Root(f"{open_path}/top") as root:
            with os.fdopen(root.open_file("dir/file"), "rb") as file:
                assert file.read() == b"data"
            assert modes(f"{open_path}/top/dir/file") == 0
            os.chmod(f"{open_path}/top/dir", 0)
            remove_tree(root.fd, "dir")
            assert os.listdir(root.fd) == []

    as_nobody(body)
