"""Other programs against `serve registry`: skopeo, buildah and podman push to it and pull from it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_images import AMD64, ARM64, PASSWORD, USER, Authority, image, index, needs
from serving import Serving, htpasswd, tool

from arkwright.oci.reference import parse_reference
from arkwright.registry.push import push_image
from arkwright.store.store import Store
from building import Builder
from loopback_server import open_access

SKOPEO = ("skopeo", "--insecure-policy")


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    path = Path(tempfile.mkdtemp(prefix="arkwright-serve-"))
    path.chmod(0o755)
    with Serving(Builder(path, "root")) as made:
        yield made
        assert made.stop() == 0
        assert made.said == []
    shutil.rmtree(path)


@pytest.fixture
def busybox(serving: Serving) -> str:
    """The digest of busybox in the served store."""
    serving.builder.run("bootstrap", "busybox")
    return serving.builder.run("inspect", "--format", "digest", "busybox").out.strip()


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo(serving: Serving, busybox: str, tmp_path: Path, form: str) -> None:
    needs("skopeo")
    at = f"docker://{serving.host}"
    tool(*SKOPEO, "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", form,
         f"{at}/busybox", f"{at}/skopeo/{form}:1")  # fmt: skip
    found = json.loads(tool(*SKOPEO, "inspect", "--tls-verify=false", f"{at}/skopeo/{form}:1").stdout)
    assert found["RepoTags"] == ["1"] and (found["Digest"] == busybox) == (form == "oci")
    assert (
        serving.builder.run("inspect", "--format", "digest", f"skopeo/{form}:1").out.strip()
        == found["Digest"]
    )
    tool(
        *SKOPEO,
        "copy",
        "--src-tls-verify=false",
        f"{at}/skopeo/{form}@{found['Digest']}",
        f"dir:{tmp_path}/dir",
    )
    tool(*SKOPEO, "copy", "--dest-tls-verify=false", f"dir:{tmp_path}/dir", f"{at}/skopeo/back-{form}:1")
    assert (
        serving.builder.run("inspect", "--format", "digest", f"skopeo/back-{form}:1").out.strip()
        == found["Digest"]
    )
    tool(*SKOPEO, "delete", "--tls-verify=false", f"{at}/skopeo/{form}:1")
    assert f"skopeo/{form}:1" not in serving.builder.run("images").out
    tags = json.loads(tool(*SKOPEO, "list-tags", "--tls-verify=false", f"{at}/skopeo/back-{form}").stdout)
    assert tags["Tags"] == ["1"]


def test_skopeo_copies_all_platforms(serving: Serving, tmp_path: Path) -> None:
    needs("skopeo")
    with Store.open(str(tmp_path / "store")) as store, open_access() as access:
        root = index(
            store.content.write, *(image(store.content.write, f"all {p}", p) for p in (AMD64, ARM64))
        )
        push_image(root, parse_reference(f"{serving.host}/platforms:all"), store.content, access=access)
    at = f"docker://{serving.host}/platforms"
    tool(*SKOPEO, "copy", "--all", "--src-tls-verify=false", f"{at}:all", f"oci:{tmp_path}/layout:all")
    tool(*SKOPEO, "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:all", f"{at}:again")
    tool(*SKOPEO, "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:all", f"{at}-new:1")
    listed = serving.builder.run("images", "--json").out
    found = {one["name"]: one["digest"] for one in json.loads(listed) if "platforms" in one["name"]}
    assert found == {
        f"docker.io/library/platforms{name}": root.digest for name in (":all", ":again", "-new:1")
    }


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_engines_pull_and_push(serving: Serving, busybox: str, tmp_path: Path, engine: str) -> None:
    needs(engine)
    # Their run root may have 50 characters.
    with tempfile.TemporaryDirectory(prefix="arkwright-", dir="/tmp") as run_path:
        program = (engine, "--root", str(tmp_path / "root"), "--runroot", run_path, "--storage-driver", "vfs")
        at = f"{serving.host}/busybox"
        tool(*program, "pull", "--tls-verify=false", at)
        tool(*program, "tag", at, f"{serving.host}/engines/{engine}:1")
        tool(*program, "push", "--tls-verify=false", f"{serving.host}/engines/{engine}:1")
        tool(*program, "rmi", "--all", "--force")
        tool(*program, "pull", "--tls-verify=false", f"{serving.host}/engines/{engine}:1")
    assert (
        serving.builder.run("run", f"engines/{engine}:1", "echo", "it runs").out.strip().endswith("it runs")
    )


def test_skopeo_with_tls_and_a_password(authority: Authority, busybox_tar: Path, tmp_path: Path) -> None:
    needs("skopeo")
    scratch = Path(tempfile.mkdtemp(prefix="arkwright-serve-"))
    options = ("--auth-file", str(htpasswd(scratch / "htpasswd")), "--tls-cert", str(authority.certificate_path),
               "--tls-key", str(authority.key_path))  # fmt: skip
    with Serving(Builder(scratch, "root"), *options) as serving:
        certs = tmp_path / "certs"
        certs.mkdir()
        shutil.copy(authority.ca_path, certs / "ca.crt")
        at = f"docker://{serving.host}/guarded:1"
        creds = f"{USER}:{PASSWORD}"
        tool(
            *SKOPEO,
            "copy",
            "--dest-cert-dir",
            str(certs),
            "--dest-creds",
            creds,
            f"oci-archive:{busybox_tar}",
            at,
        )
        tool(*SKOPEO, "copy", "--src-cert-dir", str(certs), "--src-creds", creds, at, f"dir:{tmp_path}/dir")
        with pytest.raises(AssertionError, match=r"unauthorized|user and password"):
            tool(*SKOPEO, "inspect", "--cert-dir", str(certs), "--creds", f"{USER}:wrong", at)
    shutil.rmtree(scratch)


@pytest.fixture
def busybox_tar(busybox_layout: Path) -> Path:
    return busybox_layout.parent / "busybox.tar"
