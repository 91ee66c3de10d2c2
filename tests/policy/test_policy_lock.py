"""Lock files: what they hold, what they pin, and what is refused; against real servers that move."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from arkwright.build.locks import read_lock
from arkwright.diagnostics.errors import UserError
from arkwright.policy import lock
from arkwright.policy.lock import Locked
from building import Builder, Context, MakeBuilder
from loopback_server import LoopbackRegistry
from registry.registry_images import AMD64, ARM64, Docker, image, index
from sources.sources_servers import Repository, Site

EVERYTHING = """\
# syntax=docker/dockerfile:1
FROM {host}/team/base:1 AS unused
COPY --from={host}/team/other:1 /bin/sh /other
FROM {host}/team/base:1
ADD {url}/file /file
COPY --from=lib code /code
RUN --network=none --mount=from={host}/team/third:1,target=/t test -e /t/bin/sh && cat /file /code > /both
"""


class World:
    """Everything that a build takes from elsewhere, and how it moves."""

    def __init__(self, host: str, site: Site, repository: Repository) -> None:
        self.host, self.site, self.repository = host, site, repository
        self.site.serve("/file", b"one")
        self.commit = repository.commit(code="one")
        # Other users read it too.
        self.clone = repository.url

    @property
    def contexts(self) -> tuple[str, ...]:
        return "--build-context", f"lib={self.clone}#main"

    def dockerfile(self) -> str:
        return EVERYTHING.format(host=self.host, url=self.site.url)

    def push(self, builder: Builder, *names: str, label: str = "") -> str:
        """Put a variant of busybox under names; its digest."""
        text = f"FROM busybox\nLABEL moved={label}\n" if label else "FROM busybox\n"
        root = builder.scratch / f"push-{label}"
        root.mkdir(exist_ok=True)
        (root / "Dockerfile").write_text(text)
        outputs = [word for name in names for word in ("-o", f"type=registry,name={self.host}/{name}")]
        return builder.build(root, *outputs).digest

    def move(self, builder: Builder) -> str:
        self.site.serve("/file", b"two")
        self.commit = self.repository.commit(code="two")
        subprocess.run(["chmod", "-R", "a+rX", str(self.repository.path)], check=True)
        return self.push(builder, "team/base:1", label="yes")


@pytest.fixture
def world(registry: Docker, site: Site, scratch: Path, make_builder: MakeBuilder) -> World:
    made = World(registry.host, site, Repository(scratch / "repository"))
    subprocess.run(["chmod", "-R", "a+rX", str(scratch / "repository")], check=True)
    pusher = make_builder("root", "pusher")
    made.push(pusher, "team/base:1", "team/other:1", "team/third:1")
    return made


def own(builder: Builder, root: Path) -> Path:
    """Let the builder's user write beside the Dockerfile, and read what is git's of the test's user."""
    subprocess.run(["chown", "-R", str(builder.uid), str(root)], check=True)
    repository = builder.scratch / "repository"
    if repository.exists():
        subprocess.run(["chown", "-R", str(builder.uid), str(repository)], check=True)
    return root


def sources(path: Path) -> dict[str, dict[str, Any]]:
    document = json.loads(path.read_bytes())
    assert document["version"] == 1
    names = [(one["kind"], one["name"]) for one in document["sources"]]
    assert names == sorted(names)
    return {one["name"]: one for one in document["sources"]}


def test_everything_is_pinned_and_builds_offline(
    builder: Builder, make_builder: MakeBuilder, world: World, context: Context, registry: Docker
) -> None:
    root = own(builder, context({"Dockerfile": world.dockerfile()}))
    base = builder.build(root, *world.contexts)
    before = world.commit
    done = builder.run("lock", *world.contexts, str(root))
    assert done.out.count("+ ") == 6
    found = sources(root / "arkwright.lock")
    assert [one["kind"] for one in found.values()] == ["frontend", "git", "image", "image", "image", "url"]
    assert found[f"{world.clone}#main"]["digest"] == f"sha1:{before}"
    for name in ("base", "other", "third"):
        entry = found[f"{world.host}/team/{name}:1"]
        assert entry["platforms"] == {"linux/amd64": entry["digest"]}
    # Now everything is something else under its name.
    subprocess.run(["chown", "-R", "0", str(world.repository.path)], check=True)
    world.move(builder)
    own(builder, root)
    plain = builder.build(root, "--no-cache", *world.contexts)
    assert plain.digest == base.digest
    assert "not-locked" not in [getattr(event, "code", "") for event in plain.events]
    moved = builder.build(root, "--no-lock", "--pull", *world.contexts)
    assert moved.digest != base.digest
    shown = builder.run("lock", "--update", *world.contexts, str(root)).out.splitlines()
    assert [line.partition(" sha")[0] for line in shown] == [
        f"~ git {world.clone}#main",
        f"~ image {world.host}/team/base:1",
        f"~ url {world.site.url}/file",
    ]
    assert builder.build(root, "--locked", *world.contexts).digest == moved.digest
    another = make_builder(builder.identity, "another")
    assert another.build(root, "--locked", *world.contexts).digest == moved.digest
    # And nobody is there any more.
    registry.__exit__()
    world.site.serve("/file", b"", 500)
    shutil.rmtree(world.repository.path)
    assert builder.build(root, "--locked", "--no-cache", *world.contexts).digest == moved.digest


def test_a_build_says_what_its_lock_lacks_and_locked_refuses(
    make_builder: MakeBuilder, world: World, context: Context
) -> None:
    builder = make_builder("root")
    root = own(builder, context({"Dockerfile": world.dockerfile()}))
    assert "missing-lock" in builder.run("build", "--locked", *world.contexts, str(root), status=1).err
    builder.run("lock", *world.contexts, str(root))
    text = (
        world.dockerfile()
        .replace("/bin/sh /other", "/bin/sh /other\nADD {0}/file /more")
        .replace("ADD {0}", f"ADD {world.site.url}")
        + f"FROM busybox\nADD {world.site.url}/new /new\n"
    )
    world.site.serve("/new", b"new")
    (root / "Dockerfile").write_text(text)
    done = builder.run("build", "--progress=plain", *world.contexts, str(root))
    assert done.err.count("warning[not-locked]") == 2
    refused = builder.run("build", "--locked", *world.contexts, str(root), status=1)
    line = text.splitlines().index("FROM busybox") + 1
    assert "error[not-locked]" in refused.err and f"Dockerfile:{line}:6" in refused.err
    assert "not-locked" not in builder.run("build", "--no-lock", *world.contexts, str(root)).err
    # A target that needs nothing new is fine.
    builder.run("build", "--locked", "--target", "unused", *world.contexts, str(root))
    checked = builder.run("lock", "--check", *world.contexts, str(root), status=1)
    assert "error[not-locked]" in checked.err and "Dockerfile:" in checked.err


def test_drift_is_told_with_its_place(make_builder: MakeBuilder, world: World, context: Context) -> None:
    builder = make_builder("root")
    text = f"FROM busybox\nADD {world.site.url}/file /file\n"
    root = context({"Dockerfile": text})
    builder.run("lock", str(root))
    other = "sha256:" + "0" * 64
    (root / "Dockerfile").write_text(text.replace("ADD ", f"ADD --checksum={other} "))
    done = builder.run("build", str(root), status=1)
    assert "error[lock-drift]" in done.err and "Dockerfile:2:" in done.err and other in done.err
    # A lock follows the Dockerfile.
    world.site.serve("/file", b"two")
    two = "sha256:" + hashlib.sha256(b"two").hexdigest()
    (root / "Dockerfile").write_text(text.replace("ADD ", f"ADD --checksum={two} "))
    assert "stale-lock" in builder.run("lock", "--check", str(root), status=1).err
    assert builder.run("lock", str(root)).out.startswith("~ url ")
    # What the server gives now is not what the lock has, and the store has it no more.
    (root / "Dockerfile").write_text(text)
    world.site.serve("/file", b"changed")
    fresh = make_builder("root", "fresh")
    done = fresh.run("build", "--locked", str(root), status=1)
    assert "error[checksum-mismatch]" in done.err and "Dockerfile:2:" in done.err


def test_a_lock_keeps_what_it_has_and_drops_what_nothing_needs(
    make_builder: MakeBuilder, world: World, context: Context
) -> None:
    builder = make_builder("root")
    host = world.host
    root = context({"Dockerfile": f"FROM {host}/team/base:1 AS a\nFROM {host}/team/other:1\n"})
    builder.run("lock", str(root))
    before = sources(root / "arkwright.lock")
    world.push(builder, "team/base:1", "team/other:1", label="new")
    (root / "Dockerfile").write_text(f"FROM {host}/team/base:1 AS a\nFROM {host}/team/third:1\n")
    done = builder.run("lock", str(root))
    assert [line.split()[0] for line in done.out.splitlines()] == ["-", "+"]
    after = sources(root / "arkwright.lock")
    assert after[f"{host}/team/base:1"] == before[f"{host}/team/base:1"]
    assert "as it was" in builder.run("lock", str(root)).err
    builder.run("lock", "--check", str(root))
    assert "stale-lock" in builder.run("lock", "--check", "--update", str(root), status=1).err
    assert "not-locked" in builder.run("lock", f"--update={host}/team/bsae:1", str(root), status=1).err
    done = builder.run("lock", f"--update={host}/team/base*", str(root))
    assert done.out.startswith(f"~ image {host}/team/base:1 ") and " -> " in done.out
    builder.run("lock", "--check", "--update", str(root))


def test_an_index_is_pinned_for_all_platforms(make_builder: MakeBuilder, context: Context) -> None:
    with LoopbackRegistry() as server:

        def put(data: bytes) -> str:
            kind: str = json.loads(data).get("mediaType", "") if data[:1] == b"{" else ""
            return server.add_manifest("none", kind, data) if kind else server.add_blob(data)

        both = index(put, image(put, "a", AMD64), image(put, "b", ARM64))
        data = server.manifests[both.digest][1]
        server.add_manifest("1", both.media_type, data)
        name = f"{server.url.removeprefix('http://')}/multi:1"
        root = context({"Dockerfile": f"FROM {name}\n"})
        builder = make_builder("root")
        builder.run("lock", "--platform=linux/amd64,linux/arm64", str(root))
    entry = sources(root / "arkwright.lock")[name]
    assert entry["digest"] == both.digest
    assert set(entry["platforms"]) == {"linux/amd64", "linux/arm64"}
    assert len({entry["digest"], *entry["platforms"].values()}) == 3


def test_a_base_of_the_store_and_a_layout_are_pinned_too(
    make_builder: MakeBuilder, context: Context, busybox_layout: Path
) -> None:
    builder = make_builder("root")
    place = f"oci-layout://{busybox_layout}"
    root = context({"Dockerfile": "FROM busybox\nCOPY --from=kit /bin/sh /x\n"})
    args = ("--build-context", f"kit={place}")
    builder.run("lock", *args, str(root))
    found = sources(root / "arkwright.lock")
    assert found["docker.io/library/busybox:latest"]["digest"] == found[place]["digest"]
    builder.build(root, "--locked", *args)
    document = json.loads((root / "arkwright.lock").read_bytes())
    for one in document["sources"]:
        if one["name"] == place:
            one["digest"] = "sha256:" + "1" * 64
    (root / "arkwright.lock").write_text(json.dumps(document))
    done = builder.run("build", *args, str(root), status=1)
    assert "error[lock-drift]" in done.err and "Dockerfile:2:" in done.err


def test_a_lock_in_a_context_from_git_is_used(make_builder: MakeBuilder, world: World, scratch: Path) -> None:
    builder = make_builder("root")
    text = f"FROM {world.host}/team/base:1\n"
    (world.repository.path / "Dockerfile").write_text(text)
    builder.run("lock", str(world.repository.path))
    world.repository.commit()
    wanted = sources(world.repository.path / "arkwright.lock")[f"{world.host}/team/base:1"]["digest"]
    world.push(builder, "team/base:1", label="later")
    builder.run("build", "--locked", "--pull", f"{world.repository.url}#main")
    used = json.loads(builder.run("provenance").out)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert wanted in {"sha256:" + one["digest"].get("sha256", "") for one in used}


def test_each_dockerfile_has_its_lock(make_builder: MakeBuilder, context: Context, scratch: Path) -> None:
    builder = make_builder("root")
    root = context({"deploy/app.Dockerfile": "FROM busybox\n", "sub/Dockerfile": "FROM busybox\n"})
    builder.run("lock", "-f", str(root / "deploy/app.Dockerfile"), str(root))
    assert (root / "deploy/app.Dockerfile.arkwright.lock").exists()
    builder.run("lock", "-f", str(root / "sub/Dockerfile"), str(root))
    assert (root / "sub/arkwright.lock").exists()
    elsewhere = scratch / "elsewhere.lock"
    builder.run("lock", "--lock-file", str(elsewhere), "-f", "sub/Dockerfile", str(root))
    builder.run("build", "--locked", "--lock-file", str(elsewhere), "-f", "sub/Dockerfile", str(root))


def test_no_credential_is_written(make_builder: MakeBuilder, world: World, context: Context) -> None:
    builder = make_builder("root")
    host = world.site.url.removeprefix("http://")
    world.site.serve("/file", b"one")
    text = "FROM busybox\nARG API_TOKEN\nADD http://me:hunter2@" + host + "/file?key=${API_TOKEN} /f\n"
    root = context({"Dockerfile": text})
    args = ("--build-arg", "API_TOKEN=opensesame")
    builder.run("lock", *args, str(root))
    written = (root / "arkwright.lock").read_text()
    assert "hunter2" not in written and "opensesame" not in written
    builder.run("build", "--locked", *args, str(root))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"version":2,"sources":[]}', b'{"version":1}', b'{"version":1,"sources":[{"kind":"x","name":"a"}]}',
     b'{"version":1,"sources":[],"more":1}', b'{"version":1,"sources":[{"kind":"url","name":"a","digst":"b"}]}', b"\xff"],
)  # fmt: skip
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        lock.parse(data, "arkwright.lock")
    assert caught.value.code == "invalid-lock"


def test_no_more_of_a_lock_is_read_than_it_may_have(tmp_path: Path) -> None:
    path = tmp_path / "arkwright.lock"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(UserError) as caught:
        read_lock(str(path))
    assert caught.value.code == "invalid-lock"


def test_a_lock_is_read_back_as_it_was() -> None:
    found = [Locked(kind="url", name="https://a/b", digest="sha256:1"), Locked(kind="frontend", name="x")]
    data = lock.encode(found)
    assert data == lock.encode(reversed(found))
    assert list(lock.parse(data, "x").values()) == found[::-1]
    assert lock.changes(lock.parse(data, "x"), {}) != []


def test_contradictions(make_builder: MakeBuilder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\n"})
    done = make_builder("root").run("build", "--locked", "--no-lock", str(root), status=2)
    assert "conflicting-options" in done.err
