"""Looking at images in Debian's docker-registry: what is fetched, and what skopeo says of the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from registry_images import needs

from arkwright.images.describe import Referrer, describe_image
from arkwright.images.opened import open_documents, open_image, open_view
from arkwright.images.places import parse_place
from arkwright.images.validate import validate_place
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform, host_platform
from arkwright.registry.client import open_registries
from arkwright.registry.push import push_image
from arkwright.store.store import Store
from looking import Layout, digest_of, entry, tar
from loopback_server import open_access

OTHER = "s390x" if host_platform().architecture != "s390x" else "amd64"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYERS = {"here": tar(entry("here", b"here")), "there": tar(entry("there", b"there"))}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def put_index(layout: Layout, tag: str, *architectures: str) -> dict[str, Any]:
    children = []
    for architecture in architectures:
        name = "here" if architecture == host_platform().architecture else "there"
        child = layout.add(
            "", [LAYERS[name]], config={"architecture": architecture, "config": {"Labels": {"at": name}}}
        )
        children.append({**child, "platform": {"os": "linux", "architecture": architecture}})
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
    layout._entries.clear()
    return layout.name(tag, layout.put(json.dumps(document).encode(), INDEX))


@pytest.fixture
def send(layout: Layout, plain_registry: str) -> Callable[[str], str]:
    """`send(tag)`: an image of the layout goes to the registry; its place there."""
    needs("skopeo")

    def run(tag: str) -> str:
        target = f"docker://{plain_registry}/look/{tag}:v1"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:{tag}", target],
            check=True, capture_output=True,
        )  # fmt: skip
        return target

    return run


def has_layers(store: Store) -> Iterator[str]:
    for name, data in LAYERS.items():
        for digest in store.content.digests():
            blob = store.content.read(digest)
            if (
                blob[:2] == b"\x1f\x8b"
                and subprocess.run(["gzip", "-dc"], input=blob, stdout=subprocess.PIPE, check=True).stdout
                == data
            ):
                yield name


def test_documents_come_without_layers(store: Store, layout: Layout, send: Callable[[str], str]) -> None:
    root = put_index(layout, "both", OTHER, host_platform().architecture)
    place = send("both")
    theirs = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", place], check=True, stdout=subprocess.PIPE
        ).stdout
    )
    with open_access() as access:
        image = open_documents(store, parse_place(place), access=access)
        details = describe_image(store, image, access=access)
        other = describe_image(
            store,
            open_documents(store, parse_place(place), Platform("linux", OTHER), access=access),
            access=access,
        )
    assert list(has_layers(store)) == []
    assert details.digest == root["digest"] == theirs["Digest"]
    assert [layer.digest for layer in details.layers] == theirs["Layers"]
    assert details.config["config"]["Labels"] == theirs["Labels"] == {"at": "here"}
    assert set(details.platforms) == {f"linux/{OTHER}", f"linux/{host_platform().architecture}"}
    assert details.index is not None and other.config["architecture"] == OTHER
    assert details.referrers == ()


def test_only_the_chosen_image_is_fetched(store: Store, layout: Layout, send: Callable[[str], str]) -> None:
    put_index(layout, "pair", OTHER, host_platform().architecture)
    place = parse_place(send("pair"))
    with open_access() as access:
        found = open_view(store, open_image(store, place, access=access))
        assert list(found.root.children) == ["here"]
        assert list(has_layers(store)) == ["here"]
        assert validate_place(store, place, access=access).findings == ()
        assert list(has_layers(store)) == ["here"]
        whole = validate_place(store, place, all_platforms=True, access=access)
    assert (whole.findings, whole.documents, whole.layers) == ((), 5, 2)


def test_the_first_image_where_there_is_none_for_this_host(
    store: Store, layout: Layout, send: Callable[[str], str]
) -> None:
    put_index(layout, "foreign", OTHER)
    place = parse_place(send("foreign"))
    with open_access() as access:
        assert open_documents(store, place, access=access).config["architecture"] == OTHER
        assert list(open_view(store, open_image(store, place, access=access)).root.children) == ["there"]


def test_referrers_of_a_registry_that_does_not_know_them(
    store: Store, layout: Layout, send: Callable[[str], str], plain_registry: str
) -> None:
    """docker-registry has no referrers API: the list stands under a tag made of the digest."""
    image = layout.add("signed", [LAYERS["here"]])
    place = parse_place(send("signed"))
    assert place.reference is not None
    empty = layout.put(b"{}", "application/vnd.oci.empty.v1+json")
    document = {
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.signature", "config": empty,
        "layers": [empty], "subject": image, "annotations": {"a": "b"},
    }  # fmt: skip
    artifact = layout.put(json.dumps(document).encode(), MANIFEST)
    entry_fields = {**artifact, "artifactType": document["artifactType"], "annotations": {"a": "b"}}
    listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry_fields]}
    with open_access() as access:
        for made in (empty, artifact):
            store.content.write(layout.blob(made["digest"]).read_bytes())
        sent = Descriptor(media_type=MANIFEST, digest=artifact["digest"], size=artifact["size"])
        push_image(
            sent, msgspec.structs.replace(place.reference, tag="artifact"), store.content, access=access
        )
        registry = open_registries(access, place.reference, push=True)[0]
        registry.put_manifest(image["digest"].replace(":", "-"), INDEX, json.dumps(listed).encode())
        details = describe_image(store, open_documents(store, place, access=access), access=access)
    assert details.referrers == (
        Referrer(
            digest=artifact["digest"], media_type=MANIFEST, artifact_type="application/vnd.example.signature",
            size=artifact["size"], subject=image["digest"], annotations={"a": "b"},
        ),
    )  # fmt: skip


def test_the_program_looks_into_a_registry(
    tmp_path: Path, layout: Layout, send: Callable[[str], str]
) -> None:
    layout.add("program", [LAYERS["here"], tar(entry("more", b"more"))])
    place = send("program")

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "arkwright", "--root", str(tmp_path / "s"), *args],
            capture_output=True, text=True, check=False, timeout=120, env={"PATH": "/usr/bin:/bin", "ARKWRIGHT_GC": "off"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("cat", place, "more") == "more"
    assert run("ls", place).split() == ["here", "more"]
    assert run("inspect", "--format", "layers.0.diff_id", place) == digest_of(LAYERS["here"]) + "\n"
    assert run("inspect", "--format", "place", place) == place + "\n"
    assert "valid" in run("validate", place)
    assert run("diff", place, f"oci:{layout.path}:program") == ""
