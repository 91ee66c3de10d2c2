"""The same Dockerfile under every tier: the same bytes, and a record of which it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from building import Builder, Context, MakeBuilder

TIERS = ("crun", "runc", "bubblewrap", "chroot")
_PROGRAMS = {"bubblewrap": "bwrap"}
_APPLETS = (
    "sh",
    "mkdir",
    "chown",
    "chmod",
    "ln",
    "rm",
    "mv",
    "touch",
    "id",
    "cat",
    "sleep",
    "date",
    "test",
    "cp",
    "echo",
)
DOCKERFILE = """FROM scratch
COPY --chown=0:0 root /
RUN mkdir -p /d/e /keep && echo a > /d/e/f && chown 5:6 /d/e/f && ln /d/e/f /d/hard && cp /bin/busybox /su && chmod 6755 /su
RUN --mount=type=cache,target=/cache echo x > /cache/n && cp /cache/n /cached && touch -d @1000000000 /keep
RUN --mount=type=bind,source=sub,target=/src cp /src/file /copied
RUN --mount=type=tmpfs,target=/t touch /t/x && echo "$(id -u) $(id -g)" > /who
RUN echo b > /d/hard && mv /d/e /d/moved && rm -r /keep && mkdir -p /keep/new && ln -s ../d /keep/link
USER 1000:1001
WORKDIR /tmp
RUN echo "$(id -u) $(id -g) $HOME $PWD" > id && date > /dev/null && test -z "$(cat /dev/null)" && test -r /etc/hosts
"""


@pytest.fixture
def small(context: Context) -> Path:
    """A context that brings its own root: one busybox, so that copies of trees are small."""
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs-busybox: a static busybox (package busybox-static)")
    root = context({"Dockerfile": DOCKERFILE, "sub/file": "text"})
    for name in ("root/bin", "root/tmp"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o755)
    (root / "root").chmod(0o755)
    (root / "root/tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", root / "root/bin/busybox")
    for name in _APPLETS:
        (root / "root/bin" / name).symlink_to("busybox")
    return root


def runnable(tier: str) -> bool:
    return tier == "chroot" or shutil.which(_PROGRAMS.get(tier, tier)) is not None


def test_equal_bytes(small: Path, make_builder: MakeBuilder) -> None:
    """As root and as a user with subordinate ids, in stores of their own."""
    digests = {}
    for identity in ("root", "subids"):
        for tier in filter(runnable, TIERS):
            built = make_builder(identity, f"store-{tier}").build(small, "--isolation", tier)
            suffix = "" if identity == "root" else "+userns"
            assert built.fields["arkwright.tiers"] == [tier + suffix]
            started = [event for event in built.events if type(event).__name__ == "Started"]
            steps = [event.tier for event in started if built.names[event.vertex].find("RUN") >= 0]  # type: ignore[union-attr]
            assert steps == [tier + suffix] * 6
            digests[identity, tier] = built.digest
    assert len(set(digests.values())) == 1, digests


def test_stores_are_shared_between_tiers(small: Path, builder: Builder) -> None:
    """What one tier made is cached for another, and built upon."""
    if not runnable("crun"):
        pytest.skip("needs-crun: an OCI runtime")
    first = builder.build(small, "--isolation", "chroot")
    assert builder.build(small, "--isolation", "crun").ran == []
    text = (small / "Dockerfile").read_text()
    (small / "Dockerfile").write_text(text + "RUN cat /d/moved/f > /tmp/again\n")
    by_overlay = builder.build(small, "--isolation", "crun")
    by_copy = builder.build(small, "--isolation", "chroot", "--no-cache")
    assert first.digest != by_overlay.digest == by_copy.digest
    assert "error" not in builder.run("fsck").out


def test_single_id_refuses_owners(small: Path, make_builder: MakeBuilder) -> None:
    """Without subordinate ids a step that changes its user fails with a hint."""
    (small / "Dockerfile").write_text("FROM scratch\nCOPY root /\nUSER 1000\nRUN id\n")
    for tier in filter(runnable, TIERS):
        done = make_builder("single").run("build", "--isolation", tier, str(small), status=4)
        assert "error[unmapped-id]" in done.err
        assert "subordinate" in done.err


def test_what_is_missing_is_named(small: Path, make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    builder.env["PATH"] = "/nowhere"
    done = builder.run("build", "--isolation", "nothing", str(small), status=2)
    assert "nothing" in done.err


def test_secrets_without_a_mount(small: Path, make_builder: MakeBuilder) -> None:
    """chroot gives a secret as a variable, and as a pipe that stands where the file would."""
    builder = make_builder("root")
    secret = builder.home / "secret"
    secret.write_text("hunter2")
    text = "FROM scratch\nCOPY root /\nRUN --mount=type=secret,id=s,{}\nRUN test ! -e /s\n"
    options = ("--isolation", "chroot", "--secret", f"id=s,src={secret}", str(small))
    for how in ('env=S test "$S" = hunter2', 'target=/s test "$(cat /s) $(cat /s)" = "hunter2 hunter2"'):
        (small / "Dockerfile").write_text(text.format(how))
        builder.run("build", *options)


def test_a_store_that_takes_no_overlay(builder: Builder, small: Path, scratch: Path) -> None:
    """An overlay cannot lie on an overlay, which is what containers have: trees are copied, for the same digest."""
    if os.geteuid() != 0:
        pytest.skip("needs-root: mounts an overlay for the store")
    if builder.identity == "subids":
        digest = builder.build(small).digest
    else:
        digest = builder.build(small, "--isolation", "crun").digest
    owner = builder.home.stat()
    for name in ("lower", "upper", "work", "store"):
        (scratch / name).mkdir()
    os.chown(scratch / "upper", owner.st_uid, owner.st_gid)
    options = ",".join(
        f"{key}dir={scratch}/{name}"
        for key, name in (("lower", "lower"), ("upper", "upper"), ("work", "work"))
    )
    mount = f'mount -t overlay overlay -o {options} {scratch}/store && exec "$@"'
    metadata = builder.home / "elsewhere.json"
    build = builder.command("build", "--progress=plain", "--metadata-file", str(metadata), str(small))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *build],
        env={**builder.env, "ARKWRIGHT_DEBUG": "1", "ARKWRIGHT_ROOT": f"{scratch}/store/root"}, cwd=builder.home, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "trees are copied" in done.stderr
    fields = msgspec.json.decode(metadata.read_bytes())
    assert fields["containerimage.digest"] == digest
    assert fields["arkwright.tiers"][0].startswith("crun")
