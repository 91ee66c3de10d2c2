"""Working containers: scripted builds, step by step, through the graph and the cache."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arkwright.events import types
from arkwright.events.journal import read_journal
from building import Builder, Context, MakeBuilder

Script = Callable[[Builder], str]


def _events(builder: Builder) -> list[types.AnyEvent]:
    """The journal of the last command."""
    last = max(
        (builder.store / "history").iterdir(), key=lambda path: (path / "journal.jsonl").stat().st_mtime_ns
    )
    return list(read_journal(str(last / "journal.jsonl")))


def _ran(builder: Builder) -> bool:
    return any(isinstance(event, types.Started) for event in _events(builder))


def _digest(builder: Builder, container: str) -> str:
    return builder.run("commit", "-q", container).out.strip()


def _listed(builder: Builder) -> list[dict[str, Any]]:
    return msgspec.json.decode(builder.run("containers", "--json").out)


@pytest.fixture
def files(context: Context) -> Path:
    return context({"app": "#!/bin/sh\necho app\n", "tree/one": "1", "tree/sub/two": "2"}, "files")


def _script(builder: Builder, files: Path) -> tuple[str, str]:
    """A build of six commands; the image's digest and what its commands printed."""
    name = builder.run("from", "busybox").out.strip()
    said = builder.run(
        "run",
        name,
        "--",
        "sh",
        "-c",
        "echo made; echo loud >&2; echo me:x:44:44::/:/bin/sh >> /etc/passwd; echo me:x:44: >> /etc/group; id -u me",
    ).out
    builder.run("copy", "--chown", "me:me", "--chmod", "755", name, str(files / "app"), "/usr/bin/app")
    builder.run("copy", name, f"{files}/tree", f"{files}/app", "/srv/")
    builder.run(
        "config",
        name,
        "--env",
        "A=1",
        "--user",
        "me",
        "--workdir",
        "/srv",
        "--cmd",
        '["app"]',
        "--label",
        "l=x",
    )
    said += builder.run("run", name, "--", "sh", "-c", 'echo "$A $(id -u) $PWD"; app').out
    digest = _digest(builder, name)
    builder.run("rm", name)
    return digest, said


def test_a_script_and_its_second_run(builder: Builder, files: Path) -> None:
    first, said = _script(builder, files)
    assert said == "made\n44\n1 44 /srv\napp\n"
    runs = set(os.listdir(builder.store / "history"))
    assert _script(builder, files) == (first, said)
    fresh = set(os.listdir(builder.store / "history")) - runs
    journals = [list(read_journal(str(builder.store / "history" / name / "journal.jsonl"))) for name in fresh]
    assert len(journals) == 5
    assert not any(isinstance(event, types.Started) for journal in journals for event in journal)
    shown = msgspec.json.decode(builder.run("inspect", "--format", "config", first).out)
    assert shown["config"]["User"] == "me"
    assert shown["config"]["Cmd"] == ["app"]
    assert builder.run("run", first).out == "app\n"


def test_root_and_others_make_the_same_image(make_builder: MakeBuilder, files: Path) -> None:
    assert _script(make_builder("root"), files) == _script(make_builder("subids"), files)


def test_a_step_is_found_by_the_other_way_to_build(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "sh", "-c", "echo x > /x")
    built = builder.build(context({"Dockerfile": 'FROM busybox\nRUN ["sh", "-c", "echo x > /x"]\n'}))
    assert built.ran == []
    builder.build(context({"Dockerfile": 'FROM busybox\nRUN ["sh", "-c", "echo y > /y"]\n'}, "second"))
    other = builder.run("from", "busybox").out.strip()
    builder.run("run", other, "--", "sh", "-c", "echo y > /y")
    assert not _ran(builder)


def test_a_failed_command_leaves_the_container(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "touch", "/kept")
    before = _digest(builder, name)
    done = builder.run("run", name, "--", "sh", "-c", "echo said; touch /lost; exit 7", status=7)
    assert done.out == "said\n"
    assert "step-failed" in done.err
    assert _digest(builder, name) == before
    done = builder.run("copy", name, "/nowhere/at/all", "/", status=1)
    assert "error[" in done.err
    assert _digest(builder, name) == before


def test_what_was_copied_is_that_of_its_time(make_builder: MakeBuilder, files: Path) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    builder.run("copy", name, str(files / "app"), "/a")
    (files / "app").write_text("later")
    builder.run("copy", name, str(files / "app"), "/b")
    shutil.rmtree(files)
    assert builder.run("run", name, "--", "cat", "/a", "/b").out == "#!/bin/sh\necho app\nlater"


def test_mounts_of_a_command(make_builder: MakeBuilder, files: Path) -> None:
    builder = make_builder("root")
    builder.env["TOKEN"] = "much-too-secret"
    name = builder.run("from", "busybox").out.strip()
    command = "cat /in/one; cat /run/secrets/token | wc -c; cp /in/sub/two /two; echo c >> /c/c; wc -l < /c/c; ls /t"
    mounts = [
        f"--mount=type=bind,source={files}/tree,target=/in", "--mount=type=secret,id=token",
        "--mount=type=cache,target=/c", "--mount=type=tmpfs,target=/t",
    ]  # fmt: skip
    done = builder.run("run", *mounts, "--secret", "id=token,env=TOKEN", name, "--", "sh", "-c", command)
    assert done.out.split() == ["115", "1"]
    assert builder.run("run", name, "--", "sh", "-c", "cat /two").out == "2"
    text = b"".join(path.read_bytes() for path in (builder.store / "history").rglob("*") if path.is_file())
    assert b"much-too-secret" not in text
    assert (
        "invalid-mount" in builder.run("run", "--mount=type=bind,target=/", name, "--", "true", status=1).err
    )


def test_files_of_images_and_containers(make_builder: MakeBuilder, files: Path) -> None:
    builder = make_builder("root")
    one = builder.run("from", "--name", "one", "busybox").out.strip()
    builder.run("run", one, "--", "sh", "-c", "mkdir /o; echo o > /o/o; chown 7:8 /o/o")
    two = builder.run("from", "scratch").out.strip()
    builder.run("copy", "--from", "one", two, "/o", "/from-one")
    builder.run("copy", "--from", "busybox", two, "/bin/busybox", "/bin/sh")
    builder.run("rm", "one")
    assert builder.run("run", two, "--", "/bin/sh", "-c", "cat /from-one/o").out == "o\n"
    tree = builder.run("mtree", _digest(builder, two)).out
    assert "uid=7 gid=8" in tree


def test_names(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    names = [builder.run("from", "busybox").out.strip() for _ in range(2)]
    assert names == ["busybox-working-container", "busybox-working-container-1"]
    assert builder.run("from", "scratch").out == "working-container\n"
    assert builder.run("from", "--name", "mine", "busybox").out == "mine\n"
    assert "container-exists" in builder.run("from", "--name", "mine", "busybox", status=1).err
    assert "invalid-container-name" in builder.run("from", "--name", "a/b", "busybox", status=1).err
    assert "unknown-container" in builder.run("commit", "mime", status=1).err
    assert builder.run("containers", "-q").out.split() == [*names, "mine", "working-container"]
    assert builder.run("rm", "mine").out == "mine\n"
    assert "unknown-image" in builder.run("rm", "mine", status=1).err


def test_options_that_are_for_containers_alone(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    for words in (
        ("copy", "--chown", "1:1", "busybox", "oci:x"),
        ("run", "--mount", "type=tmpfs,target=/x", "busybox", "true"),
        ("run", "--secret", "id=a,src=/dev/null", "busybox", "true"),
        ("run", "--memory", "10m", "--isolation", "chroot", "busybox", "true"),
        ("run", "--failed-step", "x", "--no-cache"),
        ("run", "-i", name, "true"),
        ("config", name, "--env", "A=1", "-t", "x"),
    ):
        assert "conflicting-options" in builder.run(*words, status=2).err


def test_clean_up_knows_what_containers_stand_on(make_builder: MakeBuilder, files: Path) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "sh", "-c", "echo 1 > /one")
    builder.run("copy", name, str(files / "tree"), "/tree")
    builder.run("rm", "busybox")
    builder.run("prune", "--all")
    assert "nothing is wrong" in builder.run("fsck").out
    assert builder.run("run", name, "--", "cat", "/one", "/tree/one").out == "1\n1"
    digest = _digest(builder, name)
    builder.run("rm", name)
    builder.run("prune", "--all")
    assert list((builder.store / "layers").iterdir()) == []
    assert "unknown-image" in builder.run("inspect", digest, status=1).err


def test_a_result_stays_what_it_was(make_builder: MakeBuilder) -> None:
    """Another container may make the same step give something else; this one has what it saw."""
    builder = make_builder("root")
    random = ("sh", "-c", "head -c 16 /dev/urandom | sha256sum > /r")
    first, second = (builder.run("from", "busybox").out.strip() for _ in range(2))
    builder.run("run", first, "--", *random)
    told = builder.run("run", first, "--", "cat", "/r").out
    builder.run("run", "--no-cache", second, "--", *random)
    assert builder.run("run", "--no-cache", first, "--", "cat", "/r").out == told
    assert builder.run("run", "--no-cache", second, "--", "cat", "/r").out != told


def test_two_at_once_work_one_after_the_other(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    running = [builder.start("run", name, "--", "touch", f"/made-{number}") for number in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    for process in running:
        process.communicate()
    assert len(builder.run("run", name, "--", "sh", "-c", "ls -d /made-*").out.split()) == 3


def test_a_kill_leaves_the_container(make_builder: MakeBuilder) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "touch", "/kept")
    before = _digest(builder, name)
    process = builder.start(
        "run", name, "--", "sh", "-c", "touch /lost; echo begun; sleep 1000", start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert _digest(builder, name) == before
    builder.run("fsck")
    assert builder.run("run", name, "--", "ls", "/kept").out == "/kept\n"


def test_without_any_privilege(make_builder: MakeBuilder, files: Path) -> None:
    digests = set()
    for identity in ("root", "sealed"):
        builder = make_builder(identity)
        name = builder.run("from", "busybox").out.strip()
        builder.run("copy", "--chown", "3:4", name, str(files / "tree"), "/srv")
        builder.run("config", name, "--cmd", "sh")
        builder.run("copy", "--from", "busybox", name, "/bin/busybox", "/box")
        digests.add(_digest(builder, name))
        assert "nothing is wrong" in builder.run("fsck").out
    assert len(digests) == 1


def test_commit_goes_anywhere_and_is_recorded(make_builder: MakeBuilder, files: Path, tmp_path: Path) -> None:
    builder = make_builder("root")
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "touch", "/x")
    builder.run("copy", name, str(files / "app"), "/app")
    done = builder.run("commit", name, "out:1")
    digest = done.out.split()[-1]
    assert done.out == f"out:1 {digest}\n"
    events = _events(builder)
    hits = {event.vertex for event in events if isinstance(event, types.CacheHit)}
    names = {event.name for event in events if isinstance(event, types.Declared) and event.vertex in hits}
    assert names == {f"[{name}] RUN touch /x", f"[{name}] COPY {files}/app /app"}
    assert any(isinstance(event, types.Exported) and event.digest == digest for event in events)
    assert builder.run("commit", "-q", name, f"oci:{tmp_path}/layout:1").out.strip() == digest
    assert (tmp_path / "layout" / "blobs" / "sha256" / digest.partition(":")[2]).exists()
    builder.run("commit", "--rm", "--iidfile", str(tmp_path / "iid"), name, "out:2")
    assert (tmp_path / "iid").read_text() == digest
    assert _listed(builder) == []


def _provenance(builder: Builder, image: str) -> dict[str, Any]:
    claim = msgspec.json.decode(builder.run("provenance", "--mode", "max", image).out)
    assert {one["digest"]["sha256"] for one in claim["subject"]} == {
        builder.run("inspect", "--format", "digest", image).out.strip().partition(":")[2]
    }
    return claim["predicate"]["buildDefinition"]


def _made(builder: Builder, files: Path, image: str, *options: str) -> None:
    """An image by a script that takes something of everywhere."""
    other = builder.run("from", "--name", "other", "busybox").out.strip()
    builder.run("copy", other, f"{files}/tree/sub", "/of-other")
    name = builder.run("from", "--name", "mine", "busybox").out.strip()
    secret = ("--mount=type=secret,id=token", "--secret", "id=token,env=TOKEN")
    builder.run("run", *options, *secret, name, "--", "sh", "-c", "date >/dev/null; echo made > /made")
    builder.run("copy", name, str(files / "app"), "/app")
    builder.run("copy", "--from", "other", name, "/of-other", "/from-other")
    builder.run("config", name, "--env", "A=1")
    builder.run("commit", name, image)
    builder.run("rm", "mine", "other")


def test_commit_keeps_the_evidence_that_a_build_keeps(make_builder: MakeBuilder, files: Path) -> None:
    builder = make_builder("subids")
    builder.env["TOKEN"] = "much-too-secret"
    _made(builder, files, "made:1", "--network", "none")
    # What was kept of the commands themselves may go.
    commit = _events(builder)[0].build
    others = [one for one in os.listdir(builder.store / "history") if one != commit]
    builder.run("history", "rm", *others)
    found = _provenance(builder, "made:1")
    assert found["buildType"].endswith("/container/v1")
    request, internal = found["externalParameters"]["request"], found["internalParameters"]
    assert (request["frontend"], request["secrets"]) == ("container", [{"id": "token"}])
    base = builder.run("inspect", "--format", "digest", "busybox").out.strip()
    used = found["resolvedDependencies"]
    assert [one["digest"]["sha256"] for one in used if one.get("uri")] == [base.partition(":")[2]]
    # Two contexts: of this container, and of the one that was copied from.
    assert len([one for one in used if "arkwrightTree1" in one["digest"]]) == 2
    steps = {step["name"]: step for step in internal["buildConfig"]["steps"]}
    ran = steps["[mine] RUN sh -c 'date >/dev/null; echo made > /made'"]
    assert (ran["network"], ran["secrets"], bool(ran["tier"])) == ("none", ["token"], True)
    assert internal["isolation"] == [ran["tier"]]
    assert internal["hermetic"] and internal["completeness"]["resolvedDependencies"]
    assert "much-too-secret" not in msgspec.json.encode(found).decode()
    listed = msgspec.json.decode(builder.run("history", "ls", "--format", "json").out)
    assert [one["build"] for one in listed] == [commit]
    assert (
        msgspec.json.decode(builder.run("sbom", "--format", "spdx-json", "made:1").out)["spdxVersion"]
        == "SPDX-2.3"
    )
    refused = builder.run("verify", "made:1", status=1).err
    assert "error[record-incomplete]" in refused and "working container" in refused
    # Nothing runs the second time, and what was used is known all the same.
    _made(builder, files, "made:2", "--network", "none")
    again = _provenance(builder, "made:2")
    assert again["resolvedDependencies"] == used
    assert builder.run("inspect", "--format", "digest", "made:2").out == builder.run(
        "inspect", "--format", "digest", "made:1"
    ).out  # fmt: skip
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "true")
    builder.run("commit", name, "open:1")
    gaps = _provenance(builder, "open:1")["internalParameters"]
    assert not gaps["hermetic"] and [gap["reason"] for gap in gaps["gaps"]] == ["network"]


# --- Mounts ----------------------------------------------------------------------------------


def test_a_mount_becomes_a_layer(builder: Builder) -> None:
    name = builder.run("from", "busybox").out.strip()
    builder.run("run", name, "--", "sh", "-c", "echo old > /old; echo 2 > /changed")
    program = _program(builder)
    inside = (
        f'set -e; m=$({program} mount {name}); cat "$m/old"; rm "$m/old"; echo new > "$m/new"; chown 5:6 "$m/new";'
        f' echo 3 > "$m/changed"; {program} commit -q {name}; {program} umount {name}; exit 5'
    )
    done = builder.run("unshare", "--", "sh", "-c", inside, status=5)
    said, committed = done.out.split()
    assert said == "old"
    assert _digest(builder, name) == committed
    shown = builder.run("run", name, "--", "sh", "-c", "ls -n /new; cat /new /changed; ls /old", status=1).out
    assert shown.split()[2:4] == ["5", "6"]
    assert shown.endswith("new\n3\n")
    assert not (builder.store / "mounts" / name).exists()
    assert "nothing is wrong" in builder.run("fsck").out


def _program(builder: Builder) -> str:
    return f"{sys.executable} -m arkwright"


def test_what_was_written_outlives_its_session(make_builder: MakeBuilder) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "busybox").out.strip()
    program = _program(builder)
    builder.run("unshare", "--", "sh", "-c", f'echo kept > "$({program} mount {name})/kept"')
    assert _listed(builder)[0]["mounted"]
    for words in (("run", name, "--", "true"), ("copy", name, "/etc/hostname", "/")):
        assert "container-mounted" in builder.run(*words, status=1).err
    builder.run("umount", name)
    assert "container-not-mounted" in builder.run("umount", name, status=1).err
    assert builder.run("run", name, "--", "cat", "/kept").out == "kept\n"


def test_a_mount_of_nothing_and_one_that_is_thrown_away(make_builder: MakeBuilder) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "scratch").out.strip()
    program = _program(builder)
    builder.run(
        "unshare", "--", "sh", "-c", f'echo hi > "$({program} mount {name})/hi"; {program} umount {name}'
    )
    assert "hi size=3 mode=0644" in builder.run("mtree", _digest(builder, name)).out
    builder.run("unshare", "--", "sh", "-c", f'echo no > "$({program} mount {name})/no"')
    builder.run("rm", name)
    assert list((builder.store / "mounts").iterdir()) == []


def test_a_mount_needs_a_place_of_its_own(make_builder: MakeBuilder) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "busybox").out.strip()
    assert "mount-needs-unshare" in builder.run("mount", name, status=4).err
    assert "command-not-found" in builder.run("unshare", "--", "no-such-program", status=1).err
    assert builder.run("unshare", "--", "id", "-u").out == "0\n"


def test_a_mount_that_another_session_holds(make_builder: MakeBuilder) -> None:
    builder = make_builder("subids")
    name = builder.run("from", "busybox").out.strip()
    program = _program(builder)
    process = builder.start(
        "unshare", "--", "sh", "-c", f"{program} mount {name}; exec sleep 1000", start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip().endswith("merged")
    try:
        for command in ("umount", "rm"):
            assert "container-mounted" in builder.run(command, name, status=1).err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    builder.run("umount", name)
    assert _listed(builder)[0]["mounted"] == ""


# --- Buildah ---------------------------------------------------------------------------------


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Callable[..., str]]:
    program = shutil.which("buildah")
    if program is None or os.geteuid() != 0:
        pytest.skip("needs-buildah: the same script by Buildah, as root")
    base = [
        program,
        "--root",
        f"{tmp_path}/b-root",
        "--runroot",
        f"{tmp_path}/b-run",
        "--storage-driver",
        "vfs",
    ]

    def run(*words: str) -> str:
        done = subprocess.run([*base, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    subprocess.run([*base, "rm", "--all"], capture_output=True, check=False)


def test_the_same_script_by_buildah_gives_the_same_tree(
    make_builder: MakeBuilder, buildah: Callable[..., str], busybox_layout: Path, files: Path, tmp_path: Path
) -> None:
    builder = make_builder("root")
    ours = builder.run("from", f"oci:{busybox_layout}").out.strip()
    # A path as it stands here may end in what Buildah takes for no name of an image.
    layout = tmp_path / "busybox"
    layout.symlink_to(busybox_layout)
    theirs = buildah("from", f"oci:{layout}")
    steps: list[tuple[str, ...]] = [
        ("run", "NAME", "--", "sh", "-c", "mkdir -p /srv/made; echo 1 > /srv/made/1; ln -s 1 /srv/made/link; chmod 4755 /srv/made/1"),
        ("copy", "--chown", "5:6", "NAME", f"{files}/tree", "/srv/tree"),
        ("copy", "NAME", f"{files}/app", "/usr/bin/"),
        ("copy", "NAME", f"{files}/app", f"{files}/tree", "/srv/both/"),
        ("run", "NAME", "--", "rm", "/srv/tree/one"),
    ]  # fmt: skip
    for step in steps:
        builder.run(*(ours if word == "NAME" else word for word in step))
        isolated = ("run", "--isolation", "chroot", "--network", "host") if step[0] == "run" else step[:1]
        buildah(*isolated, *(theirs if word == "NAME" else word for word in step[1:]))
    buildah("commit", "-q", theirs, f"oci:{tmp_path}/theirs:t")
    mine = _tree(builder.run("mtree", _digest(builder, ours)).out)
    other = _tree(builder.run("mtree", f"oci:{tmp_path}/theirs:t").out)
    # Buildah leaves what it mounts for a command; our own steps leave nothing.
    ignored = {
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "run/.containerenv",
        "etc",
        "run",
        "proc",
        "sys",
        "dev",
        "",
    }
    assert {path: mine[path] for path in mine.keys() - ignored} == {
        path: other[path] for path in other.keys() - ignored
    }


def _tree(text: str) -> dict[str, tuple[str | None, ...]]:
    from arkwright.images.mtree_read import read_mtree

    wanted = ("type", "mode", "uid", "gid", "link", "sha256digest")
    with read_mtree(io.BytesIO(text.encode())) as manifest:
        return {path: tuple(keywords.get(key) for key in wanted) for path, keywords in manifest}
