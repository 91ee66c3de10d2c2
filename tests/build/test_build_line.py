"""The straight line, end to end: real steps over a real base, as root and rootless."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from building import Builder, Context, MakeBuilder

STAGES = """\
FROM busybox AS left
WORKDIR /work
RUN echo left > out && sleep 0.5

FROM busybox AS right
COPY data.txt /in/
RUN sleep 0.5; tr a-z A-Z < /in/data.txt > /result

FROM busybox
LABEL kind="example"
ENV GREETING=hello
COPY --from=left /work/out /left
COPY --from=right --chown=7:8 --chmod=640 /result /right
RUN <<EOT
set -e
cat /left /right > /both
echo 'app:x:1000:1000::/:/bin/sh' >> /etc/passwd
EOT
USER app
EXPOSE 80
CMD ["cat", "/both"]
"""


def test_a_multi_stage_build_runs_in_parallel_and_then_is_cached(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": STAGES, "data.txt": "right\n"})
    first = builder.build(root, "-t", "example")
    assert overlap(first, "left", "right")
    assert builder.run("run", "example").out == "left\nRIGHT\n"
    second = builder.build(root, "-t", "example")
    assert second.ran == []
    assert second.digest == first.digest
    assert len(second.having("CacheHit")) >= 7


def overlap(built: object, one: str, other: str) -> bool:
    """Whether the RUN steps of two stages were under way at the same time."""
    times: dict[str, list[int]] = {}
    for event in built.events:  # type: ignore[attr-defined]
        name = built.names.get(getattr(event, "vertex", ""), "")  # type: ignore[attr-defined]
        if type(event).__name__ in ("Started", "Finished") and " RUN " in name:
            for stage in (one, other):
                if name.startswith(f"[{stage} "):
                    times.setdefault(stage, []).append(event.mono)
    (start_one, end_one), (start_other, end_other) = times[one], times[other]
    return start_one < end_other and start_other < end_one


def test_one_changed_line_re_runs_only_what_depends_on_it(builder: Builder, context: Context) -> None:
    builder.build(context({"Dockerfile": STAGES, "data.txt": "right\n"}))
    changed = STAGES.replace("a-z A-Z", "a-r A-R")
    again = builder.build(context({"Dockerfile": changed, "data.txt": "right\n"}))
    assert [name.partition("] ")[2][:10] for name in again.ran] == ["RUN sleep ", "COPY --fro", "RUN <<EOT"]
    assert not any(name.startswith("[left") for name in again.ran)


def test_a_touched_context_is_no_change_and_an_edit_that_keeps_size_and_time_is(
    builder: Builder, context: Context
) -> None:
    root = context({"Dockerfile": STAGES, "data.txt": "right\n"})
    first = builder.build(root)
    subprocess.run(["touch", "-d", "2001-02-03", str(root / "data.txt")], check=True)
    assert builder.build(root).ran == []
    (root / "data.txt").write_text("wrong\n")
    subprocess.run(["touch", "-d", "2001-02-03", str(root / "data.txt")], check=True)
    edited = builder.build(root)
    assert edited.ran != []
    assert edited.digest != first.digest


def test_root_and_rootless_give_one_digest_in_other_stores_paths_times_and_umasks(
    make_builder: MakeBuilder, context: Context
) -> None:
    one, two, other = make_builder("root"), make_builder("root", "second"), make_builder("subids")
    first = one.build(context({"Dockerfile": STAGES, "data.txt": "right\n"}))
    elsewhere = context({"Dockerfile": STAGES, "data.txt": "right\n"}, "other/place")
    subprocess.run(["find", str(elsewhere), "-exec", "touch", "-d", "2011-11-11", "{}", "+"], check=True)
    two.env.update(LANG="de_DE.UTF-8", TZ="Asia/Tokyo")
    assert two.build(elsewhere, "--jobs", "1", umask=0o077).digest == first.digest
    assert other.build(elsewhere, umask=0o002).digest == first.digest


def test_a_cached_build_stays_small_and_outside_of_namespaces(
    make_builder: MakeBuilder, context: Context
) -> None:
    builder = make_builder("root")
    root = context({"Dockerfile": STAGES, "data.txt": "right\n"})
    builder.build(root, "-t", "example")
    code = (
        "import sys, atexit\n"
        "banned = {'http', 'ssl', 'asyncio', 'rich', 'yaml', 'subprocess', 'ctypes', 'isal.isal_zlib', 'zstandard'}\n"
        "atexit.register(lambda: print('LOADED', sorted((banned | {'arkwright.linux'}) & set(sys.modules))))\n"
        "sys.argv = ['arkwright', 'build', '--progress', 'plain', '-t', 'example', sys.argv[1]]\n"
        "from arkwright.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], env=builder.env, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_the_archive_satisfies_other_tools(builder: Builder, context: Context, scratch: Path) -> None:
    root = context({"Dockerfile": STAGES, "data.txt": "right\n"})
    archive = builder.home / "image.tar"
    built = builder.build(root, "-t", "example:1", "-o", f"type=oci,dest={archive}")
    shown = subprocess.run(["skopeo", "inspect", f"oci-archive:{archive}"], capture_output=True, check=True)
    fields = msgspec.json.decode(shown.stdout)
    assert fields["Digest"] == built.digest
    assert fields["Labels"]["kind"] == "example"
    layout = scratch / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(layout)], check=True)
    names = msgspec.json.decode((layout / "index.json").read_bytes())
    tag = names["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", str(scratch / "bundle")], check=True)
    rootfs = scratch / "bundle/rootfs"
    assert (rootfs / "both").read_text() == "left\nRIGHT\n"
    status = (rootfs / "right").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (7, 8, 0o640)


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_podman_loads_what_was_built(
    form: str, make_builder: MakeBuilder, context: Context, scratch: Path
) -> None:
    builder = make_builder("root")
    archive = builder.home / "image.tar"
    builder.build(
        context({"Dockerfile": STAGES, "data.txt": "right\n"}),
        "-t",
        "example:1",
        "-o",
        f"type={form},dest={archive}",
    )
    storage = [
        "--root",
        str(scratch / "podman"),
        "--runroot",
        str(scratch / "podman-run"),
        "--storage-driver",
        "vfs",
    ]
    done = subprocess.run(
        ["podman", *storage, "load", "-i", str(archive)], capture_output=True, text=True, check=True
    )
    assert "example" in done.stdout


def test_a_failing_step_shows_what_where_and_how_to_look(builder: Builder, context: Context) -> None:
    root = context(
        {"Dockerfile": "FROM busybox\nENV WHO=me\nWORKDIR /here\nRUN echo some output; touch mark; exit 7\n"}
    )
    done = builder.run("build", "--progress", "plain", str(root), status=1)
    assert "error[step-failed]: the command exited with status 7" in done.err
    assert "Dockerfile:4:1" in done.err
    assert "some output" in done.err
    shell = (
        next(line for line in done.err.splitlines() if "--failed-step" in line)
        .split("--failed-step ")[1]
        .split()[0]
    )
    looked = builder.run("run", "--failed-step", shell, "sh", "-c", "pwd; ls; echo $WHO")
    assert looked.out == "/here\nmark\nme\n"
