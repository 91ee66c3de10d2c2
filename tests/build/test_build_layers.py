"""What steps do to trees, and what other tools find in the layers."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
from copy_cases import Seen, result_tree

from building import Builder, Context, MakeBuilder

SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
LONG = "/".join(["a-rather-long-directory-name-to-leave-ustar-behind"] * 6)

CHANGES = f"""\
FROM busybox AS base
RUN <<EOT
set -e
mkdir -p /t/gone /t/replaced/sub /t/renamed/deep /t/kept
touch /t/gone/file /t/replaced/sub/x /t/renamed/deep/y /t/kept/z /t/file-to-dir
ln /t/kept/z /t/kept/z2
mkdir /t/dir-to-file
EOT

FROM base
RUN <<EOT
set -e
rm -r /t/gone
rm -r /t/replaced && mkdir /t/replaced && echo new > /t/replaced/n
mv /t/renamed /t/moved
rm /t/file-to-dir && mkdir /t/file-to-dir
rmdir /t/dir-to-file && echo f > /t/dir-to-file
mkdir -p '/t/{LONG}' && echo deep > '/t/{LONG}/file'
echo one > /t/h1 && ln /t/h1 /t/h2 && ln /t/h1 /t/a-h3
truncate -s 3M /t/sparse && echo end >> /t/sparse
chmod 4755 /t/h1
mkfifo /t/pipe
ln -s /t/h1 /t/link
chmod 700 /t/kept && chmod 755 /t/kept
EOT
"""


@pytest.fixture
def unpacked(builder: Builder, context: Context, scratch: Path) -> tuple[Path, Path]:
    """The layout that a build exported, and its root file system as umoci unpacks it."""
    archive = builder.home / "image.tar"
    builder.build(context({"Dockerfile": CHANGES}), "-t", "x:1", "-o", f"type=oci,dest={archive}")
    layout = scratch / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(layout)], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:1", str(scratch / "bundle")], check=True)
    return layout, scratch / "bundle/rootfs"


def top_layer(layout: Path) -> Path:
    index = msgspec.json.decode((layout / "index.json").read_bytes())
    manifest = msgspec.json.decode(blob(layout, index["manifests"][0]["digest"]).read_bytes())
    return blob(layout, manifest["layers"][-1]["digest"])


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def test_deletions_replacements_and_renames(unpacked: tuple[Path, Path]) -> None:
    layout, rootfs = unpacked
    tree = rootfs / "t"
    assert not (tree / "gone").exists()
    assert os.listdir(tree / "replaced") == ["n"]
    assert not (tree / "renamed").exists()
    assert (tree / "moved/deep/y").is_file()
    assert (tree / "file-to-dir").is_dir()
    assert (tree / "dir-to-file").read_text() == "f\n"
    with tarfile.open(top_layer(layout)) as tar:
        names = tar.getnames()
    assert "t/.wh.gone" in names
    assert "t/.wh.renamed" in names
    assert "t/replaced/.wh.sub" in names
    assert not any(".wh..wh." in name for name in names)
    assert names == sorted(names, key=lambda name: name.replace(".wh.", "").split("/"))


def test_an_unchanged_directory_is_not_in_the_layer(unpacked: tuple[Path, Path]) -> None:
    layout, rootfs = unpacked
    with tarfile.open(top_layer(layout)) as tar:
        names = tar.getnames()
    assert "t/kept" not in names
    assert not any(name.startswith(("etc", "dev", "proc", "sys")) for name in names)
    assert (rootfs / "t/kept/z").stat().st_ino == (rootfs / "t/kept/z2").stat().st_ino


def test_links_modes_long_names_and_special_files(unpacked: tuple[Path, Path]) -> None:
    _, rootfs = unpacked
    tree = rootfs / "t"
    assert {(tree / name).stat().st_ino for name in ("h1", "h2", "a-h3")} == {(tree / "h1").stat().st_ino}
    assert (tree / "h2").stat().st_mode & 0o7777 == 0o4755
    assert (tree / LONG / "file").read_text() == "deep\n"
    assert (tree / "sparse").stat().st_size == (3 << 20) + 4
    assert (tree / "pipe").is_fifo()
    assert (tree / "link").readlink() == Path("/t/h1")


def test_times_and_owners_are_normalised(unpacked: tuple[Path, Path]) -> None:
    with tarfile.open(top_layer(unpacked[0])) as tar:
        members = tar.getmembers()
    assert {member.mtime for member in members} == {946684800}
    assert {(member.uname, member.gname) for member in members} == {("", "")}


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="needs-schemas: golang-github-opencontainers-image-spec-dev")
def test_documents_satisfy_the_specifications_schemas(unpacked: tuple[Path, Path]) -> None:
    from jsonschema import Draft4Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    layout, _ = unpacked

    def retrieve(uri: str) -> Resource:
        # The schemas name each other by file name, whatever their ids say.
        data = (SCHEMAS / uri.rsplit("/", 1)[-1]).read_bytes()
        return Resource.from_contents(msgspec.json.decode(data), default_specification=DRAFT4)

    registry = Registry(retrieve=retrieve)

    def check(name: str, data: bytes) -> dict[str, object]:
        schema = msgspec.json.decode((SCHEMAS / name).read_bytes())
        document: dict[str, object] = msgspec.json.decode(data)
        assert not list(Draft4Validator(schema, registry=registry).iter_errors(document))
        return document

    index = check("image-index-schema.json", (layout / "index.json").read_bytes())
    check("image-layout-schema.json", (layout / "oci-layout").read_bytes())
    entry = index["manifests"][0]  # type: ignore[index]
    manifest = check("image-manifest-schema.json", blob(layout, entry["digest"]).read_bytes())
    check("config-schema.json", blob(layout, manifest["config"]["digest"]).read_bytes())  # type: ignore[index]


def test_attributes_and_capabilities_survive_context_and_stages(
    builder: Builder, context: Context, make_builder: MakeBuilder
) -> None:
    root = context(
        {"Dockerfile": "FROM busybox AS a\nCOPY f /f\nFROM busybox\nCOPY --from=a /f /g\n", "f": "x"}
    )
    os.setxattr(root / "f", "user.note", b"hello")
    subprocess.run(["setcap", "cap_net_raw+ep", str(root / "f")], check=True)
    archive = builder.home / "tree.tar"
    builder.run("build", "-o", f"type=tar,dest={archive}", str(root))
    with tarfile.open(archive) as tar:
        headers = tar.getmember("g").pax_headers
    assert headers["SCHILY.xattr.user.note"] == "hello"
    assert (
        headers["SCHILY.xattr.security.capability"]
        .encode("utf-8", "surrogateescape")
        .startswith(b"\x01\x00\x00\x02")
    )


def test_names_that_are_no_utf8_stay_as_they_are(builder: Builder, context: Context) -> None:
    name = os.fsdecode(b"\xff\xfe")
    tree = result_tree(builder, context({"Dockerfile": "FROM scratch\nCOPY odd /odd\n", f"odd/{name}": "3"}))
    tree.check({f"odd/{name}": Seen("file", "3")})


def test_scrubbed_files_are_dropped_unless_asked_for(builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN mkdir -p /var/log/apt /var/cache/apt && date > /var/log/dpkg.log && date > /var/log/apt/history.log && date > /var/cache/apt/pkgcache.bin && echo kept > /var/log/other.log\n"
    root = context({"Dockerfile": text})
    for scrub, expected in (("default", {"other.log"}), ("none", {"other.log", "dpkg.log", "apt"})):
        builder.build(root, "-t", f"scrub:{scrub}", "--scrub", scrub)
        assert set(builder.run("run", f"scrub:{scrub}", "ls", "/var/log").out.split()) == expected


def test_steps_leave_no_mount_points_behind(builder: Builder, context: Context) -> None:
    text = (
        "FROM busybox\nRUN --mount=type=cache,target=/c/d --mount=type=tmpfs,target=/tmpfs "
        "--mount=type=bind,target=/ctx cat /etc/hosts /etc/resolv.conf /ctx/Dockerfile > /seen\n"
    )
    archive = builder.home / "layout"
    builder.build(context({"Dockerfile": text}), "-t", "x:1", "-o", f"type=oci,tar=false,dest={archive}")
    with tarfile.open(top_layer(archive)) as tar:
        assert tar.getnames() == ["seen"]
