"""Package lists that a build attaches: of stages and the context when they ask for it, and by a generator image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from building import Builder, Context

STATUS = "Package: {0}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n"
DOCKERFILE = """\
{before}FROM busybox AS tools
{tools}COPY tools /var/lib/dpkg/status
RUN echo built > /built
FROM busybox AS unused
ARG BUILDKIT_SBOM_SCAN_STAGE=true
RUN exit 7
FROM tools AS alike
{alike}RUN true
FROM scratch
{last}COPY --from=alike /built /
COPY app /var/lib/dpkg/status
"""
# Lists the names of what it is given; the image's own first line says whether that can be read.
SCAN = """\
#!/bin/sh
set -e
list() {
  printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":[],"predicate":'
  printf '{"spdxVersion":"SPDX-2.3","name":"%s %s"}}' "$1" "$(head -n1 "$2/var/lib/dpkg/status" 2>/dev/null || echo none)"
}
list core "$BUILDKIT_SCAN_SOURCE" > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json"
[ -n "$BUILDKIT_SCAN_SOURCE_EXTRAS" ] || exit 0
for one in "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
  list "${one##*/}" "$one" > "$BUILDKIT_SCAN_DESTINATION/${one##*/}.spdx.json"
done
"""
POLICY = 'version = 1\n[images]\nallow = ["docker.io/library/busybox"]\n'
Lists = Callable[..., dict[str, Any]]


@pytest.fixture
def lists(builders: Callable[[str], Builder], context: Context) -> Lists:
    """Builds with a list of packages in the index; gives the lists by the names of their documents."""

    def made(*args: str, identity: str = "root", **places: str) -> dict[str, Any]:
        places = {"before": "", "tools": "", "alike": "", "last": "", **places}
        files = {
            "Dockerfile": DOCKERFILE.format(**places), "tools": STATUS.format("compiler"), "app": STATUS.format("app"),
            "scan": SCAN, "node_modules/left/package.json": '{"name":"left","version":"1"}',
        }  # fmt: skip
        builder = builders(identity)
        out = builder.home / "out.tar"
        out.unlink(missing_ok=True)
        builder.build(
            context(files), "--provenance=false", "--attest", "type=sbom,inline=true", *args,
            "-o", f"type=oci,dest={out}",
        )  # fmt: skip
        return documents(out)

    return made


def documents(path: Path) -> dict[str, Any]:
    """By name, the SPDX documents of the attestation manifest in an archive; all are of the image."""
    with tarfile.open(path) as archive:

        def read(digest: str) -> Any:
            member = archive.extractfile("blobs/" + digest.replace(":", "/"))
            assert member is not None
            return json.load(member)

        top = archive.extractfile("index.json")
        assert top is not None
        index = read(json.load(top)["manifests"][0]["digest"])
        (image,) = (one for one in index["manifests"] if one["platform"]["os"] != "unknown")
        (attached,) = (one for one in index["manifests"] if one["platform"]["os"] == "unknown")
        assert attached["annotations"]["vnd.docker.reference.digest"] == image["digest"]
        statements = [read(one["digest"]) for one in read(attached["digest"])["layers"]]
    for one in statements:
        assert one["predicateType"] == "https://spdx.dev/Document"
        assert one["subject"][0]["digest"] == {"sha256": image["digest"].partition(":")[2]}
    return {one["predicate"]["name"]: one["predicate"] for one in statements}


def names(document: Any) -> list[str]:
    return [one["name"] for one in document["packages"] if one["SPDXID"] != "SPDXRef-image"]


def own(found: dict[str, Any]) -> list[str]:
    """The names of the lists of other things than the image."""
    return sorted(name for name in found if name.startswith("sbom-"))


def test_without_a_wish_only_the_image(lists: Lists) -> None:
    found = lists()
    assert len(found) == 1
    assert names(*found.values()) == ["app"]


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_stage_that_asks_for_it(lists: Lists, identity: str) -> None:
    """One that the image does not need is not even built."""
    found = lists(tools="ARG BUILDKIT_SBOM_SCAN_STAGE=true\n", identity=identity)
    assert own(found) == ["sbom-tools"]
    assert names(found["sbom-tools"]) == ["compiler"]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("args", "places", "wanted"),
    [
        ((), {"before": "ARG BUILDKIT_SBOM_SCAN_STAGE=true\n"}, ["sbom-alike", "sbom-tools"]),
        ((), {"before": "ARG BUILDKIT_SBOM_SCAN_STAGE=alike,other\n"}, ["sbom-alike"]),
        ((), {"before": "ARG BUILDKIT_SBOM_SCAN_STAGE=1\n", "tools": "ARG BUILDKIT_SBOM_SCAN_STAGE=false\n"}, ["sbom-alike"]),
        (("--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=true"), {"alike": "ARG BUILDKIT_SBOM_SCAN_STAGE\n"}, ["sbom-alike"]),
        (("--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=0"), {"alike": "ARG BUILDKIT_SBOM_SCAN_STAGE=true\n"}, []),
        ((), {"last": "ARG BUILDKIT_SBOM_SCAN_STAGE=true\n"}, []),
        ((), {"last": "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n"}, ["sbom-context"]),
        ((), {"tools": "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n"}, []),
    ],
)  # fmt: skip
def test_where_it_may_be_said(
    lists: Lists, args: tuple[str, ...], places: dict[str, str], wanted: list[str]
) -> None:
    found = lists(*args, **places)
    assert own(found) == wanted
    if "sbom-context" in wanted:
        assert names(found["sbom-context"]) == ["left"]


def test_what_is_cached_is_listed_again(lists: Lists) -> None:
    first = lists(tools="ARG BUILDKIT_SBOM_SCAN_STAGE=true\n")
    assert lists(tools="ARG BUILDKIT_SBOM_SCAN_STAGE=true\n") == first


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_generator_lists_image_stages_and_context(
    lists: Lists, builders: Callable[[str], Builder], context: Context, identity: str
) -> None:
    builder = builders(identity)
    scanner = {"Dockerfile": 'FROM busybox\nCOPY --chmod=755 scan /\nENTRYPOINT ["/scan"]\n', "scan": SCAN}
    builder.build(context(scanner, "scanner"), "-t", "scanner")
    asked = {"before": "ARG BUILDKIT_SBOM_SCAN_STAGE=tools\n", "last": "ARG BUILDKIT_SBOM_SCAN_CONTEXT=1\n"}
    for _ in range(2):
        found = lists("--sbom=generator=scanner", identity=identity, **asked)
        assert sorted(found)[0] == "core Package: app"
        assert sorted(name.partition(" ")[0] for name in found) == ["core", "sbom-context", "sbom-tools"]
        assert {"sbom-tools Package: compiler", "sbom-context none"} < set(found)
    plain = lists("--attest", "type=sbom,generator=scanner", identity=identity)
    assert list(plain) == ["core Package: app"]


def test_a_generator_that_lies_fails_the_build(builders: Callable[[str], Builder], context: Context) -> None:
    builder = builders("root")
    scanner = {"Dockerfile": 'FROM busybox\nCMD ["/bin/sh", "-c", "echo {} > /run/out/sbom.spdx.json"]\n'}
    root = context(scanner, "scanner")
    builder.build(root, "-t", "scanner")
    refused = builder.run("build", "--sbom=generator=scanner", "-t", "app", str(root), status=1)
    assert "error[invalid-generator-output]" in refused.err


def test_a_policy_is_asked_for_the_generator(builders: Callable[[str], Builder], context: Context) -> None:
    builder = builders("root")
    root = context({"Dockerfile": 'FROM busybox\nCMD ["/bin/sh"]\n', "policy.toml": POLICY})
    builder.build(root, "-t", "scanner")
    args = ("build", "--policy", str(root / "policy.toml"), "--sbom=generator=scanner", str(root))
    refused = builder.run(*args, status=3)
    assert "error[policy-refused]" in refused.err
    assert "docker.io/library/scanner" in refused.err
