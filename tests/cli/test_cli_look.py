"""`inspect`, `tree`, `ls`, `cat`, `diff`, `layers`, `validate`: what they print, and their exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arkwright.images.listing import LISTINGS
from arkwright.store.store import Store
from building import Builder
from looking import MTIME, Layout, digest_of, entry, folder, gone, hardlink, symlink, tar

BASE = tar(
    folder("etc"), entry("etc/release", b"ID=test\n", owner=(3, 4), mode=0o640), symlink("etc/link", "/etc/release"),
    folder("bin", 0o1777), entry("bin/tool", b"#!" + b"x" * 10_000, mode=0o4755), hardlink("bin/again", "bin/tool"),
    entry("dev/tty", kind="char", device=(5, 0), mode=0o620), entry("pipe", kind="fifo", mode=0o600),
    entry("größe", b"1", mtime=1), entry("zz", b"z" * 100),
)  # fmt: skip
TOP = tar(entry("etc/release", b"ID=other\n"), gone("zz"), entry("new", b"n"))
HISTORY: dict[str, Any] = {
    "created": "2024-01-02T03:04:05Z", "author": "me",
    "config": {"Env": ["PATH=/bin", "A=1"], "Labels": {"org.example.a": "b"}, "Cmd": ["sh"]},
    "history": [
        {"created_by": "ADD base"}, {"created_by": "ENV A=1", "empty_layer": True},
        {"created": "2024-01-02T03:04:05Z", "created_by": "RUN make", "author": "me", "comment": "c"},
    ],
}  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    made.add("base", [BASE])
    made.add("app", [BASE, TOP], config=HISTORY, manifest={"annotations": {"org.example.note": "x"}})
    return made


@pytest.fixture
def app(layout: Layout) -> str:
    return f"oci:{layout.path}:app"


@pytest.fixture
def base(layout: Layout) -> str:
    return f"oci:{layout.path}:base"


def skopeo(*args: str) -> str:
    if shutil.which("skopeo") is None:
        pytest.skip("needs-skopeo: to read images by another hand")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *args], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inspect_says_what_skopeo_says(run, app: str, tmp_path: Path) -> None:
    theirs = json.loads(skopeo("inspect", app))
    details = json.loads(run("inspect", app).stdout)
    assert details["digest"] == theirs["Digest"]
    assert [layer["digest"] for layer in details["layers"]] == theirs["Layers"]
    assert [one["size"] for one in details["layers"]] == [
        (tmp_path / "layout/blobs" / digest.replace(":", "/")).stat().st_size for digest in theirs["Layers"]
    ]
    assert details["config"]["config"]["Env"] == theirs["Env"]
    assert details["config"]["config"]["Labels"] == theirs["Labels"]
    assert details["created"] == theirs["Created"]
    assert details["platform"] == f"{theirs['Os']}/{theirs['Architecture']}"
    assert details["config"] == json.loads(skopeo("inspect", "--config", "--raw", app))
    assert run("inspect", "--raw", app).stdout == skopeo("inspect", "--raw", app)
    assert details["annotations"] == {"org.example.note": "x"}
    # A layout's documents are all that is taken of it.
    with Store.open(str(tmp_path / "store")) as store:
        assert set(store.content.digests()) == {details["digest"], details["config_digest"]}


def test_steps_are_matched_to_layers(run, app: str) -> None:
    details = json.loads(run("inspect", app).stdout)
    first, second = (layer["digest"] for layer in details["layers"])
    assert [(line["created_by"], line["layer"], line["empty_layer"]) for line in details["history"]] == [
        ("ADD base", first, False), ("ENV A=1", None, True), ("RUN make", second, False),
    ]  # fmt: skip
    assert [(one["created_by"], one["diff_id"]) for one in details["layers"]] == [
        ("ADD base", digest_of(BASE)), ("RUN make", digest_of(TOP)),
    ]  # fmt: skip
    assert (
        details["history"][2]["comment"] == "c"
        and details["history"][2]["size"] == details["layers"][1]["size"]
    )
    assert run("inspect", "--format", "layers.1.created_by", app).stdout == "RUN make\n"
    assert run("inspect", "--format", "{{.Config.Author}}", app).stdout == "me\n"


def test_histories_that_do_not_fit(run, layout: Layout) -> None:
    for lines, steps in {0: ["", ""], 1: ["s", ""], 3: ["s", "s"]}.items():
        layout.add(f"h{lines}", [BASE, TOP], config={"history": [{"created_by": "s"}] * lines})
        details = json.loads(run("inspect", f"oci:{layout.path}:h{lines}").stdout)
        assert [layer["created_by"] for layer in details["layers"]] == steps
        assert [line["layer"] is not None for line in details["history"]] == [True, True, False][:lines]


def test_referrers(run, layout: Layout, app: str, tmp_path: Path) -> None:
    image = json.loads(run("inspect", app).stdout)
    assert image["referrers"] == []
    subject = {"mediaType": image["media_type"], "digest": image["digest"], "size": 1}
    kind = "application/vnd.oci.image.manifest.v1+json"
    empty = layout.put(b"{}", "application/vnd.oci.empty.v1+json")
    document = {
        "schemaVersion": 2, "mediaType": kind, "artifactType": "application/vnd.example.sbom", "config": empty,
        "layers": [empty], "subject": subject, "annotations": {"made": "by hand"},
    }  # fmt: skip
    sbom = layout.name("docker.io/library/sbom:1", layout.put(json.dumps(document).encode(), kind))
    archive = tmp_path / "all.tar"
    subprocess.run(["tar", "-C", str(layout.path), "-cf", str(archive), "."], check=True)
    assert run("load", "-i", str(archive)).exit_code == 0
    for place in (app, image["digest"]):
        (found,) = json.loads(run("inspect", place).stdout)["referrers"]
        assert (found["digest"], found["artifact_type"], found["subject"], found["annotations"]) == (
            sbom["digest"], "application/vnd.example.sbom", image["digest"], {"made": "by hand"},
        )  # fmt: skip
    artifact = json.loads(run("inspect", "sbom:1").stdout)
    assert (artifact["subject"], artifact["artifact_type"], artifact["platform"]) == (
        image["digest"], "application/vnd.example.sbom", "",
    )  # fmt: skip


def test_a_long_listing_is_that_of_tar(run, base: str) -> None:
    env = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["tar", "--numeric-owner", "--full-time", "-tvf", "-"],
        input=BASE,
        stdout=subprocess.PIPE,
        check=True,
        env=env,
    )
    theirs = {}
    for line in done.stdout.decode().splitlines():
        mode, owner, size, day, time, name = line.split(None, 5)
        name, _, target = name.partition(" -> ")
        if mode.startswith("h"):
            # A hard link is a name of its target here.
            mode, size, name = "-" + mode[1:], "10002", name.partition(" link to ")[0]
        theirs["/" + name.rstrip("/")] = (
            mode,
            *owner.split("/"),
            size.replace(",", ", "),
            f"{day} {time}",
            target,
        )
    ours = {}
    for line in run("ls", "-lR", base).stdout.splitlines():
        line = line.replace(", ", ",")
        mode, _, uid, gid, size, day, time, name = line.split(None, 7)
        name, _, target = name.partition(" -> ")
        ours[name] = (mode, uid, gid, size.replace(",", ", "), f"{day} {time}", target)
    ours.pop("/dev")
    theirs["/bin/again"] = ours["/bin/tool"]
    assert ours == theirs


def test_ls_lists_as_ls_does(run, app: str) -> None:
    assert run("ls", app).stdout.split() == ["bin", "dev", "etc", "größe", "new", "pipe"]
    assert run("ls", app, "etc/").stdout.split() == ["link", "release"]
    assert run("ls", app, "/etc/link").stdout == "/etc/link\n"
    assert run("ls", "-d", app, "etc").stdout == "etc\n"
    assert run("ls", "-l", app, "/etc/link").stdout.endswith(" /etc/link -> /etc/release\n")
    assert " 2 0 0 10002 " in run("ls", "-l", app, "bin/again").stdout
    assert run("ls", "-R", app, "bin").stdout.split() == ["/bin/again", "/bin/tool"]
    for path, code in {"none": "path-missing", "new/x": "not-a-directory"}.items():
        failed = run("ls", app, path)
        assert failed.exit_code == 1 and f"error[{code}]" in failed.stderr


def test_ls_json(run, app: str, layout: Layout) -> None:
    rows = {row["path"]: row for row in json.loads(run("ls", "-R", "--json", app).stdout)}
    assert list(rows) == [
        "/bin", "/bin/again", "/bin/tool", "/dev", "/dev/tty", "/etc", "/etc/link", "/etc/release", "/größe", "/new", "/pipe",
    ]  # fmt: skip
    layers = [layer["digest"] for layer in json.loads(run("inspect", app).stdout)["layers"]]
    release, tool, tty = rows["/etc/release"], rows["/bin/again"], rows["/dev/tty"]
    assert (release["digest"], release["layer"], release["size"]) == (digest_of(b"ID=other\n"), layers[1], 9)
    assert (tool["links"], tool["mode"], tool["layer"]) == (2, "4755", layers[0])
    assert (tty["type"], tty["device"], rows["/etc/link"]["link"]) == ("char", "5:0", "/etc/release")
    # A directory that no entry mentions is of the layer that needs it.
    assert (rows["/dev"]["mode"], rows["/dev"]["layer"]) == ("0755", layers[0])
    assert rows["/bin"]["mtime_ns"] == MTIME * 1_000_000_000


def test_cat(run, app: str) -> None:
    assert run("cat", app, "etc/link", "/new").stdout == "ID=other\nn"
    assert run("cat", app, "bin/again").stdout == "#!" + "x" * 10_000
    for path in ("etc", "/dev/tty", "pipe"):
        failed = run("cat", app, "new", path)
        assert (failed.exit_code, failed.stdout) == (1, "") and "error[not-a-regular-file]" in failed.stderr
    assert "error[path-missing]" in run("cat", app, "/zz").stderr
    assert "error[not-a-regular-file]" in run("cat", app, "/").stderr


def test_tree(run, app: str) -> None:
    assert run("tree", app, "etc").stdout == (
        "etc\n├── link -> /etc/release\n└── release\n\n0 directories, 2 files\n"
    )
    assert run("tree", "-d", app).stdout == "/\n├── bin\n├── dev\n└── etc\n\n3 directories, 0 files\n"
    whole = run("tree", app).stdout
    assert "│   ├── again\n│   └── tool\n" in whole and whole.endswith("\n3 directories, 8 files\n")
    assert "again" not in run("tree", "-L", "1", app).stdout
    assert "[      10002]  tool" in run("tree", "--size", app, "bin").stdout


def test_names_cannot_drive_a_terminal(run, layout: Layout) -> None:
    evil = "e\x1b[2Jv\nil\u202e"
    layout.add("evil", [tar(entry(evil, b"x"), symlink("s", "\x1b]0;t\x07"))])
    place = f"oci:{layout.path}:evil"
    for args in (
        ("tree",),
        ("ls",),
        ("ls", "-l"),
        ("diff", f"oci:{layout.path}:base"),
        ("diff", "--name-only", place),
    ):
        last = f"oci:{layout.path}:base" if place in args else place
        shown = run(*args, last).stdout
        assert "\x1b" not in shown and "\u202e" not in shown and "v\nil" not in shown
        assert "e\\x1b[2Jv\\x0ail<U+202E>" in shown
    assert json.loads(run("ls", "--json", place).stdout)[0]["path"] == f"/{evil}"


def test_names_that_are_not_text(run, layout: Layout) -> None:
    layout.add("bytes", [tar(entry("caf\udce9", b"x"))])
    place = f"oci:{layout.path}:bytes"
    (row,) = json.loads(run("ls", "--json", place).stdout)
    assert row["path"] == "/caf\\xe9"
    assert json.loads(run("diff", "--json", f"oci:{layout.path}:base", place).stdout)["files"]
    assert run("cat", place, "caf\udce9").stdout == "x"


def test_diff_has_the_status_of_diff(run, app: str, base: str) -> None:
    assert run("diff", app, app).exit_code == 0
    found = run("diff", "--only", "files", base, app)
    assert (found.exit_code, found.stdout.splitlines()) == (1, [
        f"~ /etc/release  mode 0640 -> 0644, owner 3:4 -> 0:0, size 8 -> 9, content {digest_of(b'ID=test' + bytes([10]))[:19]}"
        f" -> {digest_of(b'ID=other' + bytes([10]))[:19]}",
        "+ /new  file 0644 0:0 1",
        "- /zz  file 0644 0:0 100",
    ])  # fmt: skip
    assert run("diff", "--name-only", base, app).stdout.split() == ["/etc/release", "/new", "/zz"]
    assert run("diff", base, app, "etc", "bin").stdout.startswith("~ /etc/release")
    assert run("diff", base, app, "bin").exit_code == 0
    config = run("diff", "--only", "config", base, app).stdout.splitlines()
    assert '+ config: config.Env.A = "1"' in config
    assert '~ config: history[0] = {"created_by":"step 0"} -> {"created_by":"ADD base"}' in config
    for args, code in {
        ("nowhere",): "unknown-image",
        ("--platform", "linux/s390x", app): "unknown-image",
    }.items():
        failed = run("diff", *args, "nowhere")
        assert failed.exit_code == 2 and f"error[{code}]" in failed.stderr


def test_diff_json(run, app: str, base: str) -> None:
    found = run("diff", "--json", base, app)
    document = json.loads(found.stdout)
    assert found.exit_code == 1
    files = {change["path"]: change for change in document["files"]}
    assert (files["/zz"]["kind"], files["/zz"]["new"], files["/zz"]["old"]["size"]) == ("removed", None, 100)
    assert files["/etc/release"]["fields"] == ["mode", "owner", "size", "content"]
    assert {change["field"] for change in document["config"]} >= {"config.Env.A", "author", "rootfs.diff_ids"}
    same = run("diff", "--json", app, app)
    assert (same.exit_code, json.loads(same.stdout)["files"]) == (0, [])


def test_layers(run, app: str) -> None:
    lines = [line.split() for line in run("layers", app).stdout.splitlines()]
    assert lines[0] == ["DIGEST", "SIZE", "FILES", "CONTENT", "STEP"]
    assert [(line[2], line[3], line[4:]) for line in lines[1:]] == [
        ("8", "10.1kB", ["ADD", "base"]), ("2", "10B", ["RUN", "make"]),
    ]  # fmt: skip
    text = run("layers", "--efficiency", app).stdout
    assert "98.9% of 10.1kB in files is seen by a container; 108B in 2 paths is wasted." in text
    assert text.splitlines()[-2:] == [
        "100B          1  layer 1, removed   /zz",
        "8B            1  layer 1, replaced  /etc/release",
    ]
    document = json.loads(run("layers", "--json", "--paths", "1", app).stdout)
    assert (document["wasted"], len(document["worst"]), document["wasted_paths"]) == (108, 1, 2)
    assert run("layers", "--format", "layers.0.created_by", app).stdout == "ADD base\n"
    assert run("ls", "--format", "0.path", app).stdout == "/bin\n"
    assert run("diff", "--format", "config", app, app).stdout == "[]\n"
    assert run("validate", "--format", "valid", app).stdout == "true\n"
    failed = run("layers", "--format", "layer", app)
    assert failed.exit_code == 1 and "error[unknown-field]" in failed.stderr and "layers" in failed.stderr


def test_validate(run, app: str, layout: Layout) -> None:
    sound = run("validate", app)
    assert (sound.exit_code, sound.stdout.split(": ")[1]) == (
        0,
        "valid (2 documents, 2 layers, 13 entries)\n",
    )
    layout.add("broken", [BASE, tar(gone("none"), entry("x"), entry("x"))], config={"created": "now"})
    broken = run("validate", f"oci:{layout.path}:broken")
    assert broken.exit_code == 1
    assert [line.split(":")[0] for line in broken.stdout.splitlines()[:-1]] == [
        "invalid-config", "whiteout-of-nothing", "duplicate-entry",
    ]  # fmt: skip
    document = json.loads(run("validate", "--json", f"oci:{layout.path}:broken").stdout)
    assert document["valid"] is False and document["findings"][1]["where"] == "/none"
    missing = run("validate", "nowhere")
    assert missing.exit_code == 2 and "error[unknown-image]" in missing.stderr
    assert run("validate", "--platform", "linux/arm64", "--all-platforms", app).exit_code == 2


def test_every_spelling_shows_the_same(run, app: str, tmp_path: Path) -> None:
    for kind, target in {"oci-archive": "a.tar", "docker-archive": "d.tar", "dir": "dir"}.items():
        skopeo("copy", "--dest-decompress" if kind == "dir" else "-q", app, f"{kind}:{tmp_path / target}")
    subprocess.run(["tar", "-C", str(tmp_path / "layout"), "-cf", str(tmp_path / "l.tar"), "."], check=True)
    assert run("load", "-i", str(tmp_path / "l.tar")).exit_code == 0
    digest = json.loads(run("inspect", app).stdout)["digest"]
    expected = run("ls", "-lR", app).stdout
    places = (
        f"oci-archive:{tmp_path}/a.tar",
        f"docker-archive:{tmp_path}/d.tar",
        f"dir:{tmp_path}/dir",
        digest,
        digest[7:19],
    )
    for place in places:
        assert run("ls", "-lR", place).stdout == expected, place
        assert run("cat", place, "/etc/link").stdout == "ID=other\n"
        assert run("diff", "--only", "files", app, place).exit_code == 0
        assert run("validate", place).exit_code == 0, run("validate", place).stdout
        details = json.loads(run("inspect", place).stdout)
        assert [one["diff_id"] for one in details["layers"]] == [digest_of(BASE), digest_of(TOP)]
        assert json.loads(run("layers", "--json", place).stdout)["wasted"] == 108


def test_what_a_clean_up_deletes_is_not_remembered(run, app: str, tmp_path: Path) -> None:
    run("ls", app)
    with Store.open(str(tmp_path / "store")) as store:
        assert len(store.metadata.keys(LISTINGS)) == 2
    # A clean-up forks, which a process with threads must not.
    subprocess.run([sys.executable, "-m", "arkwright", "prune", "--all", "-f"], check=True)
    with Store.open(str(tmp_path / "store")) as store:
        assert store.metadata.keys(LISTINGS) == []


@pytest.mark.parametrize("identity", ["sealed", "single"])
def test_a_user_without_any_privilege(scratch: Path, identity: str) -> None:
    layout = Layout(scratch / "layout")
    layout.add("base", [BASE])
    layout.add("app", [BASE, TOP])
    layout.open_to_all()
    builder = Builder(scratch, identity)
    app, base = f"oci:{layout.path}:app", f"oci:{layout.path}:base"
    assert "ID=other" in builder.run("cat", app, "/etc/link").out
    assert "crw--w---- 1 0 0" in builder.run("ls", "-l", app, "/dev").out
    assert "└── tool" in builder.run("tree", app).out
    assert "- /zz" in builder.run("diff", base, app, status=1).out
    assert "98.9%" in builder.run("layers", "--efficiency", app).out
    assert "valid" in builder.run("validate", app).out
    assert builder.run("inspect", "--format", "layers.0.diff_id", app).out == digest_of(BASE) + "\n"
