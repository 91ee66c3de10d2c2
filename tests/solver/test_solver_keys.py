"""What an edit makes run again, and what it must not: by the real program, from the journals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from building import Builder, Built, Context, MakeBuilder, processes_with

DOCKERFILE = """\
FROM busybox
ARG EARLY=1
LABEL l=1
EXPOSE 80
CMD ["one"]
COPY data /data
RUN echo first
USER 1000
WORKDIR /work
COPY more /more
RUN id -u
ARG LATE=1
RUN echo late
COPY last /last
"""
FILES = {"data/a": "a", "data/sub/b": "b", "more": "m", "last": "l"}


def steps(built: Built) -> list[str]:
    """The instructions that ran, without their stage."""
    return sorted(name.partition("] ")[2].split("\n")[0] for name in built.ran)


@pytest.fixture
def built(make_builder: MakeBuilder, context: Context) -> tuple[Builder, Path]:
    builder = make_builder("root")
    root = context({"Dockerfile": DOCKERFILE, **FILES})
    assert len(steps(builder.build(root))) == 7
    return builder, root


EDITS: dict[str, tuple[str, str, list[str]]] = {
    "label": ("LABEL l=1", "LABEL l=2", []),
    "port": ("EXPOSE 80", "EXPOSE 81", []),
    "command": ('CMD ["one"]', 'CMD ["two"]', []),
    "comment": ("COPY more", "# a comment\nCOPY more", []),
    "argument that later steps see": ("ARG LATE=1", "ARG LATE=2", ["RUN echo late"]),
    "argument that all steps see": (
        "ARG EARLY=1", "ARG EARLY=2", ["RUN echo first", "RUN echo late", "RUN id -u"],
    ),
    # The directory and the output of the step change owner; what is copied does not.
    "user": ("USER 1000", "USER 1001", ["RUN echo late", "RUN id -u", "WORKDIR /work"]),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_instructions(built: tuple[Builder, Path], edit: str) -> None:
    builder, root = built
    old, new, expected = EDITS[edit]
    (root / "Dockerfile").write_text(DOCKERFILE.replace(old, new))
    ran = [step for step in steps(builder.build(root)) if not step.startswith("COPY")]
    if edit == "user":
        assert "RUN id -u" in ran
        assert "RUN echo first" not in ran
    else:
        assert ran == expected


def test_a_user_touches_no_copy(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    text = "FROM busybox\nCOPY data /data\nUSER 1\nCOPY more /more\nADD last /last\n"
    root = context({"Dockerfile": text, **FILES})
    builder.build(root)
    (root / "Dockerfile").write_text(text.replace("USER 1", "USER 2"))
    assert steps(builder.build(root)) == []


def keep_times(path: Path) -> None:
    """Another content of the same size, at the same time."""
    status = path.stat()
    path.write_text("x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def capability(path: Path) -> None:
    # VFS_CAP_REVISION_2 with the effective bit, cap_net_raw (linux/capability.h)
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))


CONTENT: dict[str, tuple[Callable[[Path], object], bool]] = {
    "content of equal size and mtime": (lambda root: keep_times(root / "data/a"), True),
    "mode of a file": (lambda root: (root / "data/a").chmod(0o755), True),
    "mode of a directory": (lambda root: (root / "data/sub").chmod(0o700), True),
    "attribute": (lambda root: os.setxattr(root / "data/a", "user.note", b"1"), True),
    "capability": (lambda root: capability(root / "data/a"), True),
    "device": (lambda root: os.mknod(root / "data/dev", 0o20600, os.makedev(1, 3)), True),
    "hard link for a copy": (
        lambda root: (os.unlink(root / "data/sub/b"), os.link(root / "data/a", root / "data/sub/b")), True,
    ),
    "mtime": (lambda root: os.utime(root / "data/a", (5, 5)), False),
    "owner": (lambda root: os.chown(root / "data/a", 12, 34), False),
}  # fmt: skip


@pytest.mark.parametrize("edit", CONTENT)
def test_contexts(make_builder: MakeBuilder, context: Context, edit: str) -> None:
    """Every edit that an image can show is noticed, with and without `--no-cache`, and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("needs-root: owners, devices and capabilities in a context")
    builder = make_builder("root")
    root = context(
        {"Dockerfile": "FROM busybox\nCOPY data /data\nRUN ls -lR /data > /list; : > /list\n", **FILES}
    )
    before = builder.build(root)
    change, counts = CONTENT[edit]
    change(root)
    after = builder.build(root)
    assert (after.digest != before.digest) == counts
    assert bool(after.ran) == counts
    assert builder.build(root, "--no-cache").digest == after.digest


def test_binds_and_copies_of_stages_count_by_content(builder: Builder, context: Context) -> None:
    text = (
        "FROM busybox AS made\nCOPY data/a /in\nRUN tr a-z A-Z < /in > /out; rm /in\n"
        "FROM busybox\nCOPY --from=made /out /out\n"
        "RUN --mount=type=bind,from=made,source=/out,target=/bound cat /bound > /copy\n"
    )
    root = context({"Dockerfile": text, **FILES})
    assert len(builder.build(root).ran) == 4
    (root / "data/a").write_text("A")
    again = builder.build(root)
    assert steps(again) == ["COPY data/a /in", "RUN tr a-z A-Z < /in > /out; rm /in"]


def test_two_stages(builder: Builder, context: Context) -> None:
    """Only stage a copies the context; b begins as a does."""
    prefix = "RUN echo prefix > /prefix\n"
    text = (
        f"FROM busybox AS a\n{prefix}COPY . /src\nRUN cat /src/data/a > /made\n"
        f"FROM busybox AS b\n{prefix}RUN echo b > /b\nCOPY --from=a /made /made\n"
    )
    root = context({"Dockerfile": text, ".dockerignore": "Dockerfile\n", **FILES})
    first = builder.build(root)
    assert steps(first).count("RUN echo prefix > /prefix") == 1
    (root / "more").write_text("changed")
    assert steps(builder.build(root)) == ["COPY . /src", "RUN cat /src/data/a > /made"]
    (root / "data/a").write_text("changed")
    assert steps(builder.build(root)) == [
        "COPY --from=a /made /made",
        "COPY . /src",
        "RUN cat /src/data/a > /made",
    ]


def test_a_copy_over_equal_files_says_nothing_whatever_their_times(
    make_builder: MakeBuilder, context: Context
) -> None:
    """A layer must not tell when the context was last touched: no key knows."""
    builder = make_builder("root")
    root = context({"Dockerfile": "FROM busybox\nCOPY data /src\nCOPY more data /src/\n", **FILES})
    os.symlink("a", root / "data/link")
    builder.build(root)
    for path in ("data/a", "data/link", "data/sub", "data"):
        os.utime(root / path, (7, 7), follow_symlinks=False)
    (root / "more").write_text("edited")
    again = builder.build(root)
    assert steps(again) == ["COPY more data /src/"]
    assert again.digest == make_builder("root", "other").build(root).digest


@pytest.mark.parametrize("other", ["data/b", "elsewhere"])
def test_a_copy_over_equal_hard_links_says_the_same_on_an_imported_tree(
    other: str, builder: Builder, make_builder: MakeBuilder, context: Context
) -> None:
    """The other name of a file is copied too, or is not: then no key knows of it."""
    text = "FROM busybox\nCOPY data /src\n"
    root = context({"Dockerfile": text, **FILES})
    os.link(root / "data/a", root / other)
    place = builder.home / "cache"
    builder.run("build", "--cache-to", f"type=local,dest={place}", str(root))
    context({"Dockerfile": f"{text}COPY data /src/\nRUN ls -li /src > /seen; stat -c %h /src/* > /seen\n"})
    following = make_builder(builder.identity, "following")
    built = following.build(root, "--cache-from", f"type=local,src={place}")
    assert "COPY data /src" not in steps(built)
    assert built.digest == make_builder("root", "clean").build(root).digest


def test_locked_cache_mounts_in_another_order_do_not_wait_in_a_circle(
    builder: Builder, context: Context
) -> None:
    one, two = (f"--mount=type=cache,sharing=locked,id={name},target=/{name}" for name in "ab")
    text = (
        f"FROM busybox AS x\nRUN {one} {two} sleep 0.3\nFROM busybox AS y\nRUN {two} {one} sleep 0.2\n"
        "FROM busybox\nCOPY --from=x /bin/sh /x\nCOPY --from=y /bin/sh /y\n"
    )
    root = context({"Dockerfile": text})
    for _ in range(2):
        builder.run("build", "-q", "--no-cache", "--jobs", "4", str(root))


def test_a_context_that_changes_during_the_build_leaves_no_record(
    make_builder: MakeBuilder, context: Context
) -> None:
    builder = make_builder("root")
    marker = f"changing-{os.getpid()}"
    text = f"FROM busybox\nRUN --mount=type=bind,source=data,target=/d cat /d/a > /first; sleep 0.7; : {marker}\n"
    root = context({"Dockerfile": text, **FILES})
    process: subprocess.Popen[str] = builder.start("build", "-q", str(root))
    while not processes_with(f": {marker}"):
        assert process.poll() is None
    (root / "data/a").write_text("changed")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    again = builder.build(root)
    assert len(again.ran) == 1
    assert again.digest == make_builder("root", "other").build(root).digest
