"""Where contexts and Dockerfiles may come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from copy_cases import Seen, Tree, result_tree

from building import Builder, Context, MakeBuilder

TEXT = "FROM scratch\nCOPY f /f\n"
FILES = {"Dockerfile": TEXT, "f": "x"}


@pytest.fixture
def root_builder(make_builder: MakeBuilder) -> Builder:
    return make_builder("root")


def tree_of(builder: Builder, *args: str, input: bytes = b"", cwd: Path | None = None) -> Tree:
    out = builder.home / "out.tar"
    builder.run("build", "-o", f"type=tar,dest={out}", *args, input=input, cwd=cwd)
    return Tree(out)


def is_x(tree: Tree) -> bool:
    return tree.seen("f") == Seen("file", "x", 0o644, (0, 0))


def test_a_dockerfile_outside_of_the_context_or_relative_to_it(
    root_builder: Builder, context: Context, scratch: Path
) -> None:
    root = context({"f": "x", "sub/D": TEXT, "dockerfile": TEXT})
    (scratch / "elsewhere").write_text(TEXT)
    for args in (["-f", str(scratch / "elsewhere")], ["-f", "elsewhere"], ["-f", "sub/D"], []):
        assert is_x(tree_of(root_builder, *args, str(root), cwd=scratch))
    (root / "dockerfile").unlink()
    assert "error[dockerfile-not-found]" in root_builder.run("build", str(root), status=1).err
    done = root_builder.run("build", "-f", "sub/E", str(root), status=1)
    assert "error[dockerfile-not-found]" in done.err


def git(path: Path, *args: str) -> str:
    env = {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_AUTHOR_DATE": "1700000000 +0200", "GIT_COMMITTER_DATE": "1700000000 +0200",
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(path), *args], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(context: Context) -> Path:
    path = context({**FILES, "sub/Dockerfile": TEXT, "sub/f": "in sub"}, "repository")
    git(path, "init", "-q", "-b", "main")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "one")
    git(path, "tag", "v1")
    (path / "sub/f").write_text("later")
    git(path, "commit", "-qam", "two")
    git(path, "config", "uploadpack.allowAnySHA1InWant", "true")
    return path


def test_git(root_builder: Builder, repository: Path) -> None:
    url = f"file://{repository}/.git"
    assert is_x(tree_of(root_builder, url))
    for fragment, expected in (
        ("#v1:sub", "in sub"),
        ("#main:sub", "later"),
        (f"#{git(repository, 'rev-parse', 'v1')}:sub", "in sub"),
    ):
        seen = tree_of(root_builder, url + fragment).seen("f")
        assert seen is not None
        assert seen.text == expected
    root_builder.run("build", "-t", "g", url)
    config = msgspec.json.decode(root_builder.run("inspect", "g").out)["config"]
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert "error[" in root_builder.run("build", f"{url}#nothing", status=1).err


def test_an_image_of_a_layout_replaces_one_that_is_not_there(
    make_builder: MakeBuilder, context: Context, busybox_layout: Path
) -> None:
    builder = make_builder("root")
    builder.run("rm", "busybox")
    root = context({"Dockerfile": "FROM debian:bookworm\nRUN echo x > /x\n"})
    index = msgspec.json.decode((busybox_layout / "index.json").read_bytes())
    tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].rpartition(":")[2]
    for name in ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm::linux/amd64"):
        value = f"{name}=oci-layout://{busybox_layout}:{tag}"
        assert result_tree(builder, root, "--build-context", value).seen("x")


def test_a_context_through_a_link(root_builder: Builder, context: Context, scratch: Path) -> None:
    (scratch / "link").symlink_to(context(FILES))
    assert is_x(tree_of(root_builder, str(scratch / "link")))
    assert is_x(tree_of(root_builder, ".", cwd=scratch / "link"))


def test_what_the_user_may_not_read_is_named(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("subids")
    for path, mode in (("f", 0o600), ("d", 0o700)):
        root = context({"Dockerfile": f"FROM scratch\nCOPY {path} /x\n", "f": "x", "d/f": "x"}, f"of-{path}")
        (root / path).chmod(mode)
        err = builder.run("build", str(root), status=1).err
        assert "error[unreadable-path]" in err
        assert "Dockerfile:2:" in err
        assert f"cannot read {path}" in err


def test_only_named_paths_are_read(builder: Builder, context: Context) -> None:
    """Opening the fifo, or the file of somebody else, would block or fail."""
    text = "FROM busybox\nCOPY f d/*.c /\nRUN --mount=type=bind,source=d,target=/m cat /m/a.c > /out\n"
    root = context({"Dockerfile": text, "f": "x", "d/a.c": "c", "other": "y"})
    os.mkfifo(root / "pipe")
    (root / "other").chmod(0)
    (root / "closed").mkdir(mode=0)
    assert is_x(result_tree(builder, root))


def test_a_loop_of_links_is_no_fault_of_ours(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY a/f /\n"})
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert "error[unreadable-path]" in root_builder.run("build", str(root), status=1).err
