"""Wrong input: the right code, the right place, the right exit status."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder


@pytest.fixture
def root_builder(make_builder: MakeBuilder) -> Builder:
    return make_builder("root")


def fails(builder: Builder, root: Path, *args: str, status: int = 1) -> str:
    return builder.run("build", "--progress", "plain", *args, str(root), status=status).err


CASES = [
    ("FROM busybox\nRUN <<EOT\nnever ends\n", "unterminated-heredoc", "Dockerfile:2:", ""),
    ("FROM busybox\nRNU true\n", "unknown-instruction", "Dockerfile:2:1", "RUN"),
    ("FROM busybox\nCOPY --form=a b c\n", "unknown-flag", "Dockerfile:2:6", "--from"),
    ("FROM busybox AS builder\nFROM busybox\nCOPY --from=bulder /a /b\n", "unknown-stage", "Dockerfile:3:13", "builder"),
    ("FROM busybox\nCOPY mian.c /\n", "copy-source-missing", "Dockerfile:2:", "main.c"),
    ("FROM busybox\nCOPY secret.txt /\n", "copy-source-missing", "Dockerfile:2:", "line 2 of the ignore file"),
    ("FROM busybox\nCOPY --chown=nosuchuser main.c /\n", "unknown-user", "Dockerfile:2:", ""),
    ("FROM busybox\nCOPY main.c /etc/passwd/x\n", "copy-type-conflict", "Dockerfile:2:", ""),
    ("FROM busybox\nUSER ghost\nRUN true\n", "unknown-user", "Dockerfile:3:", ""),
    ("FROM busybox\nRUN --mount=type=secret,id=token,required true\n", "missing-secret", "Dockerfile:2:", "--secret"),
    ("FROM busybox AS a\nCOPY --from=b / /\nFROM busybox AS b\nCOPY --from=a / /\n", "circular-stages", "Dockerfile:4:13", ""),
    ("", "empty-dockerfile", "Dockerfile", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code", "place", "says"), CASES, ids=[case[1] + "-" + case[0][13:24].strip() for case in CASES]
)
def test_wrong_input(
    text: str, code: str, place: str, says: str, root_builder: Builder, context: Context
) -> None:
    files = {"Dockerfile": text, "main.c": "", "secret.txt": "", ".dockerignore": "# secrets\n*.txt\n"}
    err = fails(root_builder, context(files))
    assert f"error[{code}]" in err
    assert place in err
    assert says in err
    assert f"docs/reference/errors/{code}.md" in err
    assert "internal error" not in err


def test_several_problems_are_told_at_once(root_builder: Builder, context: Context) -> None:
    err = fails(root_builder, context({"Dockerfile": "FROM busybox\nRNU true\nCOPY --form=a b c\n"}))
    assert err.count("error[") == 2


def test_the_excerpt_has_carets_under_the_words(root_builder: Builder, context: Context) -> None:
    text = "FROM busybox AS builder\nFROM busybox\nCOPY --from=bulder /out /app\n"
    err = fails(root_builder, context({"Dockerfile": text}))
    assert "  Dockerfile:3:13\n3 │ COPY --from=bulder /out /app\n  │             ^^^^^^" in err


def test_an_unreachable_registry(root_builder: Builder, context: Context) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        name = f"localhost:{taken.getsockname()[1]}/x"
        err = fails(root_builder, context({"Dockerfile": f"FROM {name}\n"}), status=5)
    assert "error[registry-unreachable]" in err
    assert "Dockerfile:1:6" in err


def test_a_missing_runtime(root_builder: Builder, context: Context, scratch: Path) -> None:
    """No runtime where programs are looked for: a mount namespace hides both."""
    root = context({"Dockerfile": "FROM busybox\nRUN true\n"})
    hide = " && ".join(
        f"mount --bind /dev/null {found}" for name in ("crun", "runc") if (found := shutil.which(name))
    )
    root_builder.prefix = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "hide"]
    err = fails(root_builder, root, "--isolation", "oci", status=4)
    assert "error[no-runtime]" in err
    assert "install crun or runc" in err
    assert root_builder.build(root).fields["arkwright.tiers"] == ["bubblewrap"]


def test_a_build_without_steps_needs_no_runtime(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "x"})
    hide = " && ".join(f"mount --bind /dev/null {shutil.which(name)}" for name in ("crun", "runc"))
    root_builder.prefix = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "hide"]
    assert root_builder.build(root).digest


def test_usage_errors_exit_with_2(root_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\n"})
    for args, code in (
        (["--no-such-flag"], "invalid-usage"),
        (["--squash"], "not-built-yet"),
        (["--cache-to", "type=gha"], "not-built-yet"),
        (["--isolation", "jail"], "invalid-usage"),
    ):
        assert f"error[{code}]" in fails(root_builder, root, *args, status=2)


def test_a_store_of_another_user_and_a_missing_context(
    make_builder: MakeBuilder, scratch: Path, context: Context
) -> None:
    builder = make_builder("subids")
    os.chown(builder.store, 0, 0)
    root = context({"Dockerfile": "FROM busybox\n"})
    assert "error[store-of-another-user]" in fails(builder, root, status=4)
    os.chown(builder.store, builder.uid, builder.uid)
    assert "error[context-not-found]" in fails(builder, scratch / "nowhere")
    assert stat.S_ISDIR(builder.store.stat().st_mode)
