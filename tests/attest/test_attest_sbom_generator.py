"""Generator images, by BuildKit's protocol: a scanner of a few lines of shell, run over a real image."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from building import Builder

SPDX = {
    "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "made", "dataLicense": "CC0-1.0",
    "documentNamespace": "https://example.invalid/made", "packages": [],
    "creationInfo": {"created": "2024-01-01T00:00:00Z", "creators": ["Tool: shell"]},
}  # fmt: skip
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
    "subject": [{"name": "a lie", "digest": {"sha256": "0" * 64}}], "predicate": SPDX,
}  # fmt: skip
SCAN = """\
#!/bin/sh
set -e
cat /document > "$BUILDKIT_SCAN_DESTINATION/$(basename "$BUILDKIT_SCAN_SOURCE").spdx.json"
"""
# Says as the name of the document what it saw of the image, of its parameters, of what it may do.
LOOK = """\
#!/bin/sh
found=$(cat "$BUILDKIT_SCAN_SOURCE/hello")
touch "$BUILDKIT_SCAN_SOURCE/more" 2>/dev/null && found="$found writable"
[ -n "$(ls /sys/class/net | grep -v '^lo$')" ] && found="$found network"
[ -n "$BUILDKIT_SCAN_SOURCE_EXTRAS" ] && found="$found extras"
echo x > /tmp/x
sed "s/made/$found $BUILDKIT_SCAN_SELECT/" /document > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json"
"""

Make = Callable[..., tuple[Builder, str]]


@pytest.fixture(scope="module")
def builders(builders: Callable[[str], Builder]) -> Callable[[str], Builder]:
    """By identity, a builder with the image `app`."""

    @cache
    def builder(identity: str) -> Builder:
        made = builders(identity)
        files = {"Dockerfile": "FROM scratch\nCOPY hello /\n", "hello": "seen"}
        made.build(written(made.scratch / "app", files), "-t", "app")
        return made

    return builder


def written(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644)
    return root


@pytest.fixture
def make(builders: Callable[[str], Builder]) -> Make:
    """A builder, and the name of a generator image of a script that has `/document`."""

    def made(script: str, document: Any = STATEMENT, identity: str = "root") -> tuple[Builder, str]:
        builder = builders(identity)
        text = document if isinstance(document, str) else json.dumps(document)
        dockerfile = (
            "FROM busybox\nCOPY --chmod=755 scan /scan\nCOPY document /document\n"
            'ENV BUILDKIT_SCAN_SOURCE=/nowhere\nENTRYPOINT ["/bin/sh"]\nCMD ["/scan"]\n'
        )
        files = {"Dockerfile": dockerfile, "scan": script, "document": text}
        builder.build(written(builder.scratch / "scanner", files), "-t", "scanner")
        return builder, "scanner"

    return made


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_generator_sees_the_image_and_no_more(make: Make, identity: str) -> None:
    builder, scanner = make(LOOK, identity=identity)
    found = json.loads(builder.run("sbom", "--generator", f"{scanner},select=all", "app").out)
    assert found["name"] == "seen all"
    assert found["packages"] == []


def test_it_gets_a_network_when_asked(make: Make) -> None:
    builder, scanner = make(LOOK)
    found = json.loads(builder.run("sbom", "--generator", scanner, "--network", "host", "app").out)
    # A host that has no network but its own says nothing here.
    hosts = [one.name for one in Path("/sys/class/net").iterdir() if one.name != "lo"]
    assert ("network" in found["name"]) == bool(hosts)


def test_what_it_says_is_signed_as_said_of_this_image(make: Make, tmp_path: Path) -> None:
    builder, scanner = make(SCAN)
    key = str(tmp_path / "k")
    builder.run("key", "generate", "--no-password", key)
    builder.run("sbom", "--generator", scanner, "--sign", f"{key}.key", "app")
    said = json.loads(builder.run("verify-signature", "--attestation", "--key", f"{key}.pub", "app").out)
    digest = builder.run("inspect", "--format", "digest", "app").out.strip()
    assert said["subject"] == [{"name": "app", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    assert said["predicateType"] == "https://spdx.dev/Document"
    assert said["predicate"] == SPDX


def test_a_bare_document_is_taken_too(make: Make) -> None:
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}
    builder, scanner = make(SCAN, bom)
    assert json.loads(builder.run("sbom", "--generator", scanner, "app").out) == bom
    refused = builder.run("sbom", "--generator", scanner, "--format", "spdx-json", "app", status=1)
    assert "error[invalid-generator-output]" in refused.err


@pytest.mark.parametrize(
    ("script", "document"),
    [
        ("#!/bin/sh\ntrue\n", STATEMENT),
        (SCAN, "{"),
        (SCAN, "[" * 100_000),
        (SCAN, {**STATEMENT, "predicateType": "https://slsa.dev/provenance/v1"}),
        (SCAN, {**STATEMENT, "_type": "https://example.invalid/Statement"}),
        (SCAN, {**STATEMENT, "predicate": {"bomFormat": "CycloneDX"}}),
        (SCAN, {**STATEMENT, "predicate": None}),
        ("#!/bin/sh\nmkdir $BUILDKIT_SCAN_DESTINATION/d\n", STATEMENT),
        ("#!/bin/sh\nln -s /etc/passwd $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json\n", STATEMENT),
        ("#!/bin/sh\nmkfifo $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json\n", STATEMENT),
        (
            "#!/bin/sh\ni=0\nwhile [ $i -le 1000 ]; do i=$((i+1)); echo {} > $BUILDKIT_SCAN_DESTINATION/$i; done\n",
            STATEMENT,
        ),
        ("#!/bin/sh\ntruncate -s 70000000 $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json\n", STATEMENT),
    ],
)
def test_what_is_no_package_list_is_refused(make: Make, script: str, document: Any) -> None:
    builder, scanner = make(script, document)
    refused = builder.run("sbom", "--generator", scanner, "app", status=1)
    assert "error[invalid-generator-output]" in refused.err


def test_a_generator_that_fails_is_a_failed_step(make: Make) -> None:
    builder, scanner = make("#!/bin/sh\nexit 3\n")
    assert "error[step-failed]" in builder.run("sbom", "--generator", scanner, "app", status=1).err


def test_an_image_without_a_command_is_none(make: Make) -> None:
    builder, _ = make(SCAN)
    assert "error[no-command]" in builder.run("sbom", "--generator", "app", "app", status=1).err


@pytest.mark.parametrize("option", ["--format=table", "--per-layer", "--no-files"])
def test_what_it_makes_is_not_made_otherwise(make: Make, option: str) -> None:
    builder, scanner = make(SCAN)
    refused = builder.run("sbom", "--generator", scanner, option, "app", status=1)
    assert "error[invalid-usage]" in refused.err
