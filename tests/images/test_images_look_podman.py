"""Images in podman's own store: looked at where they are, and podman's word on their history."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from arkwright.images.describe import describe_image
from arkwright.images.opened import open_documents, open_image, open_view
from arkwright.images.places import parse_place
from arkwright.images.validate import validate_place
from arkwright.store.store import Store
from looking import Layout, digest_of, entry, folder, gone, hardlink, symlink, tar, tree_of

LAYERS = [
    tar(folder("etc"), entry("etc/a", b"a"), symlink("l", "etc/a"), entry("x", b"x" * 100, mode=0o4755)),
    tar(gone("etc/a"), entry("etc/b", b"b"), hardlink("etc/h", "etc/b")),
]
HISTORY = [{"created_by": "ADD x"}, {"created_by": "ENV A=1", "empty_layer": True}, {"created_by": "RUN y"}]


def test_an_image_of_podman(store: Store, tmp_path: Path, podman: Callable[..., str]) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add("localhost/app:1", LAYERS, config={"history": HISTORY})
    archive = tmp_path / "app.tar"
    subprocess.run(["/usr/bin/tar", "-C", str(layout.path), "-cf", str(archive), "."], check=True)
    podman("load", "-i", str(archive))
    place = parse_place("containers-storage:localhost/app:1")
    here = parse_place(f"oci:{layout.path}")
    assert tree_of(open_view(store, open_image(store, place))) == tree_of(
        open_view(store, open_image(store, here))
    )
    details = describe_image(store, open_documents(store, place))
    theirs = json.loads(podman("history", "--format", "json", "localhost/app:1"))
    assert [line["CreatedBy"] for line in reversed(theirs)] == [line.created_by for line in details.history]
    assert [layer.diff_id for layer in details.layers] == [digest_of(one) for one in LAYERS]
    (image,) = json.loads(podman("image", "inspect", "localhost/app:1"))
    assert image["RootFS"]["Layers"] == [layer.diff_id for layer in details.layers]
    assert validate_place(store, place).findings == ()
