"""Steps that try to outlive, fill, close or leave their build, in several tiers."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder, wait_until_gone

TIERS = ("crun", "bubblewrap", "chroot")
_APPLETS = (
    "sh", "sleep", "setsid", "mkdir", "chmod", "ln", "rm", "mv", "touch", "dd", "mknod", "true", "seq", "cat",
    "chown", "nohup", "echo",
)  # fmt: skip


@pytest.fixture
def canary(scratch: Path) -> Iterator[Path]:
    """A tree beside the store, with a file of each kind; it must be as it was."""
    top = scratch / "canary"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("the canary sings")
    (top / "sub/link").symlink_to("../file")
    subprocess.run(["chmod", "-R", "a+rwX", str(top)], check=True)
    before = _state(top), _state(Path("/etc/resolv.conf").resolve()), _state(Path("/etc/hosts"))
    yield top
    assert (_state(top), _state(Path("/etc/resolv.conf").resolve()), _state(Path("/etc/hosts"))) == before


def _state(top: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found.append((str(path), status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, digest))
    return found


@pytest.fixture
def small(context: Context) -> Path:
    """A context that brings its own root: one busybox, so that copies of trees are small."""
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs-busybox: a static busybox (package busybox-static)")
    root = context({"Dockerfile": "FROM scratch\n"})
    (root / "root/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "root/bin/busybox")
    for name in _APPLETS:
        (root / "root/bin" / name).symlink_to("busybox")
    subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
    return root


def _runnable(tier: str) -> bool:
    return tier == "chroot" or shutil.which({"bubblewrap": "bwrap"}.get(tier, tier)) is not None


def attack(builder: Builder, small: Path, tier: str, script: str, *options: str) -> int:
    """Build a step with this script; the exit status. Afterwards the store is right and usable."""
    if not _runnable(tier):
        pytest.skip(f"needs-{tier}: an isolation tier")
    (small / "Dockerfile").write_text(f"FROM scratch\nCOPY --chown=0:0 root /\nRUN {script}\n")
    command = builder.command("build", "--isolation", tier, *options, str(small))
    done = subprocess.run(
        command, env=builder.env, cwd=builder.home, capture_output=True, check=False, timeout=100
    )
    assert done.returncode in (0, 1), done.stderr.decode()
    assert b"internal error" not in done.stderr
    builder.run("fsck")
    (small / "Dockerfile").write_text("FROM scratch\nCOPY --chown=0:0 root /\nRUN echo after > /after\n")
    builder.run("build", "--isolation", tier, "--no-cache", str(small))
    assert not list((builder.store / "run").iterdir())
    return done.returncode


SCRIPTS = (
        "chmod 000 /",
        "chmod 000 /bin /bin/busybox; true",
        "mkdir -p /etc; rm -rf /etc/resolv.conf; ln -sf {canary}/file /etc/resolv.conf; echo x > /etc/resolv.conf; true",
        "mv /etc /etc2; mkdir /etc; ln -s {canary}/file /etc/hosts; echo x > /etc/hosts; true",
        "mv /dev /gone; mv /proc /gone2; ln -s {canary} /dev; true",
        "rm -rf /proc /sys /dev /etc; ln -s {canary} /etc; true",
        "mknod /tmpdev c 1 3; mknod /disk b 8 0; cat /disk; true",
        "for i in $(seq 3000); do echo > /f$i; done; mkdir -p /a/b/c/d/e/f/g",
        "i=0; while [ $i -lt 60 ]; do mkdir dir-with-a-long-name-0123456789 && cd dir-with-a-long-name-0123456789; i=$((i+1)); done",
)  # fmt: skip
# Each attack under one tier, as one user; under all of them where there is time.
ATTACKS = [
    pytest.param(
        script, tier, identity,
        marks=() if (number + place) % len(TIERS) == 0 and (number + who) % 2 == 0 else pytest.mark.soak,
    )
    for number, script in enumerate(SCRIPTS)
    for place, tier in enumerate(TIERS)
    for who, identity in enumerate(("root", "subids"))
]  # fmt: skip


@pytest.mark.parametrize(("script", "tier", "identity"), ATTACKS)
def test_steps_that_attack_their_tree(
    script: str, tier: str, identity: str, make_builder: MakeBuilder, small: Path, canary: Path
) -> None:
    attack(make_builder(identity), small, tier, script.format(canary=canary))


@pytest.mark.parametrize(
    ("tier", "identity"), [("crun", "subids"), ("bubblewrap", "root"), ("chroot", "root")]
)
def test_daemons_and_bombs_end_with_the_step(
    tier: str, identity: str, make_builder: MakeBuilder, small: Path, canary: Path
) -> None:
    """What ignores signals, has a session of its own and forks on is gone, however the step ends."""
    builder = make_builder(identity)
    mark = f"0.{random.randrange(10**15):015d}"
    daemons = f"setsid nohup sleep 1000 {mark} & (trap '' TERM HUP INT; setsid sleep 1000 {mark} &) ;"
    assert attack(builder, small, tier, f"{daemons} true") == 0
    wait_until_gone(mark)
    assert attack(builder, small, tier, f"{daemons} sleep 1000", "--step-timeout", "1s") == 1
    wait_until_gone(mark)
    # Each process makes two more until it is stopped: bounded by depth, so that a failure is no disaster.
    bomb = "echo 'n=$1; [ $n -gt 0 ] || exec sleep 1000 MARK; sh /b $((n-1)) & sh /b $((n-1)) & wait' > /b;"
    assert attack(builder, small, tier, f"{bomb.replace('MARK', mark)} sh /b 6", "--step-timeout", "2s") == 1
    wait_until_gone(mark)


def test_a_fork_bomb_within_its_limit(make_builder: MakeBuilder, small: Path, canary: Path) -> None:
    """Without end, under --pids-limit."""
    if not os.access("/sys/fs/cgroup/pids", os.W_OK):
        pytest.skip("needs-cgroups: writable control groups of version 1")
    for tier in filter(_runnable, TIERS):
        builder = make_builder("root", f"store-{tier}")
        script = "f() { f & f & }; f; sleep 1000"
        assert attack(builder, small, tier, script, "--pids-limit", "40", "--step-timeout", "3s") == 1


def test_a_full_disk(make_builder: MakeBuilder, small: Path, canary: Path) -> None:
    """A step that writes more than the store may take is stopped, and what it wrote is gone."""
    for tier in filter(_runnable, TIERS):
        builder = make_builder("root", f"store-{tier}")
        builder.run("quota", "64m")
        script = "dd if=/dev/zero of=/big bs=1M count=4000; sleep 100"
        assert attack(builder, small, tier, script) == 1
        used = subprocess.run(["du", "-sm", str(builder.store)], capture_output=True, check=True).stdout
        assert int(used.split()[0]) < 80


@pytest.fixture
def with_chattr(small: Path) -> Path:
    """The context with chattr(1) and its libraries, which busybox has not."""
    program = shutil.which("chattr")
    if program is None:
        pytest.skip("needs-chattr: e2fsprogs")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    paths = [program, *(word for word in listed.split() if word.startswith("/"))]
    for path in paths:
        target = small / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    subprocess.run(["chmod", "-R", "a+rX", str(small)], check=True)
    return small


def _immutable(top: Path) -> list[str]:
    done = subprocess.run(["lsattr", "-R", "-a", str(top)], capture_output=True, text=True, check=False)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:1] == "-"]
    return [path for flags, path in lines if {"i", "a"} & set(flags)]


@pytest.mark.parametrize(
    ("tier", "identity"), [("crun", "root"), ("bubblewrap", "root"), ("chroot", "root"), ("crun", "subids")]
)
def test_no_step_makes_immutable_files(
    tier: str, identity: str, make_builder: MakeBuilder, with_chattr: Path, canary: Path
) -> None:
    """The default capabilities lack CAP_LINUX_IMMUTABLE, and a user namespace has none that counts."""
    builder = make_builder(identity)
    mount = "--mount=type=cache,target=/c"
    script = "echo x > /f; for p in /f /c /bin/busybox; do chattr +i $p && exit 9; chattr +a $p && exit 9; done; true"
    assert attack(builder, with_chattr, tier, f"{mount} {script}") == 0
    assert _immutable(builder.store) == []


@pytest.mark.parametrize("tier", TIERS)
def test_immutable_files_of_an_insecure_step(
    tier: str, make_builder: MakeBuilder, with_chattr: Path, canary: Path
) -> None:
    """With leave to do anything a step of root's makes them; the builder still cleans up after it."""
    builder = make_builder("root")
    flags = "--security=insecure --mount=type=cache,target=/c"
    script = (
        "mkdir -p /d/e /c/d; echo x > /d/e/f; echo x > /c/d/f;"
        "chattr +i /d/e/f /d/e /bin/busybox /c/d/f /c/d; chattr +a /d /c; {end}"
    )
    allow = ("--allow", "security.insecure")
    assert attack(builder, with_chattr, tier, f"{flags} {script.format(end='exit 1')}", *allow) == 1
    assert attack(builder, with_chattr, tier, f"{flags} {script.format(end='true')}", *allow) == 0
    assert _immutable(builder.store) == []
    builder.run("prune", "--all", "--filter", "type=cache-mount")
    builder.run("prune", "--all")
    assert list((builder.store / "trash").iterdir()) == []


def test_immutable_files_of_a_builder_that_was_killed(
    make_builder: MakeBuilder, with_chattr: Path, canary: Path
) -> None:
    """Nobody cleared their flags: whoever finds the work directory deletes it all the same."""
    builder = make_builder("root")
    mark = f"0.{random.randrange(10**15):015d}"
    script = f"mkdir /d; echo > /d/f; chattr +i /d/f /d /bin/busybox; echo up; sleep 1000 {mark}"
    text = f"FROM scratch\nCOPY root /\nRUN --security=insecure {script}\n"
    (with_chattr / "Dockerfile").write_text(text)
    options = ("--isolation", "chroot", "--allow", "security.insecure", "--progress", "plain")
    process = builder.start("build", *options, str(with_chattr))
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(" up\n"):
            break
    process.kill()
    process.communicate()
    wait_until_gone(mark)
    assert _immutable(builder.store / "work")
    builder.run("prune", "--all")
    assert _immutable(builder.store) == []
    assert list((builder.store / "work").iterdir()) + list((builder.store / "trash").iterdir()) == []
