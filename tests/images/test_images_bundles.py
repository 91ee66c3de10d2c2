"""Bundles and manifests of trees, with umoci, runc and crun on the other side."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.images import mtree_read
from arkwright.images.mtree_read import Keywords, decode_name, encode_name, read_mtree
from arkwright.images.rootless import decode_owner, encode_owner
from building import Builder, Context, MakeBuilder

_SCRIPT = (
    "mkdir -p '/d/sp ace' && echo 1 > /d/file && ln /d/file /d/other && ln -s file /d/link && mkfifo /d/fifo"
    " && touch '/d/a\\nb' && chown 3:4 /d/file && chmod 4755 /d/file && chmod 1777 /d && echo g > /gone"
)


@pytest.fixture(scope="module")
def image(busybox_layout: Path) -> Iterator[Path]:
    """An archive of an image with all kinds of files, made by root."""
    scratch = Path(tempfile.mkdtemp(prefix="arkwright-bundles-"))
    scratch.chmod(0o755)
    builder = Builder(scratch, "root")
    builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    lines = [
        "FROM busybox",
        f"RUN {_SCRIPT}",
        'CMD ["sh"]',
        "LABEL l=1",
        "EXPOSE 80",
        "ENV E=1",
        "STOPSIGNAL SIGINT",
    ]
    (scratch / "Dockerfile").write_text("\n".join(lines))
    builder.build(scratch, "-t", "kinds:1")
    path = scratch / "kinds.tar"
    builder.run("save", "--format", "oci-archive", "-o", str(path), "kinds:1")
    path.chmod(0o644)
    yield path
    shutil.rmtree(scratch)


def _loaded(builder: Builder, image: Path) -> str:
    return builder.run("load", "-i", str(image)).out.split()[-1]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs-{name}: to exchange bundles with it")
    return found


def _call(builder: Builder, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [*builder.prefix, *words], env=builder.env, cwd=builder.home, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def _layout(image: Path, path: Path) -> str:
    path.mkdir()
    subprocess.run(["tar", "-xf", str(image), "-C", str(path)], check=True)
    return f"{path}:1"


def _paths(text: bytes) -> dict[str, Keywords]:
    with read_mtree(io.BytesIO(text)) as manifest:
        return dict(manifest)


def _tree(builder: Builder, image: str) -> dict[str, tuple[str | None, ...]]:
    wanted = ("type", "mode", "uid", "gid", "link", "sha256digest")
    paths = _paths(builder.run("mtree", image).out.encode())
    return {path: tuple(keywords.get(key) for key in wanted) for path, keywords in paths.items() if path}


@pytest.mark.parametrize("identity", ["root", "subids", "single", "sealed"])
def test_no_change_is_the_same_image(make_builder: MakeBuilder, image: Path, identity: str) -> None:
    builder = make_builder(identity)
    digest = _loaded(builder, image)
    builder.run("unpack", "kinds:1", "b")
    assert builder.run("repack", "b", "again:1").out == f"docker.io/library/again:1 {digest}\n"
    (builder.home / "b" / "rootfs" / "etc" / "hostname").unlink(missing_ok=True)
    target = builder.home / "b" / "rootfs"
    _call(builder, "sh", "-c", f"echo more > '{target}/new'; rm '{target}/gone'")
    second = builder.run("repack", "-q", "--refresh-bundle", "b", "more:1").out.strip()
    assert builder.run("repack", "-q", "b", "more:2").out.strip() == second
    before, after = _tree(builder, "kinds:1"), _tree(builder, "more:1")
    assert before.keys() - after.keys() == {"gone"}
    assert after.keys() - before.keys() == {"new"}
    assert {path: after[path] for path in before if path in after} == {
        p: before[p] for p in before if p in after
    }
    shown = msgspec.json.decode(builder.run("inspect", "more:1").out)
    assert builder.run("inspect", "--format", "history", "more:1").out.count("arkwright repack") == 1
    assert shown is not None


def test_what_everyone_repacks_is_equal(make_builder: MakeBuilder, image: Path) -> None:
    digests = set()
    for identity in ("root", "subids", "single"):
        builder = make_builder(identity)
        _loaded(builder, image)
        builder.run("unpack", "kinds:1", "b")
        _call(
            builder,
            "sh",
            "-c",
            "umask 022; echo new > b/rootfs/new; mkdir b/rootfs/etc/made; rm b/rootfs/gone",
        )
        digests.add(builder.run("repack", "-q", "b", "x:1").out)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("identity", "words"), [("root", ()), ("single", ("--rootless",)), ("root", ("--rootless",))]
)
def test_umoci_packs_our_bundle(
    make_builder: MakeBuilder, image: Path, identity: str, words: tuple[str, ...]
) -> None:
    umoci, builder = _tool("umoci"), make_builder(identity)
    _loaded(builder, image)
    builder.run("unpack", *words, "kinds:1", "b")
    _call(builder, "sh", "-c", "echo new > b/rootfs/new; rm b/rootfs/gone; echo 2 > b/rootfs/d/file")
    place = _layout(image, builder.home / "layout")
    subprocess.run(
        ["chown", "-R", str(builder.uid), str(builder.home)], check=True
    ) if identity == "single" else None
    _call(builder, umoci, "repack", "--image", place.replace(":1", ":2"), "b")
    ours = builder.run("repack", "-q", "b", "ours:1").out.strip()
    theirs = f"oci:{place.replace(':1', ':2')}"
    assert _tree(builder, theirs) == _tree(builder, ours)


@pytest.mark.parametrize(
    ("identity", "words"), [("root", ()), ("single", ("--rootless",)), ("root", ("--rootless",))]
)
def test_we_pack_the_bundle_of_umoci(
    make_builder: MakeBuilder, image: Path, identity: str, words: tuple[str, ...]
) -> None:
    umoci, builder = _tool("umoci"), make_builder(identity)
    place = _layout(image, builder.home / "layout")
    subprocess.run(["chown", "-R", str(builder.uid), str(builder.home)], check=True)
    _call(builder, umoci, "unpack", *words, "--image", place, "b")
    assert "missing-base" in builder.run("repack", "b", "x:1", status=1).err
    digest = builder.run("repack", "-q", "--image", f"oci:{place}", "b", "x:1").out.strip()
    assert digest == _loaded(builder, image)
    _call(builder, "sh", "-c", "echo new > b/rootfs/new; rm -r b/rootfs/d; ln -s new b/rootfs/link")
    builder.run("repack", "b", "x:2")
    _call(builder, umoci, "repack", "--image", place.replace(":1", ":2"), "b")
    assert _tree(builder, "x:2") == _tree(builder, f"oci:{place.replace(':1', ':2')}")


def test_our_manifest_is_that_of_umoci(make_builder: MakeBuilder, image: Path) -> None:
    umoci, builder = _tool("umoci"), make_builder("root")
    digest = _loaded(builder, image)
    _call(builder, umoci, "unpack", "--image", _layout(image, builder.home / "layout"), "theirs")
    builder.run("unpack", "kinds:1", "ours")
    name = f"{digest.replace(':', '_')}.mtree"
    texts = [(builder.home / kind / name).read_bytes() for kind in ("ours", "theirs")]
    assert all(read_mtree(io.BytesIO(text)).xattrs for text in texts)
    ours, theirs = map(_paths, texts)
    # The time of the root, of which no layer says anything, is each tool's own.
    assert ours.pop("").keys() == theirs.pop("").keys()
    assert ours == theirs
    for kind in ("ours", "theirs"):
        assert builder.run("mtree", "--verify", f"{kind}/{name}", f"{kind}/rootfs").out == ""


@pytest.mark.parametrize("identity", ["root", "subids", "single"])
@pytest.mark.parametrize("runtime", [["runc"], ["crun", "--cgroup-manager=disabled"]], ids=["runc", "crun"])
def test_a_bundle_runs(make_builder: MakeBuilder, image: Path, identity: str, runtime: list[str]) -> None:
    _tool(runtime[0])
    builder = make_builder(identity)
    _loaded(builder, image)
    builder.run("unpack", "kinds:1", "b")
    config_path = builder.home / "b" / "config.json"
    config = msgspec.json.decode(config_path.read_bytes())
    assert (
        config["annotations"] | {"l": "1", "org.opencontainers.image.stopSignal": "SIGINT"}
        == config["annotations"]
    )
    assert config["annotations"]["org.opencontainers.image.exposedPorts"] == "80/tcp"
    assert config["process"]["args"] == ["sh"]
    config["process"]["args"] = ["sh", "-c", "echo $E; id -u; ls -n /d/file; echo made > /made"]
    config_path.write_bytes(msgspec.json.encode(config))
    name = f"arkwright-{identity}-{os.getpid()}"
    if runtime[0] == "crun" and Path("/sys/fs/cgroup/unified").is_dir():
        pytest.skip("needs-cgroup2: crun refuses the hybrid mode of control groups that this host has")
    said = _call(builder, *runtime, "--root", str(builder.home / "state"), "run", "-b", "b", name).split()
    owner = ["0", "0"] if identity == "single" else ["3", "4"]
    assert said[:2] == ["1", "0"]
    assert said[4:6] == owner
    builder.run("repack", "b", "ran:1")
    assert _tree(builder, "ran:1")["made"][2:4] == ("0", "0")
    assert _tree(builder, "ran:1")["d/file"][2:4] == ("3", "4")


# --- Hostile bundles -------------------------------------------------------------------------


@pytest.fixture
def bundle(make_builder: MakeBuilder, image: Path) -> tuple[Builder, Path]:
    builder = make_builder("root")
    _loaded(builder, image)
    builder.run("unpack", "kinds:1", "b")
    return builder, builder.home / "b"


def _link_root(path: Path) -> None:
    (path / "rootfs").rename(path / "elsewhere")
    (path / "rootfs").symlink_to("/etc")


def _link_state(path: Path) -> None:
    (path / "umoci.json").rename(path / "state")
    (path / "umoci.json").symlink_to("state")


def _pipe_manifest(path: Path) -> None:
    manifest = next(path.glob("*.mtree"))
    manifest.unlink()
    os.mkfifo(manifest)


def _edit_state(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        document = msgspec.json.decode((path / "umoci.json").read_bytes())
        edit(document)
        (path / "umoci.json").write_bytes(msgspec.json.encode(document))

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_link_root, "not-a-bundle"),
        (_link_state, "not-a-bundle"),
        (_pipe_manifest, "not-a-bundle"),
        (lambda path: (path / "umoci.json").write_text("{"), "not-a-bundle"),
        (lambda path: (path / "umoci.json").write_text("[" * 100_000), "not-a-bundle"),
        (_edit_state(lambda state: state.update(umoci_version="9")), "not-a-bundle"),
        (_edit_state(lambda state: state["from_descriptor_path"]["descriptor_walk"][0].update(digest="../../x")), "not-a-bundle"),
        (_edit_state(lambda state: state["from_descriptor_path"]["descriptor_walk"][0].update(digest="sha256:" + "0" * 64)), "missing-base"),
        (lambda path: next(path.glob("*.mtree")).write_text(". type=dir\n    a/../../b type=file\n"), "invalid-mtree"),
        (lambda path: shutil.rmtree(path / "rootfs"), "not-a-bundle"),
    ],
)  # fmt: skip
def test_a_bundle_that_was_tampered_with(
    bundle: tuple[Builder, Path], change: Callable[[Path], object], code: str
) -> None:
    builder, path = bundle
    change(path)
    assert code in builder.run("repack", "b", "x:1", status=1).err
    assert "unknown-image" in builder.run("inspect", "x:1", status=1).err


def test_links_out_of_a_bundle_are_packed_as_links(bundle: tuple[Builder, Path]) -> None:
    builder, path = bundle
    (path / "rootfs" / "out").symlink_to("/etc/passwd")
    shutil.rmtree(path / "rootfs" / "d")
    (path / "rootfs" / "d").symlink_to("/etc")
    builder.run("repack", "b", "x:1")
    tree = _tree(builder, "x:1")
    assert (tree["out"][0], tree["out"][4]) == ("link", "/etc/passwd")
    assert (tree["d"][0], tree["d"][4]) == ("link", "/etc")
    assert not any(name.startswith("d/") for name in tree)


def test_a_bundle_needs_a_place_of_its_own(bundle: tuple[Builder, Path]) -> None:
    builder, path = bundle
    assert "directory-not-empty" in builder.run("unpack", "kinds:1", "b", status=1).err
    (builder.home / "empty").mkdir()
    (builder.home / "link").symlink_to("empty")
    assert "directory-not-empty" in builder.run("unpack", "kinds:1", "link", status=1).err
    assert path.stat().st_mode & 0o777 == 0o700


# --- Manifests -------------------------------------------------------------------------------


def test_verify_says_what_differs(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("sealed")
    tree = context({"a": "1", "b": "2", "sub/c": "3", "same": "4"}, "tree")
    (builder.home / "m").write_text(builder.run("mtree", str(tree)).out)
    os.chown(builder.home / "m", builder.uid, builder.uid)
    assert builder.run("mtree", "--verify", "m", str(tree)).out == ""
    status = (tree / "a").stat()
    (tree / "a").write_text("9")
    os.utime(tree / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tree / "b").chmod(0o600)
    times = (tree / "sub").stat().st_mtime_ns
    (tree / "sub" / "c").unlink()
    (tree / "sub" / "d").write_text("5")
    os.utime(tree / "sub", ns=(times, times))
    (tree / "b").chmod(0o604)
    found = msgspec.json.decode(builder.run("mtree", "--json", "--verify", "m", str(tree), status=1).out)
    assert [(one["path"], one["kind"], sorted(one["keywords"])) for one in found] == [
        ("a", "changed", ["sha256digest"]), ("b", "changed", ["mode"]), ("sub/c", "missing", []), ("sub/d", "extra", []),
    ]  # fmt: skip
    assert "invalid-mtree" in builder.run("mtree", "--verify", "nowhere", str(tree), status=1).err


def test_manifests_of_other_writers() -> None:
    """mtree(5): full paths, /unset, continued lines, escapes of vis(3)."""
    text = b"""#mtree
/set type=file uid=0 \\
    mode=0644
. type=dir
./full/path size=3
/unset uid
a\\sb\\043 size=4 optional
dir type=dir
    inner
..
after
"""
    found = _paths(text)
    assert found["full/path"] == {"type": "file", "uid": "0", "mode": "0644", "size": "3"}
    assert found["a b#"] == {"type": "file", "mode": "0644", "size": "4", "optional": ""}
    assert found.keys() == {"", "full/path", "a b#", "dir", "dir/inner", "after"}
    for bad in (b". type=dir\n. type=dir\n", b"a\\000b\n", b"./a//b\n", b"a " + b"x" * (5 << 20)):
        with pytest.raises(UserError) as caught:
            _paths(bad)
        assert caught.value.code == "invalid-mtree"


NAMES = st.text(st.sampled_from("ab-.é/"), min_size=1, max_size=6).filter(
    lambda path: not {"", ".", ".."} & set(path.split("/"))
)


@given(st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=30), st.integers(1, 2000))
def test_a_manifest_is_sorted_in_whatever_order_it_comes(lines: list[tuple[str, int]], held: int) -> None:
    text = "".join(f"./{path}/ size={size} mark\n" for path, size in lines).encode()
    wanted = {path: {"size": str(size), "mark": ""} for path, size in lines}
    with pytest.MonkeyPatch.context() as patch:
        # So little memory that most of it waits in the file.
        patch.setattr(mtree_read, "_HELD", held)
        with read_mtree(io.BytesIO(text)) as manifest:
            found = list(manifest)
            assert list(manifest) == found
    assert found == sorted(wanted.items(), key=lambda one: [os.fsencode(part) for part in one[0].split("/")])


def test_a_manifest_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtree_read, "MAX_PATHS", 100)
    monkeypatch.setattr(mtree_read, "_LIMIT", 10_000)
    for text in (
        b"".join(b"%d\n" % number for number in range(101)),
        b"/set a=" + b"x" * 1000 + b"\n" + b"".join(b"%d\n" % number for number in range(50)),
    ):
        with pytest.raises(UserError) as caught:
            _paths(text)
        assert caught.value.code == "invalid-mtree"


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_names_survive(raw: bytes) -> None:
    name = os.fsdecode(raw)
    written = encode_name(name)
    assert written.isascii()
    assert not {" ", "\n", "#", "\\"} & set(written.replace("\\", ""))
    assert decode_name(written) == name


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2))
def test_owners_survive(uid: int, gid: int) -> None:
    assert decode_owner(encode_owner(uid, gid)) == (uid, gid)


@given(st.binary(max_size=30))
def test_any_bytes_are_an_owner(raw: bytes) -> None:
    uid, gid = decode_owner(raw)
    assert 0 <= uid < 2**32
    assert 0 <= gid < 2**32


def test_an_owner_as_protobuf_has_it() -> None:
    assert encode_owner(3, 4) == bytes([0x08, 3, 0x10, 4])
    assert encode_owner(1000, 0) == bytes([0x08, 0xE8, 0x07])
