from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys

import pytest
from layer_trees import change, snapshot, tar_of, whiteout, write

from arkwright.layer.apply import apply
from arkwright.layer.codec import decompress
from arkwright.layer.diff import diff
from arkwright.layer.export import export_layer
from arkwright.layer.profile import PROFILES, media_type, profile_for
from arkwright.layer.rooted import Root
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.store.content import ContentStore
from arkwright.store.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    yield store
    store.close()


@pytest.fixture
def tree(tmp_path):
    top = str(tmp_path / "tree")
    write(f"{top}/bin/sh", b"\x7fELF" * 5000, 0o755)
    write(f"{top}/etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    write(f"{top}/{'l' * 120}/{'n' * 120}", b"long")
    os.link(f"{top}/etc/passwd", f"{top}/etc/passwd-")
    os.symlink("bin/sh", f"{top}/shell")
    os.chmod(f"{top}/bin/sh", 0o4755)
    os.setxattr(f"{top}/bin/sh", "user.note", b"\0\xff")
    os.chmod(top, 0o755)
    return top


def _export(tree: str, content: ContentStore, codec: str) -> tuple[str, Descriptor]:
    with Root(tree) as root:
        return export_layer(diff(None, root), content, profile_for(codec))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "none"])
def test_digests_say_what_the_blob_holds(store, tree, codec):
    diff_id, descriptor = _export(tree, store.content, codec)
    blob = store.content.read(descriptor.digest)
    assert descriptor.size == len(blob)
    assert descriptor.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert (
        descriptor.media_type == media_type(profile_for(codec))
        and layer_codec(descriptor.media_type) == codec
    )
    with decompress(io.BytesIO(blob), codec) as tar:
        data = tar.read()
    assert diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    with Root(tree) as root:
        assert data == tar_of(diff(None, root))


def test_the_same_tree_gives_the_same_layer_at_any_time_and_place(store, tree, tmp_path):
    first = _export(tree, store.content, "gzip")
    copy = str(tmp_path / "elsewhere")
    subprocess.run(["cp", "-a", tree, copy], check=True)
    subprocess.run(["find", copy, "-exec", "touch", "-h", "-d", "@1234567890", "{}", "+"], check=True)
    assert _export(copy, store.content, "gzip") == first


def test_an_unpacked_layer_exports_to_the_same_bytes(store, tree, tmp_path):
    diff_id, descriptor = _export(tree, store.content, "zstd")
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o755)
    with Root(str(copy)) as root:
        with store.content.open(descriptor.digest) as blob, decompress(blob, "zstd") as tar:
            apply(tar, root)
    assert snapshot(str(copy)) == snapshot(tree)
    assert _export(str(copy), store.content, "zstd") == (diff_id, descriptor)


def test_a_failing_export_leaves_no_blob(store):
    def changes():
        yield change("a", data=b"x")
        raise RuntimeError("torn")

    with pytest.raises(RuntimeError):
        export_layer(changes(), store.content, PROFILES["isal"])
    assert list(store.content.digests()) == []


def _layout(path: str, content: ContentStore, layers: list[tuple[str, Descriptor]]) -> None:
    """A minimal OCI image layout."""
    os.makedirs(f"{path}/blobs/sha256")

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{path}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    rows = [{"mediaType": found.media_type, **blob(content.read(found.digest))} for _, found in layers]
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
        "history": [{} for _ in layers],
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": media.MANIFEST, "layers": rows,
        "config": {"mediaType": media.CONFIG, **blob(json.dumps(config).encode())},
    }  # fmt: skip
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": media.MANIFEST, **blob(json.dumps(manifest).encode()),
                "annotations": {media.REF_NAME: "test"},
                "platform": {"architecture": "amd64", "os": "linux"},
            }
        ],
    }  # fmt: skip
    for name, document in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
        with open(f"{path}/{name}", "w") as file:
            json.dump(document, file)


def test_umoci_and_skopeo_take_our_layers(store, tree, tmp_path, tool, as_root):
    base = _export(tree, store.content, "gzip")
    upper = export_layer(
        [
            change("bin", "dir"),
            change("bin/sh", data=b"new", mode=0o755, xattrs=(("user.k", b"v"),)),
            change("etc", "dir", mode=0o711, uid=5),
            whiteout("etc/passwd"),
            change("etc/new", "symlink", link="passwd-"),
            change("null", "char", major=1, minor=3, mode=0o666),
            whiteout("shell"),
        ],
        store.content,
        profile_for("gzip"),
    )
    layout = str(tmp_path / "layout")
    _layout(layout, store.content, [base, upper])
    copied = f"oci:{tmp_path}/copied:test"
    subprocess.run([tool("skopeo"), "copy", "--quiet", f"oci:{layout}:test", copied], check=True)
    subprocess.run(
        [tool("umoci"), "unpack", "--image", f"{tmp_path}/copied:test", str(tmp_path / "bundle")],
        check=True,
        capture_output=True,
    )
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o755)
    with Root(str(ours)) as root:
        for _, descriptor in (base, upper):
            with store.content.open(descriptor.digest) as blob, decompress(blob, "gzip") as tar:
                apply(tar, root)
    theirs = snapshot(str(tmp_path / "bundle/rootfs"))
    mine = snapshot(str(ours))
    # umoci leaves the root's own mode to its umask.
    del theirs[""], mine[""]
    assert theirs == mine
    assert "etc/passwd" not in mine and mine["etc"][:3] == ("dir", "0o711", 5)


IN_NAMESPACE = """
import io, os, sys
from arkwright.layer.apply import apply
from arkwright.layer.diff import diff
from arkwright.layer.rooted import Root
from arkwright.layer.tar_write import write_tar
os.mkdir("tree", 0o755)
with Root("tree") as root:
    apply(sys.stdin.buffer, root)
    write_tar(diff(None, root), sys.stdout.buffer.write)
"""


def test_a_user_namespace_writes_the_same_layer_as_root(open_path, tool, as_root):
    """Capabilities get a root id there, devices become records; the layer shows neither."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    data = tar_of(
        [
            change("dev", "dir"),
            change("dev/null", "char", major=1, minor=3, mode=0o666),
            change("ping", data=b"\x7fELF", mode=0o755, xattrs=(("security.capability", capability),)),
            change("secret", "dir", mode=0),
            change("secret/file", data=b"x", mode=0),
        ]
    )
    command = [sys.executable, "-c", IN_NAMESPACE]
    namespace = [
        tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups",
        tool("unshare"), "--user", "--map-root-user",
    ]  # fmt: skip
    results = []
    for prefix in ([], namespace):
        where = f"{open_path}/{len(prefix)}"
        os.mkdir(where)
        os.chmod(where, 0o777)
        done = subprocess.run([*prefix, *command], input=data, capture_output=True, cwd=where)
        if prefix and done.returncode and b"unshare" in done.stderr:
            pytest.skip("needs-userns: the kernel refuses user namespaces")
        assert done.returncode == 0, done.stderr.decode()
        results.append(done.stdout)
    assert results == [data, data]
    # It really was another form there.
    stored = os.getxattr(f"{open_path}/{len(namespace)}/tree/ping", "security.capability")
    assert stored[3] == 3 and os.path.isfile(f"{open_path}/{len(namespace)}/tree/dev/null")
