"""`images`, `inspect`, `tag`, `rm`, `save` and `load` on a real store."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import Execution, ImageConfig, RootFS
from arkwright.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import host_platform
from arkwright.store.store import Store


def layer(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    return stream.getvalue()


def put_image(root: Path, name: str, *, created: str = "2000-01-01T00:00:00Z") -> Descriptor:
    """A small image with one layer, under a name."""
    tar = layer(name.replace("/", "-"))
    blob = gzip.compress(tar, mtime=0)
    platform = host_platform()
    config = image_config.encode(
        ImageConfig(
            created=created,
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            config=Execution(env=("PATH=/bin",), labels={"org.example.a": "x"}),
            rootfs=RootFS(diff_ids=(sha256(tar),)),
        )
    )
    with Store.open(str(root)) as store:
        manifest = image_manifest.encode(
            Manifest(
                schema_version=2,
                media_type=MANIFEST,
                config=Descriptor(media_type=CONFIG, digest=store.content.write(config), size=len(config)),
                layers=(Descriptor(media_type=LAYER_GZIP, digest=store.content.write(blob), size=len(blob)),),
            )
        )
        descriptor = Descriptor(media_type=MANIFEST, digest=store.content.write(manifest), size=len(manifest))
        store.names.set(name, descriptor)
    return descriptor


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def two(store: Path) -> tuple[Descriptor, Descriptor]:
    return (
        put_image(store, "docker.io/library/app:1"),
        put_image(store, "r.example/team/tool:latest", created="2020-05-05T00:00:00Z"),
    )


def test_an_empty_store(run) -> None:
    assert run("images").stdout == "NAME  DIGEST  SIZE  CREATED\n"
    assert json.loads(run("images", "--json").stdout) == []


def test_the_table(run, two) -> None:
    app, tool = two
    lines = run("images").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["r.example/team/tool:latest", tool.digest[:19]],
        ["app:1", app.digest[:19]],
    ]
    assert lines[2].split()[3] == "2000-01-01T00:00:00"
    assert app.digest in run("images", "--digests").stdout


def test_json_and_quiet(run, two) -> None:
    app, tool = two
    rows = json.loads(run("images", "--format", "json").stdout)
    assert [(row["name"], row["digest"]) for row in rows] == [
        ("r.example/team/tool:latest", tool.digest),
        ("docker.io/library/app:1", app.digest),
    ]
    assert all(row["size"] > 0 for row in rows)
    assert run("images", "-q").stdout.split() == [tool.digest, app.digest]


@pytest.mark.parametrize(
    ("wanted", "count"), [("app", 1), ("app:1", 1), ("app:2", 0), ("r.example/team/tool", 1), ("ap", 0)]
)
def test_choosing_a_name(run, two, wanted: str, count: int) -> None:
    assert len(run("images", "-q", wanted).stdout.split()) == count


def test_inspect(run, two, store: Path) -> None:
    app, _ = two
    for spelled in ("app:1", app.digest, app.digest[7:15], app.digest[:20]):
        document = json.loads(run("inspect", spelled).stdout)
        assert document["digest"] == app.digest
        assert document["config"]["config"]["Env"] == ["PATH=/bin"]
    assert run("inspect", "--format", "digest", "app:1").stdout == app.digest + "\n"
    assert run("inspect", "--format", "config.config.labels.org.example.a", "app:1").stdout == "x\n"
    assert json.loads(run("inspect", "--format", "config.config.Env", "app:1").stdout) == ["PATH=/bin"]
    with Store.open(str(store)) as opened:
        assert run("inspect", "--raw", "app:1").stdout_bytes == opened.content.read(app.digest)


def test_inspect_what_is_not_there(run, two) -> None:
    for spelled in ("nothing", "sha256:" + "0" * 64, "000000"):
        result = run("inspect", spelled)
        assert result.exit_code == 1
        assert result.stderr.startswith("error[unknown-image]: ")
    result = run("inspect", "--format", "digset", "app:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error[unknown-field]: ")
    assert "did you mean digest?" in result.stderr


def test_tag_and_rm(run, two) -> None:
    app, tool = two
    assert run("tag", app.digest[7:20], "other", "r.example/x:2").exit_code == 0
    names = [row["name"] for row in json.loads(run("images", "--json").stdout)]
    assert {"docker.io/library/other:latest", "r.example/x:2"} < set(names)
    assert run("rm", "other").stdout == "docker.io/library/other:latest\n"
    assert sorted(run("rm", app.digest).stdout.split()) == ["docker.io/library/app:1", "r.example/x:2"]
    assert run("images", "-q").stdout.split() == [tool.digest]
    assert run("rm", "app:1").exit_code == 1
    assert run("rm", "-f", "app:1", "r.example/team/tool").exit_code == 0
    assert run("images", "-q").stdout == ""


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_save_and_load(run, two, tmp_path: Path, form: str) -> None:
    app, tool = two
    archive = tmp_path / "two.tar"
    saved = run("save", "--format", form, "-o", str(archive), "app:1", tool.digest)
    assert saved.exit_code == 0, saved.stderr
    other = {"ARKWRIGHT_ROOT": str(tmp_path / "other")}
    loaded = run("load", "-i", str(archive), env=other)
    assert loaded.exit_code == 0, loaded.stderr
    assert {line.split()[0] for line in loaded.stdout.splitlines()} == {
        "docker.io/library/app:1", "r.example/team/tool:latest",
    }  # fmt: skip
    rows = {row["name"]: row for row in json.loads(run("images", "--json", env=other).stdout)}
    configs = {
        name: json.loads(run("inspect", "--format", "config", name).stdout)
        for name in ("app:1", "r.example/team/tool")
    }
    assert json.loads(run("inspect", "--format", "config", "app:1", env=other).stdout) == configs["app:1"]
    if form == "oci-archive":
        assert rows["docker.io/library/app:1"]["digest"] == app.digest


def test_save_to_a_pipe_and_load_from_one(spawn, two, tmp_path: Path) -> None:
    app, _ = two
    import sys

    code = [sys.executable, "-c", "from arkwright.cli.main import main; main()"]
    env = {"PATH": "/usr/bin:/bin", "ARKWRIGHT_ROOT": str(tmp_path / "store")}
    with subprocess.Popen([*code, "save", "app:1"], stdout=subprocess.PIPE, env=env) as save:
        done = subprocess.run(
            [*code, "load", "-q"], stdin=save.stdout, env={**env, "ARKWRIGHT_ROOT": str(tmp_path / "other")},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, app.digest + "\n", "")


def test_skopeo_reads_what_save_writes(run, two, tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("needs-skopeo: to read archives as others do")
    app, _ = two
    for form in ("oci-archive", "docker-archive"):
        archive = tmp_path / f"{form}.tar"
        assert run("save", "--format", form, "-o", str(archive), "app:1").exit_code == 0
        shown = subprocess.run(
            [skopeo, "inspect", f"{form}:{archive}"], capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        if form == "oci-archive":
            assert json.loads(shown.stdout)["Digest"] == app.digest


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_load_of_something_else(run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    result = run("load", "-i", str(tmp_path / "x"))
    assert result.exit_code == 1, result.stderr
    assert result.stderr.startswith("error[")
    assert run("images", "-q").stdout == ""


def test_load_of_a_missing_file(run, tmp_path: Path) -> None:
    result = run("load", "-i", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error[unreadable-file]: ")


def test_the_json_that_is_printed_is_stable(run, two) -> None:
    first, second = run("inspect", "app:1").stdout, run("inspect", "app:1").stdout
    assert first == second
    assert msgspec.json.decode(first)["media_type"] == MANIFEST
