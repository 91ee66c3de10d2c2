"""Which layer brought a package, and which files are whose: images of a few files, each with a reason."""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from building import Builder

DEB = "Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n\n"
Image = Callable[..., Any]


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    at = Path(tempfile.mkdtemp(prefix="arkwright-layers-"))
    at.chmod(0o755)
    yield Builder(at, "root")
    shutil.rmtree(at)


@pytest.fixture
def image(builder: Builder, tmp_path: Path) -> Image:
    """`image(layer, …)` builds an image whose layers have these files (`-> x`: a link), and gives
    a function from options to its document."""

    def made(*layers: dict[str, str | bytes]) -> Callable[..., Any]:
        lines = ["FROM scratch"]
        for number, files in enumerate(layers):
            root = tmp_path / f"layer-{number}"
            root.mkdir()
            for path, content in files.items():
                write(root / path, content)
            lines.append(f"COPY layer-{number} /")
        (tmp_path / "Dockerfile").write_text("\n".join(lines) + "\n")
        builder.build(tmp_path, "-t", "app")
        return lambda form, *args: json.loads(builder.run("sbom", "--format", form, *args, "app").out)

    return made


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str) and content.startswith("-> "):
        path.symlink_to(content[3:])
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def status(**versions: str) -> str:
    return "".join(DEB.format(name=name, version=version) for name, version in versions.items())


def layers_of(document: Any) -> dict[str, str]:
    return {
        f"{one['name']} {one['version']}": prop["value"]
        for one in document["components"]
        for prop in one.get("properties", ())
        if prop["name"] == "arkwright:layer"
    }


def test_a_database_that_each_layer_writes_anew(image: Image) -> None:
    """One package is upgraded, one removed and later there again, one stays."""
    path = "var/lib/dpkg/status"
    read = image(
        {path: status(stays="1", upgraded="1", returns="1")},
        {"unrelated": "x"},
        {path: status(stays="1", upgraded="2")},
        {path: status(stays="1", upgraded="2", returns="1", late="1")},
    )
    wanted = {"stays 1": "1", "upgraded 2": "3", "returns 1": "4", "late 1": "4"}
    assert layers_of(read("cyclonedx-json")) == wanted


def test_a_database_that_was_damaged_for_a_while(image: Image) -> None:
    path = "srv/vendor/composer/installed.json"
    one, two = ({"name": f"v/{name}", "version": "1"} for name in ("one", "two"))
    read = image(
        {path: json.dumps([one])},
        {path: "{"},
        {path: json.dumps([one, two])},
        {"other/" + path: json.dumps([one])},
    )
    document = read("cyclonedx-json")
    found = {one["bom-ref"].partition("#")[2]: one for one in document["components"]}
    assert layers_of(document)["two 1"] == "3"
    assert [prop["value"] for prop in found[f"/other/{path}"]["properties"] if "layer" in prop["name"]] == [
        "4"
    ]


def test_a_database_that_moved(image: Image) -> None:
    """The directory becomes a link to where newer releases have it: what was there is hidden."""
    data = lzma.decompress((Path(__file__).parent / "data" / "rpmdb.sqlite.xz").read_bytes())
    read = image(
        {"usr/lib/sysimage/rpm/rpmdb.sqlite": data, "var/lib/rpm": "-> ../../usr/lib/sysimage/rpm"},
        {"x": "y"},
    )
    document = read("cyclonedx-json")
    assert sorted(one["name"] for one in document["components"]) == ["empty", "other", "thing"]
    assert set(layers_of(document).values()) == {"1"}


def test_layers_as_elements(image: Image, builder: Builder) -> None:
    path = "var/lib/dpkg/status"
    read = image({path: status(one="1")}, {path: status(one="1", two="2")})
    digests = [one["digest"] for one in json.loads(builder.run("inspect", "--raw", "app").out)["layers"]]
    layers = read("cyclonedx-json", "--per-layer")["components"]
    assert [(one["name"], [inner["name"] for inner in one["components"]]) for one in layers] == [
        (digests[0], ["one"]), (digests[1], ["two"]),
    ]  # fmt: skip
    spdx = read("spdx-json", "--per-layer")
    names = {one["SPDXID"]: one["name"] for one in spdx["packages"]}
    held = {(names[one["spdxElementId"]], names[one["relatedSpdxElement"]]) for one in spdx["relationships"]}
    assert held == {("app", digests[0]), ("app", digests[1]), (digests[0], "one"), (digests[1], "two")}
    text = builder.run("sbom", "--per-layer", "app").out.splitlines()
    assert [line.split()[0] for line in text] == ["layer", "one", "layer", "two"]
    assert "COPY layer-1 /" in text[2]


def test_files_are_found_behind_links_and_only_in_the_image(image: Image) -> None:
    """dpkg lists names of before directories were merged; what is removed, a directory or a link is no file."""
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, File
    from spdx_tools.spdx.spdx_element_utils import calculate_package_verification_code

    lines = [
        "/.",
        "/bin",
        "/bin/tool",
        "/bin/link",
        "/gone",
        "/../../etc/passwd",
        "/loop/x",
        "/usr/share/doc/tool",
    ]
    contents = {"usr/bin/tool": "tool", "usr/share/doc/tool": "doc"}
    read = image({
        "var/lib/dpkg/status": status(tool="1"), "var/lib/dpkg/info/tool.list": "\n".join(lines),
        **contents, "bin": "-> usr/bin", "usr/bin/link": "-> tool", "loop": "-> loop",
    })  # fmt: skip
    document = read("spdx-json")
    sums = {
        one["fileName"]: {sum["algorithm"]: sum["checksumValue"] for sum in one["checksums"]}
        for one in document["files"]
    }
    assert sums == {
        f"./{path}": {
            "SHA1": hashlib.sha1(text.encode()).hexdigest(),
            "SHA256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for path, text in contents.items()
    }
    (tool,) = (one for one in document["packages"] if one["name"] == "tool")
    files = [
        File(name, f"SPDXRef-{number}", [Checksum(ChecksumAlgorithm.SHA1, found["SHA1"])])
        for number, (name, found) in enumerate(sums.items())
    ]
    code = calculate_package_verification_code(files).value
    assert tool["packageVerificationCode"] == {"packageVerificationCodeValue": code}
    assert "files" not in read("spdx-json", "--no-files")
    (bare,) = read("cyclonedx-json", "--no-files")["components"]
    assert "evidence" not in bare


def test_directories_that_are_a_packages_own(image: Image) -> None:
    """Of a package inside of another one the inner one has its files."""
    package = {
        name: json.dumps({"name": name, "version": "1", "maintainers": [{"name": "M"}]}) for name in "ab"
    }
    installed = [
        {"name": "v/one", "version": "1", "install-path": "../v/one"}, {"name": "v/two", "version": "1"},
        {"name": "v/out", "version": "1", "install-path": "../../../etc"},
    ]  # fmt: skip
    read = image({
        "srv/node_modules/a/package.json": package["a"], "srv/node_modules/a/lib/x.js": "x",
        "srv/node_modules/a/node_modules/b/package.json": package["b"],
        "w/vendor/composer/installed.json": json.dumps({"packages": installed}),
        "w/vendor/v/one/x.php": "", "w/vendor/v/two/y.php": "", "etc/secret": "",
        "g/specifications/rake-1.gemspec": 's.name = "rake"\ns.version = "1"\n', "g/gems/rake-1/lib/rake.rb": "",
    })  # fmt: skip
    found = {
        one["name"]: [place["location"] for place in one.get("evidence", {"occurrences": []})["occurrences"]]
        for one in read("cyclonedx-json")["components"]
    }
    assert found == {
        "a": ["/srv/node_modules/a/lib/x.js", "/srv/node_modules/a/package.json"],
        "b": ["/srv/node_modules/a/node_modules/b/package.json"],
        "one": ["/w/vendor/v/one/x.php"], "two": ["/w/vendor/v/two/y.php"], "out": [],
        "rake": ["/g/gems/rake-1/lib/rake.rb"],
    }  # fmt: skip


def test_names_that_are_no_text(image: Image, tmp_path: Path) -> None:
    archive = tmp_path / "some.jar"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", "Implementation-Title: odd\nImplementation-Version: 1\n")
    name = b"opt/\xff.jar".decode("utf-8", "surrogateescape")
    data = archive.read_bytes()
    archive.unlink()
    read = image({name: data, "opt/\udcfe.jar": b"PK broken"})
    document = read("cyclonedx-json")
    assert [one["bom-ref"] for one in document["components"]] == ["pkg:maven/odd@1#/opt/\\xff.jar"]
    assert document["metadata"]["properties"][0]["value"].startswith("/opt/\\xfe.jar: ")
    assert read("spdx-json")["files"][0]["fileName"] == "./opt/\\xff.jar"


def test_what_is_broken_hides_nothing_else(image: Image) -> None:
    info = "lib/python3/site-packages/{0}-1.dist-info"
    metadata = "Metadata-Version: 2.1\nName: {0}\nVersion: 1\n"
    read = image({
        f"{info.format('good')}/METADATA": metadata.format("good"), f"{info.format('good')}/RECORD": "good.py,,\n",
        f"{info.format('long')}/METADATA": metadata.format("long"), f"{info.format('long')}/RECORD": "x" * 200_000,
        f"{info.format('none')}/METADATA": "nothing",
        "var/lib/rpm/rpmdb.sqlite": b"SQLite format 3\0" + bytes(200), "lib/apk/db/installed": "V:1\n\n",
        "var/lib/dpkg/status": "-> /etc/passwd", "etc/passwd": status(lie="1"),
        "a/node_modules/x/package.json": "[1]", "a/node_modules/y/package.json": '{"name":"y","version":"1","license":[{}]}',
        "v/vendor/composer/installed.json": '[{"name":"v/x","license":7,"authors":[1,{}],"install-path":[]},3]',
        "g/specifications/x.gemspec": "\n" * 500_000,
    })  # fmt: skip
    document = read("cyclonedx-json")
    assert {one["name"] for one in document["components"]} == {"good", "long", "y"}
    unread = [one["value"].partition(":")[0] for one in document["metadata"]["properties"]]
    assert unread == [
        "/a/node_modules/x/package.json", "/g/specifications/x.gemspec", "/lib/apk/db/installed",
        f"/{info.format('long')}/RECORD", f"/{info.format('none')}/METADATA", "/v/vendor/composer/installed.json",
        "/var/lib/rpm/rpmdb.sqlite",
    ]  # fmt: skip
