"""Results that travel: the real program, stores of several machines, a registry between them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_builds import DOCKERFILE, FILES, fetched, layer_blobs, origins, ran, records, ref, warnings

from building import Builder, Context, MakeBuilder
from loopback_server import LoopbackRegistry
from registry.registry_images import Docker

PACKING = Path(__file__).with_name("packing.py")


@pytest.fixture
def server() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as made:
        yield made


@pytest.fixture(params=["root", "subids"])
def two(request: pytest.FixtureRequest, make_builder: MakeBuilder) -> tuple[Builder, Builder]:
    return make_builder(request.param, "one"), make_builder(request.param, "two")


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_second_machine_builds_nothing(
    identity: str, make_builder: MakeBuilder, context: Context, tmp_path: Path
) -> None:
    root = context(FILES)
    with Docker(tmp_path) as registry:
        name = f"{registry.host}/team/cache:main"
        first = make_builder(identity, "one").build(root, "--cache-to", f"type=registry,ref={name},mode=max")
        other = make_builder(identity, "two")
        second = other.build(root, "--cache-from", name)
        assert (warnings(first), warnings(second)) == ([], [])
        assert second.digest == first.digest
        assert ran(second) == []
        assert origins(second) == {f"registry:{name}"}
        other.run("fsck")
        third = make_builder(identity, "three").build(
            root, "--cache-from", f"{registry.host}/team/cache:other"
        )
    assert third.digest == first.digest
    assert len(ran(third)) == 6


def test_modes_and_several_at_once(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry, scratch: Path
) -> None:
    root, (first, _) = context(FILES), two
    first.run("build", str(root))
    directory = first.home / "cache"
    built = first.build(
        root,
        "--cache-to",
        f"type=registry,ref={ref(server)},mode=min",
        "--cache-to",
        f"type=local,dest={directory},mode=max",
    )
    assert warnings(built) == []
    assert ran(built) == []
    names = [
        one["annotations"]["org.opencontainers.image.ref.name"]
        for one in json.loads((directory / "index.json").read_text())["manifests"]
    ]
    # Of the image's own steps, and of all that it took.
    assert len(records(server)) == 4
    lists = 4  # of the operations that stand on other steps
    assert len(names) == 6 + lists
    assert {name.partition("-")[2] for name in records(server)} < {name.partition("-")[2] for name in names}


def test_an_edit_in_the_middle_stands_on_an_imported_prefix(
    two: tuple[Builder, Builder], make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    first, second = two
    first.build(context(FILES), "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    edited = context({**FILES, "Dockerfile": DOCKERFILE.replace("cat /f", "cat /f /f")}, "edited")
    incremental = second.build(edited, "--cache-from", ref(server))
    clean = make_builder("root", "clean").build(edited, "--no-cache")
    assert incremental.digest == clean.digest
    assert ran(incremental) == [
        "[stage-1 4/5] RUN cat /f /f /tool > /both",
        "[stage-1 5/5] RUN echo last > /last",
    ]
    explained = second.run("explain").out
    assert "importing" not in explained
    assert "not asked" not in explained
    # And what stands on an imported prefix travels on.
    second.build(edited, "--cache-from", ref(server), "--cache-to", f"{ref(server)}")
    third = make_builder("root", "third").build(edited, "--cache-from", ref(server))
    assert (third.digest, ran(third)) == (clean.digest, [])


@pytest.mark.parametrize("kind", ["local", "inline"])
def test_a_layer_that_is_there_twice_comes_twice(
    kind: str, two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    link = "COPY --link f /f\n"
    files = {"Dockerfile": f"FROM busybox\n{link}RUN true\n{link}{link}RUN cat /f > /g\n", "f": "1"}
    root, (first, second) = context(files), two
    place = first.scratch / "cache"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    there = {
        "local": (f"type=local,dest={place},mode=max", f"type=local,src={place}"),
        "inline": ("type=inline", ref(server, "app:1")),
    }[kind]
    expected = first.build(root).digest
    output = ["-t", ref(server, "app:1"), "--push"] if kind == "inline" else []
    first.build(root, "--cache-to", there[0], *output)
    imported = second.build(root, "--cache-from", there[1])
    assert (imported.digest, ran(imported)) == (expected, [])


def test_only_what_is_needed_is_fetched(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    first, second = two
    first.build(context(FILES), "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    edited = context({**FILES, "Dockerfile": DOCKERFILE + "RUN echo more > /more\n"}, "edited")
    del server.seen[:]
    built = second.build(edited, "--cache-from", ref(server), "-o", "type=oci,dest=out.tar")
    assert len(ran(built)) == 1
    assert len(fetched(built)) == 4
    wanted = [one.path.rpartition("/")[2] for one in server.requests("GET", "/manifests/main-")]
    assert len(wanted) == len(set(wanted)) == 8, "the new step, all others at once after its miss, its list"
    del server.seen[:]
    again = second.build(edited, "--cache-from", ref(server))
    assert server.seen == [], "a build that is cached here asks nobody"
    assert (ran(again), again.digest) == ([], built.digest)


def test_what_is_there_is_looked_at_and_not_sent(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    root, (first, second) = context(FILES), two
    target = f"type=registry,ref={ref(server)},mode=max"
    first.build(root, "--cache-to", target)
    del server.seen[:]
    assert len(ran(second.build(root, "--cache-to", target))) == 6
    assert len(server.requests("HEAD", "/manifests/main-")) == 6
    assert server.requests("PUT") + server.requests("POST") + server.requests("PATCH") == []


def test_layers_are_packed_once_for_the_image_and_the_caches(
    builder: Builder, context: Context, server: LoopbackRegistry, scratch: Path
) -> None:
    report = scratch / "report"
    report.touch()
    report.chmod(0o666)
    args = (
        "build", "-o", f"type=oci,dest={builder.home}/image.tar", "-t", "app",
        "--cache-to", f"type=registry,ref={ref(server)},mode=max",
        "--cache-to", f"type=local,dest={builder.home}/cache,mode=max",
    )  # fmt: skip
    subprocess.run(
        [*builder.prefix, sys.executable, str(PACKING), str(report), *args, str(context(FILES))],
        cwd=builder.home, env=builder.env, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert len(report.read_text().splitlines()) == 6


def test_a_hit_reads_one_record(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    first, second = two
    root = context(FILES)
    first.build(root, "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    del server.seen[:]
    assert ran(second.build(root, "--cache-from", ref(server))) == []
    assert len(server.requests("GET", "/manifests/main-")) == 1


def test_blobs_of_stages_that_only_give_files_stay_away(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    first, second = two
    files = {
        "Dockerfile": "FROM busybox AS a\nRUN echo 1 > /a\nFROM busybox\nCOPY --from=a /a /b\nRUN true\n"
    }
    first.build(context(files), "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    built = second.build(context(files), "--cache-from", ref(server))
    assert len(fetched(built)) == 2
    assert len(layer_blobs(server)) == 3


CUTOFF = """\
FROM busybox AS made
RUN --mount=type=bind,source=script,target=/script sh /script
RUN cat /out > /more
FROM busybox
COPY --from=made /out /out
RUN --mount=type=bind,from=made,source=/more,target=/m cat /m /out > /all
"""
SCRIPT = "echo result > /out; echo {log} > /log\n"


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_inputs_that_came_out_equal_find_what_another_machine_made(
    kind: str,
    two: tuple[Builder, Builder],
    make_builder: MakeBuilder,
    context: Context,
    server: LoopbackRegistry,
    scratch: Path,
) -> None:
    """Early cutoff across machines: by whole trees, and by what a COPY or a mount takes."""
    first, second = two
    place, target, origin = {
        "registry": (ref(server), f"type=registry,ref={ref(server)}", f"registry:{ref(server)}"),
        "local": (
            f"type=local,src={scratch}/shared",
            f"type=local,dest={scratch}/shared",
            f"local:{scratch}/shared:latest",
        ),
    }[kind]
    (scratch / "shared").mkdir()
    (scratch / "shared").chmod(0o777)
    files = {"Dockerfile": CUTOFF, "script": SCRIPT.format(log="same")}
    made = first.build(context(files), "--cache-to", f"{target},mode=max")
    made_at = time.time_ns()

    # The script has another key, and does the same.
    again = context({**files, "script": "# said otherwise\n" + files["script"]}, "again")
    built = second.build(again, "--cache-from", place)
    assert (built.digest, warnings(built)) == (made.digest, [])
    assert [name.rpartition("] ")[2][:11] for name in ran(built)] == ["RUN --mount"]
    assert origins(built) == {origin}
    assert f"from {origin}, " in second.run("explain").out
    steps = json.loads(second.run("explain", "--format", "json").out)["steps"]
    cached = [step for step in steps if step["reason"] == "cached"]
    assert len(cached) == len(steps) - 1 == 3
    assert {(step["by"], step["origin"]) for step in cached} == {("content", origin)}
    assert all(0 < step["recorded_at"] < made_at for step in cached), "when the other machine made it"
    assert second.build(again).digest == made.digest

    # The stage differs in a file that nobody takes: what takes the others is cached.
    third = make_builder(second.identity, "three")
    other = context({**files, "script": SCRIPT.format(log="another")}, "other")
    partly = third.build(other, "--cache-from", place)
    assert [name.rpartition("] ")[2][:7] for name in ran(partly)] == ["RUN --m", "RUN cat"]
    assert partly.digest == make_builder("root", "clean").build(other, "--no-cache").digest == made.digest

    # Another result is another result.
    changed = context({**files, "script": "echo changed > /out; echo same > /log\n"}, "changed")
    differs = make_builder(second.identity, "four").build(changed, "--cache-from", place)
    assert len(ran(differs)) == 4
    assert differs.digest != made.digest


@pytest.mark.parametrize("codec", ["zstd", "uncompressed"])
def test_another_compression(
    codec: str, two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    """The layers of an image do not depend on how they travelled."""
    root, (first, second) = context(FILES), two
    built = first.build(root, "--cache-to", f"type=registry,ref={ref(server)},mode=max,compression={codec}")
    other = second.build(root, "--cache-from", ref(server))
    assert (other.digest, ran(other)) == (built.digest, [])
    suffix = "+zstd" if codec == "zstd" else ""
    assert set(layer_blobs(server).values()) == {f"application/vnd.oci.image.layer.v1.tar{suffix}"}


def test_inline_records_travel_with_the_image(
    two: tuple[Builder, Builder], make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    root, (first, second) = context(FILES), two
    name = ref(server, "app:1")
    plain = first.build(root)
    built = first.build(root, "-t", name, "--push", "--build-arg", "BUILDKIT_INLINE_CACHE=1")
    assert built.digest != plain.digest
    imported = second.build(root, "--cache-from", name)
    assert (imported.digest, ran(imported)) == (plain.digest, [])
    clean = make_builder("root", "clean").build(root, "--cache-to", "type=inline")
    assert clean.digest == built.digest, "the records are a function of the input"
    # What stands on the image does not inherit its records.
    derived = context({"Dockerfile": f"FROM {name}\nRUN true\n"}, "derived")
    second.build(derived, "-o", "type=oci,dest=derived,tar=false")
    configs = [
        path.read_text()
        for path in (second.home / "derived" / "blobs" / "sha256").iterdir()
        if path.read_bytes()[:1] == b"{"
    ]
    assert not any("dev.arkwright.cache" in text for text in configs)


def test_cache_mounts_travel_on_request(
    two: tuple[Builder, Builder], context: Context, server: LoopbackRegistry
) -> None:
    first, second = two
    text = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c --mount=type=cache,id=other,target=/o echo $N >> /c/log; echo $N >> /o/log; cat /c/log /o/log > /log\n"
    root = context({"Dockerfile": text})
    first.run(
        "build", "--build-arg", "N=1", "--cache-to", f"type=registry,ref={ref(server)},mounts=/c", str(root)
    )
    args = ("--build-arg", "N=2", "--cache-from", f"type=registry,ref={ref(server)},mounts=all")
    out = second.home / "out"
    second.run("build", *args, "-o", str(out), str(root))
    assert (out / "log").read_text() == "1\n2\n2\n"
    # What is here is not replaced.
    second.run("build", "--build-arg", "N=3", *args[2:], "-o", str(out), str(root))
    assert (out / "log").read_text() == "1\n2\n3\n2\n3\n"


def test_two_machines_publish_at_once(
    two: tuple[Builder, Builder], make_builder: MakeBuilder, context: Context, scratch: Path
) -> None:
    shared = scratch / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    contexts = [
        context(
            {"Dockerfile": f"FROM busybox\nRUN echo common > /c\nRUN echo {n} > /n\nRUN echo end\n"}, f"c{n}"
        )
        for n in (1, 2)
    ]
    started = [
        one.start("build", "--cache-to", f"type=local,dest={shared}/cache,mode=max", str(root))
        for one, root in zip(two, contexts, strict=True)
    ]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "warning[cache" not in err
    third = make_builder(two[0].identity, "third")
    for root in contexts:
        assert ran(third.build(root, "--cache-from", f"type=local,src={shared}/cache")) == []


def test_outside_tools_read_what_is_published(
    make_builder: MakeBuilder, context: Context, tmp_path: Path
) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("needs-skopeo: a judge of manifests")
    root, builder = context(FILES), make_builder("root", "one")
    with Docker(tmp_path) as registry:
        name = f"{registry.host}/team/cache:main"
        builder.build(root, "--cache-to", f"{name}", "--cache-to", f"type=local,dest={tmp_path}/layout")
        entries = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
        for entry in entries:
            tag = entry["annotations"]["org.opencontainers.image.ref.name"]
            at_registry = f"docker://{registry.host}/team/cache:main-{tag.partition('-')[2]}"
            copy = f"dir:{tmp_path}/copy-{tag}"
            subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", at_registry, copy], check=True)
            raw = subprocess.run(
                ["skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout:{tag}"],
                check=True,
                capture_output=True,
            )
            assert json.loads(raw.stdout)["artifactType"] == "application/vnd.arkwright.cache.record.v1"
            assert "/f" not in raw.stdout.decode()
    assert len(entries) == 4 + 3, "the image's steps, and the lists of those that stand on other steps"


def test_keys_mean_the_same_on_every_machine(
    two: tuple[Builder, Builder],
    context: Context,
    server: LoopbackRegistry,
    busybox_layout: Path,
    scratch: Path,
) -> None:
    """Other paths, another owner, other times, another way to the same base."""
    first, second = two
    text = (
        "FROM base\nCOPY f /f\nCOPY --from=more g /g\nRUN --mount=type=bind,source=f,target=/m cat /m > /n\n"
    )
    here = context({"Dockerfile": text, "f": "1", "more/g": "2"}, "here")
    there = context({"elsewhere/Dockerfile": text, "elsewhere/f": "1", "more2/g": "2"}, "there")
    shutil.copytree(busybox_layout, scratch / "copied")
    args = ("--build-context", f"base=oci-layout://{busybox_layout}", "--build-context", f"more={here}/more")
    first.build(here, *args, "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    subprocess.run(["chown", "-R", "12345:54321", str(there)], check=True)
    subprocess.run(["find", str(there), "-exec", "touch", "-h", "-d", "2001-02-03", "{}", "+"], check=True)
    other = (
        "--build-context",
        f"base=oci-layout://{scratch}/copied",
        "--build-context",
        f"more={there}/more2",
    )
    assert ran(second.build(there / "elsewhere", *other, "--cache-from", ref(server))) == []
