"""Bills of materials of real packages; dpkg, Python's own metadata and the formats' own libraries judge."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from building import Builder

# The form is that of deb-copyright, version 1.0.
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2024 somebody
License: GPL-2

License: GPL-2
 The text: not a name.
License: BSD-3-Clause
"""


POM = """\
<project><name>The app</name>
 <organization><name>X &amp; Y</name></organization>
 <licenses>
  <license><name>EPL-2.0</name><url>https://x.example/epl</url></license>
 </licenses>
</project>
"""


@pytest.fixture(scope="module")
def materials() -> Iterator[tuple[Builder, Path]]:
    """An image of this machine's package databases, and of one package of each language."""
    at = Path(tempfile.mkdtemp(prefix="arkwright-sbom-"))
    at.chmod(0o755)
    context = at / "context"
    system = context / "root"
    for path in ("var/lib/dpkg/status", "etc/os-release"):
        (system / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"/{path}", system / path)
    info = system / "var/lib/dpkg/info"
    info.mkdir()
    for one in Path("/var/lib/dpkg/info").glob("*.list"):
        shutil.copy(one, info)
    copyright = system / "usr/share/doc/busybox-static/copyright"
    copyright.parent.mkdir(parents=True)
    copyright.write_text(COPYRIGHT)
    packages = context / "python/usr/lib/python3/dist-packages"
    for one in Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info"):
        (packages / one.name).mkdir(parents=True)
        for name in ("METADATA", "RECORD"):
            if (one / name).exists():
                shutil.copy(one / name, packages / one.name)
    others(context / "others")
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY root /\nCOPY python /\nCOPY others /\nCOPY --chmod=755 parser.so /usr/lib/parser.so\n"
        "COPY removed /gone/node_modules/removed\nFROM scratch\nCOPY --from=0 / /\n"
        "COPY broken /usr/node_modules/broken\n"
    )
    dockerfile = pytest.importorskip(
        "dockerfile", reason="needs-dockerfile: a program of Go with its modules"
    )
    shutil.copy(dockerfile.__file__, context / "parser.so")
    for name, text in (("removed", '{"name":"removed","version":"1"}'), ("broken", "{")):
        (context / name).mkdir()
        (context / name / "package.json").write_text(text)
    subprocess.run(["chmod", "-R", "a+rX", str(context)], check=True)
    builder = Builder(at, "root")
    builder.build(context, "-t", "app")
    yield builder, at
    shutil.rmtree(at)


def needs(name: str) -> str:
    """The path of a program; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs-{name}: it is not on PATH")
    return found


def others(at: Path) -> None:
    """Packages in the forms that the languages' own documentation gives."""
    files = {
        "srv/node_modules/@scope/thing/package.json": {
            "name": "@scope/thing", "version": "1.2.3", "license": "MIT", "author": {"name": "A", "email": "a@b.c"},
        },
        "srv/vendor/composer/installed.json": {
            "packages": [{"name": "vendor/library", "version": "v2.0", "license": ["BSD-3-Clause"]}]
        },
    }  # fmt: skip
    for path, fields in files.items():
        (at / path).parent.mkdir(parents=True)
        (at / path).write_text(json.dumps(fields))
    gem = at / "var/lib/gems/specifications/rake-13.0.6.gemspec"
    gem.parent.mkdir(parents=True)
    gem.write_text(
        'Gem::Specification.new do |s|\n  s.name = "rake".freeze\n  s.version = "13.0.6"\n'
        '  s.licenses = ["MIT".freeze]\nend\n'
    )
    apk = at / "lib/apk/db/installed"
    apk.parent.mkdir(parents=True)
    apk.write_text(
        "C:Q1x=\nP:musl\nV:1.2.3-r4\nA:x86_64\nL:MIT\no:musl\nm:M <m@x>\nF:lib\nR:ld-musl.so.1\nZ:Q1\n\n"
    )
    jar = at / "opt/app.jar"
    jar.parent.mkdir(parents=True)
    inner = at / "inner.jar"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(
            "META-INF/MANIFEST.MF",
            "Manifest-Version: 1.0\r\nImplementation-Title: inner\r\nImplementation-Version: 7\r\n",
        )
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr(
            "META-INF/maven/org.x/app/pom.properties", "groupId=org.x\nartifactId=app\nversion=3.1\n"
        )
        archive.writestr("META-INF/maven/org.x/app/pom.xml", POM)
        archive.write(inner, "BOOT-INF/lib/inner.jar")
    inner.unlink()


def sbom(materials: tuple[Builder, Path], form: str, *args: str) -> Any:
    return json.loads(materials[0].run("sbom", "--format", form, *args, "app").out)


def purls(document: Any) -> dict[str, list[dict[str, Any]]]:
    """CycloneDX components by type of purl."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in document["components"]:
        if "purl" in one:
            found.setdefault(one["purl"].removeprefix("pkg:").partition("/")[0], []).append(one)
    return found


def test_dpkg_agrees(materials: tuple[Builder, Path]) -> None:
    needs("dpkg-query")
    form = "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"
    lines = subprocess.run(
        ["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True
    ).stdout
    wanted = {tuple(line.split()[1:]) for line in lines.splitlines() if line.startswith("installed ")}
    found = {
        (one["name"], one["version"], one["purl"].partition("arch=")[2].partition("&")[0])
        for one in purls(sbom(materials, "cyclonedx-json"))["deb"]
    }
    assert found == wanted
    busybox = next(
        one for one in purls(sbom(materials, "cyclonedx-json"))["deb"] if one["name"] == "busybox-static"
    )
    listed = subprocess.run(
        ["dpkg-query", "-L", "busybox-static"], capture_output=True, text=True, check=True
    )
    owned = {one["location"] for one in busybox["evidence"]["occurrences"]}
    assert owned == set(listed.stdout.splitlines()) - {"/."}
    assert busybox["licenses"] == [{"license": {"id": "BSD-3-Clause"}}, {"license": {"name": "GPL-2"}}]


def test_python_agrees(materials: tuple[Builder, Path]) -> None:
    purelib = sysconfig.get_paths()["purelib"]
    wanted = {
        (one.metadata["Name"].lower().replace("_", "-").replace(".", "-"), one.version)
        for one in importlib.metadata.distributions(path=[purelib])
    }
    found = {(one["name"], one["version"]) for one in purls(sbom(materials, "cyclonedx-json"))["pypi"]}
    assert found == wanted


@pytest.mark.parametrize(
    ("kind", "purl", "licence"),
    [
        ("npm", "pkg:npm/%40scope/thing@1.2.3", "MIT"),
        ("composer", "pkg:composer/vendor/library@v2.0", "BSD-3-Clause"),
        ("gem", "pkg:gem/rake@13.0.6", "MIT"),
        ("maven", "pkg:maven/org.x/app@3.1", "EPL-2.0"),
        ("maven", "pkg:maven/inner@7", ""),
    ],
)
def test_languages(materials: tuple[Builder, Path], kind: str, purl: str, licence: str) -> None:
    found = {one["purl"]: one for one in purls(sbom(materials, "cyclonedx-json"))[kind]}
    assert purl in found
    if licence:
        assert found[purl]["licenses"] == [{"license": {"id": licence}}]


def test_alpine(materials: tuple[Builder, Path]) -> None:
    (musl,) = purls(sbom(materials, "cyclonedx-json"))["apk"]
    assert musl["purl"].partition("?")[0].endswith("/musl@1.2.3-r4")
    assert musl["evidence"]["occurrences"] == [{"location": "/lib/ld-musl.so.1"}]


def test_a_go_program_tells_its_modules(materials: tuple[Builder, Path]) -> None:
    found = {one["purl"] for one in purls(sbom(materials, "cyclonedx-json"))["golang"]}
    # go.mod of the parser's 3.4.0, as published.
    assert "pkg:golang/github.com/asottile/dockerfile" in found
    assert any(purl.startswith("pkg:golang/github.com/moby/buildkit@v0.") for purl in found)
    assert any(purl.startswith("pkg:golang/stdlib@1.") for purl in found)


def test_a_rust_program_tells_its_crates(tmp_path: Path) -> None:
    needs("objcopy")
    from arkwright.attest.sbom.programs import rust

    audit = {"packages": [{"name": "a", "version": "1.0"}, {"name": "b", "version": "2.0", "kind": "build"}]}
    (tmp_path / "audit").write_bytes(zlib.compress(json.dumps(audit).encode()))
    program = tmp_path / "program"
    add = ["objcopy", "--add-section", f".dep-v0={tmp_path / 'audit'}", "/bin/true", str(program)]
    subprocess.run(add, check=True)
    with program.open("rb") as file:
        assert [one.purl for one in rust("program", file)] == ["pkg:cargo/a@1.0"]
    with Path("/bin/true").open("rb") as file:
        assert list(rust("true", file)) == []


def test_what_is_broken_is_named_and_hides_nothing(materials: tuple[Builder, Path]) -> None:
    document = sbom(materials, "cyclonedx-json")
    unread = [one["value"] for one in document["metadata"]["properties"]]
    assert any(one.startswith("/usr/node_modules/broken/package.json") for one in unread)
    assert "pkg:npm/%40scope/thing@1.2.3" in {one["purl"] for one in purls(document)["npm"]}


@pytest.mark.parametrize("option", ["--no-files", "--per-layer"])
def test_the_library_of_cyclonedx_takes_it(materials: tuple[Builder, Path], option: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = sbom(materials, "cyclonedx-json", option)
    # The judge takes a minute for a thousand packages with their files.
    for holder in (document, *document["components"]):
        holder["components"] = holder.get("components", [])[
            :: 20 if len(holder.get("components", ())) > 100 else 1
        ]
        for one in holder["components"]:
            one.get("evidence", {"occurrences": []})["occurrences"][10:] = []
    text = json.dumps(document)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_library_of_spdx_takes_it(materials: tuple[Builder, Path], tmp_path: Path) -> None:
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    path = tmp_path / "app.spdx.json"
    path.write_text(json.dumps(sbom(materials, "spdx-json", "--per-layer")))
    document = parse_file(str(path))
    assert [one.validation_message for one in validate_full_spdx_document(document)] == []
    assert len(document.packages) > 100
    assert len(document.files) > 100


def test_the_same_image_gives_the_same_bytes(materials: tuple[Builder, Path]) -> None:
    builder, at = materials
    first = builder.run("sbom", "--format", "spdx-json", "app").out
    other = Builder(at, "subids", "other")
    builder.run("save", "--format", "oci-archive", "-o", str(at / "app.tar"), "app")
    (at / "app.tar").chmod(0o644)
    other.run("load", "-i", str(at / "app.tar"))
    assert other.run("sbom", "--format", "spdx-json", "app").out == first


def test_a_signed_bill_is_an_attestation(materials: tuple[Builder, Path], tmp_path: Path) -> None:
    builder, _ = materials
    key = str(tmp_path / "k")
    builder.run("key", "generate", "--no-password", key)
    builder.run("sbom", "--format", "spdx-json", "--sign", f"{key}.key", "app")
    said = json.loads(builder.run("verify-signature", "--attestation", "--key", f"{key}.pub", "app").out)
    digest = builder.run("inspect", "--format", "digest", "app").out.strip()
    assert said["subject"][0]["digest"] == {"sha256": digest.removeprefix("sha256:")}
    assert said["predicateType"] == "https://spdx.dev/Document"
    assert said["predicate"]["spdxVersion"] == "SPDX-2.3"
    other = builder.run(
        "verify-signature", "--attestation", "--type", "https://slsa.dev/provenance/v1", "--key", f"{key}.pub", "app",
        status=3,
    )  # fmt: skip
    assert "error[unsigned-image]" in other.err
