"""The files of an image, merged in memory: as umoci unpacks them, whatever the layers say."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from imaging import refused

from arkwright.images import listing, view
from arkwright.images.listing import LISTINGS, list_layer, read_content, read_entries
from arkwright.images.opened import open_image, open_view
from arkwright.images.places import parse_place
from arkwright.images.view import View
from arkwright.layer.tar_read import Limits
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store
from looking import (
    Layout,
    Member,
    emptied,
    entry,
    folder,
    gone,
    hardlink,
    symlink,
    tar,
    tree_of,
    tree_on_disk,
)
from peak_memory import LIMIT_KB, measuring

SOAK = bool(os.environ.get("ARKWRIGHT_SOAK"))

Unpack = Callable[[Sequence[bytes]], Path]

BASE = (
    folder("etc"), entry("etc/passwd", b"root:x:0:0\n"), entry("etc/shadow", b"s", mode=0o600, owner=(0, 42)),
    folder("usr"), folder("usr/bin"), entry("usr/bin/tool", b"tool" * 999, mode=0o4755),
    hardlink("usr/bin/alias", "usr/bin/tool"), symlink("bin", "usr/bin"), symlink("etc/localtime", "/usr/zone"),
    folder("var", 0o1777), folder("var/lib"), entry("var/lib/a", b"a"), entry("var/lib/b", b"b"),
    entry("dev/null", kind="char", device=(1, 3), mode=0o666), entry("pipe", kind="fifo"),
    entry("noted", b"n", xattrs={"user.note": "hello"}),
)  # fmt: skip

CASES: dict[str, tuple[tuple[Member, ...], ...]] = {
    "one layer": (BASE,),
    "deletions": (BASE, (gone("etc/passwd"), gone("var/lib"), gone("usr/bin/tool"), gone("pipe"))),
    "a deletion and the same again": (BASE, (gone("var/lib"), folder("var/lib"), entry("var/lib/c", b"c"))),
    "emptied": (BASE, (emptied("var/lib"), entry("var/lib/c", b"c"))),
    "emptied, marker last": (BASE, (folder("var/lib", 0o700), entry("var/lib/a", b"new"), emptied("var/lib"))),
    "emptied twice": (BASE, (emptied("var"), emptied("var/lib")), (entry("var/lib/x", b"x"),)),
    "a file for a directory": (BASE, (entry("var/lib", b"file"),), (folder("var/lib"), entry("var/lib/d", b"d"))),
    "a directory for a link": (BASE, (folder("bin"), entry("bin/sh", b"sh"))),
    "through a link": (BASE, (entry("bin/new", b"n"), gone("bin/alias"))),
    "through an absolute link": (BASE, (symlink("l", "/var/../usr"),), (entry("l/bin/x", b"x"), gone("l/bin/tool"))),
    "another mode": (BASE, (folder("var", 0o700, owner=(7, 8)), entry("usr/bin/tool", b"t", mode=0o711))),
    "hard links across layers": (
        BASE,
        (hardlink("linked", "etc/passwd"), hardlink("etc/linked", "usr/bin/alias")),
        (entry("etc/passwd", b"other"), gone("usr/bin/alias")),
    ),
    "parents that nobody mentions": ((entry("a/b/c/d", b"d"),), (entry("a/e", b"e"), gone("a/b"))),
    "attributes": (BASE, (entry("noted", b"n", xattrs={"user.other": "x"}), folder("etc", xattrs={"user.d": "1"}))),
    "upwards": ((entry("./x", b"1"), entry("/y", b"2"), folder("./z/"), entry("z/./w", b"3")),),
    "a name given twice": ((entry("x", b"1"), entry("x", b"22"), folder("d"), entry("d/f", b""), folder("d", 0o700)),),
    "not ASCII": ((entry("größe/日本", b"1"), symlink("größe/ü", "日本")),),
}  # fmt: skip


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Layers unpacked by umoci, as root."""
    if shutil.which("umoci") is None:
        pytest.skip("needs-umoci: to unpack images by another hand")
    if os.geteuid() != 0:
        pytest.skip("needs-root: gives files their owners")

    def run(layers: Sequence[bytes]) -> Path:
        layout = Layout(tmp_path / f"umoci-{len(list(tmp_path.iterdir()))}")
        layout.add("x", layers)
        target = layout.path.with_name(layout.path.name + "-root")
        done = subprocess.run(
            ["umoci", "raw", "unpack", "--image", f"{layout.path}:x", str(target)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return target

    return run


def merged(layers: Sequence[bytes]) -> View:
    found = View()
    for one in layers:
        found.add_layer(read_entries(io.BytesIO(one)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_view_is_what_umoci_unpacks(unpack: Unpack, case: str) -> None:
    layers = [tar(*members) for members in CASES[case]]
    assert tree_of(merged(layers)) == tree_on_disk(unpack(layers))


def test_a_view_of_a_real_image(store: Store, busybox: Descriptor, unpack: Unpack, tmp_path: Path) -> None:
    """All of busybox, of which 400 programs are one file with as many names."""
    image = open_image(store, parse_place("busybox"))
    (layer,) = image.manifest.layers
    packed = tmp_path / "layer.gz"
    packed.write_bytes(store.content.read(layer.digest))
    found = tree_of(open_view(store, image))
    assert len(found) > 300
    assert found == tree_on_disk(unpack([gunzip(packed)]))


def random_layers(seed: int) -> list[bytes]:
    """Layers of few names, so that they meet; a deletion names something of the layers below, and no
    layer deletes what it makes (in which order that counts differs between tools)."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"]
    layers, below = [], {""}
    for _ in range(chance.randint(2, 5)):
        members: list[Member] = []
        made: set[str] = set()
        for number in range(chance.randint(1, 12)):
            path = "/".join(chance.choice(names) for _ in range(chance.randint(1, 3)))
            parents = {path.rsplit("/", count)[0] for count in range(1, path.count("/") + 1)}
            if path in made or parents & {one for one in made if f"{one}/" not in made} or f"{path}/" in made:
                continue
            kind = chance.choice(["file", "file", "dir", "fifo", "gone"])
            if kind == "gone":
                if path not in below or any(one.startswith(path) for one in made):
                    continue
                members.append(gone(path))
                made.add(path)
                continue
            for parent in sorted(parents, key=len):
                if f"{parent}/" not in made:
                    members.append(folder(parent, chance.choice([0o755, 0o700])))
                    made |= {parent, f"{parent}/"}
            data = f"{seed} {number}".encode() if kind == "file" else b""
            members.append(
                entry(path, data, kind=kind, mode=chance.choice([0o755, 0o640]), owner=(number, 3))
            )
            made |= {path, f"{path}/"} if kind == "dir" else {path}
        layers.append(tar(*members))
        below = set(tree_of(merged(layers)))
    return layers


@pytest.mark.parametrize("seed", range(12))
def test_random_layers(unpack: Unpack, seed: int) -> None:
    layers = random_layers(seed)
    assert tree_of(merged(layers)) == tree_on_disk(unpack(layers))


@pytest.mark.soak
@pytest.mark.parametrize("start", range(100, 1100, 50) if SOAK else [100])
def test_many_random_layers(unpack: Unpack, start: int) -> None:
    for seed in range(start, start + 50):
        layers = random_layers(seed)
        assert tree_of(merged(layers)) == tree_on_disk(unpack(layers)), seed


def test_links_are_followed_inside_the_image_only() -> None:
    found = merged(
        [
            tar(
                symlink("up", "../../../../etc/passwd"), symlink("abs", "/etc"), entry("etc/passwd", b"image\n"),
                symlink("a", "b"), symlink("b", "a"), symlink("self/x", "x"), symlink("dangling", "/nowhere"),
                symlink("chain0", "etc/passwd"), *(symlink(f"chain{n}", f"chain{n - 1}") for n in range(1, 42)),
            )
        ]
    )  # fmt: skip
    passwd = found.find("/etc/passwd")
    for path in ("up", "/abs/passwd", "abs/../up", "etc/../../../etc/./passwd", "//etc//passwd", "chain39"):
        assert found.find(path) is passwd, path
    assert found.find("up", follow=False).link == "../../../../etc/passwd"
    assert found.find("abs/", follow=False).is_dir
    assert found.find("..") is found.root
    for path, code in {
        "a": "symlink-loop", "self/x/y": "symlink-loop", "chain41": "symlink-loop", "dangling": "path-missing",
        "etc/none": "path-missing", "etc/passwd/x": "not-a-directory", "etc/passwd/": "not-a-directory",
        "none/x": "path-missing", "/".join(["etc/.."] * 40_000): "symlink-loop",
    }.items():  # fmt: skip
        with refused(code):
            found.find(path)


@pytest.mark.parametrize(
    ("code", "members"),
    {
        "path-escapes-root": (entry("a/../../x"),),
        "not-a-directory": (entry("f", b"x"), entry("f/below", b"x")),
        "missing-link-target": (hardlink("x", "nowhere"),),
        "invalid-archive": (folder("d"), hardlink("x", "d")),
        "symlink-loop": (symlink("a", "b"), symlink("b", "a"), entry("a/x", b"")),
        "reserved-name": (entry(".wh.d/x", b""),),
    }.items(),
)
def test_hostile_layers_are_refused(code: str, members: tuple[Member, ...]) -> None:
    with refused(code):
        merged([tar(*members)])


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MAX_ENTRIES", 1000)
    many = tar(*(entry(f"f{number}") for number in range(600)))
    merged([many])
    with refused("archive-too-large", "1000"):
        merged([many, many])
    # A few headers whose names stand for thousands of directories.
    paths = ("/".join([f"{number}", *"abcdefgh" * 60]) for number in range(3))
    with refused("archive-too-large", "1000"):
        merged([tar(*(entry(path) for path in paths))])
    with refused("archive-too-large"):
        list(read_entries(io.BytesIO(many), limits=Limits(max_entries=10)))


def test_depth_is_bounded() -> None:
    # Each link leads to the end of what the one before made.
    deep = "/".join("d" * 1000)
    members = [entry(f"{deep}/f")]
    where = deep
    for number in range(5):
        members += [symlink(f"l{number}", f"/{where}"), entry(f"l{number}/{deep}/f")]
        where = f"l{number}/{deep}"
    with refused("name-too-long"):
        merged([tar(*members)])


def test_many_markers_cost_no_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tar(*(entry(f"d/{number}") for number in range(300)))
    looked = 0
    is_ours = View._is_ours

    def counted(self: View, *args: object) -> bool:
        nonlocal looked
        looked += 1
        return is_ours(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(View, "_is_ours", counted)
    found = merged([base, tar(*(entry(f"d/n{number}") for number in range(300)), *[emptied("d")] * 300)])
    assert len(found.find("d").children) == 300
    assert looked < 2000


@pytest.fixture
def stored(store: Store, tmp_path: Path) -> tuple[Store, Layout]:
    layout = Layout(tmp_path / "layout")
    layout.add("x", [tar(*BASE), tar(gone("etc/passwd"), entry("new", b"n" * 700_000))])
    return store, layout


def test_a_second_look_reads_no_layer(stored: tuple[Store, Layout]) -> None:
    store, layout = stored
    image = open_image(store, parse_place(f"oci:{layout.path}:x"))
    first = tree_of(open_view(store, image))
    assert len(store.metadata.keys(LISTINGS)) == 2
    for layer in image.manifest.layers:
        store.content.delete(layer.digest)
    assert tree_of(open_view(store, image)) == first
    for layer in image.manifest.layers:
        store.metadata.put(LISTINGS, layer.digest, b"1damaged")
    with refused("missing-blob"):
        open_view(store, image)


def test_a_remembered_listing_says_the_same(
    stored: tuple[Store, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, layout = stored
    image = open_image(store, parse_place(f"oci:{layout.path}:x"))
    for layer in image.manifest.layers:
        assert list(list_layer(store, layer)) == list(list_layer(store, layer))
    # What is too large for a record is read each time, and so is what no record can hold.
    monkeypatch.setattr(listing, "_REMEMBERED", 100)
    layout.add("y", [tar(*BASE, entry("more", b"x"))])
    other = open_image(store, parse_place(f"oci:{layout.path}:y")).manifest.layers[0]
    assert list(list_layer(store, other)) == list(list_layer(store, other))
    monkeypatch.undo()
    layout.add("z", [tar(entry("late", b"x", mtime=1 << 35))])
    third = open_image(store, parse_place(f"oci:{layout.path}:z")).manifest.layers[0]
    (late,) = list_layer(store, third)
    assert late.entry.mtime_ns == (1 << 35) * 1_000_000_000
    known = store.metadata.keys(LISTINGS)
    assert other.digest not in known and third.digest not in known


def test_contents_are_those_that_tar_extracts(stored: tuple[Store, Layout], tmp_path: Path) -> None:
    store, layout = stored
    (tmp_path / "sparse").mkdir()
    with (tmp_path / "sparse/file").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    sparse = tmp_path / "sparse.tar"
    subprocess.run(["tar", "-C", str(tmp_path), "--sparse", "-cf", str(sparse), "sparse"], check=True)
    layout.add("s", [tar(*BASE), sparse.read_bytes()])
    image = open_image(store, parse_place(f"oci:{layout.path}:s"))
    found = open_view(store, image)
    for path in ("usr/bin/alias", "bin/tool", "sparse/file"):
        node = found.find(path)
        layer = image.manifest.layers[node.layer]
        archive = gunzip(layout.blob(layer.digest))
        name = "usr/bin/tool" if "bin" in path else path
        expected = subprocess.run(
            ["tar", "-xOf", "-", name], input=archive, stdout=subprocess.PIPE, check=True
        ).stdout
        assert b"".join(read_content(store.content, layer, node.position)) == expected
        assert node.content == hashlib.sha256(expected).digest()
        assert node.size == len(expected)


def gunzip(path: Path) -> bytes:
    return subprocess.run(["gzip", "-dc", str(path)], stdout=subprocess.PIPE, check=True).stdout


def test_an_artifact_holds_no_files(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    blob = layout.put(b"{}", "application/vnd.in-toto+json")
    layout.add("sbom", [], manifest={"layers": [blob]})
    with refused("not-a-layer", "in-toto"):
        open_view(store, open_image(store, parse_place(f"oci:{layout.path}:sbom")))


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("size", [256 << 20, 2 << 30] if SOAK else [256 << 20])
def test_memory_does_not_grow_with_sizes(tmp_path: Path, size: int) -> None:
    """A layer whose blob is small: the program stays below 150 MB."""
    layout = Layout(tmp_path / "layout")
    packed = tmp_path / "big.tar"
    with packed.open("wb") as out:
        info, _ = entry("big")
        info.size = size
        out.write(info.tobuf())
        out.truncate(512 + size + 1024)
    subprocess.run(["gzip", "-1", str(packed)], check=True)
    blob = packed.with_name("big.tar.gz").read_bytes()
    layer = layout.put(blob, "application/vnd.oci.image.layer.v1.tar+gzip")
    layout.add("big", [], manifest={"layers": [layer]})
    command = ["--root", str(tmp_path / "store"), "ls", "-l", f"oci:{layout.path}:big"]
    done = subprocess.run(
        measuring(tmp_path / "peak", sys.executable, "-m", "arkwright", *command),
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(size) in done.stdout
    assert int((tmp_path / "peak").read_text()) < LIMIT_KB
