"""Examples built in two worlds: equal digests; and packed by two compressors: equal diffIDs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from example_builds import EXAMPLES, Examples, MakeExamples

pytestmark = pytest.mark.timeout(1800)
# Those that need nothing but busybox; the others in ./dev soak.
SMALL = ("monorepo", "onbuild")
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/expected.txt"))


def _strange(examples: Examples, folder: Path) -> Path:
    """Another place, time zone and language, one core, and files with other times; gives where the examples are."""
    builder = examples.builder
    builder.env |= {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "USER": "somebody"}
    if shutil.which("taskset"):
        builder.prefix = ["taskset", "-c", "0", *builder.prefix]
    shutil.copytree(EXAMPLES, folder, symlinks=True)
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        time_s = 1_000_000_000 + number * 37 % 1009 * 86_400
        os.utime(path, (time_s, time_s), follow_symlinks=False)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder


def _diff_ids(layout: Path) -> list[str]:
    """Of all platforms, in order."""

    def blob(digest: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        )
        return found

    found: list[str] = []
    pending = [json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]]
    while pending:
        document = blob(pending.pop(0))
        pending += [one["digest"] for one in document.get("manifests", [])]  # type: ignore[attr-defined]
        if "config" in document:
            found += blob(document["config"]["digest"])["rootfs"]["diff_ids"]  # type: ignore[index]
    return found


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES if os.environ.get("ARKWRIGHT_SOAK") else SMALL)
def test_an_example_in_two_worlds(name: str, make_examples: MakeExamples, scratch: Path) -> None:
    bases = ("busybox",) if name in SMALL else ("busybox", "debian:bookworm")
    if name == "secrets-ssh":
        if shutil.which("ssh-keygen") is None:
            pytest.skip("needs-ssh-agent: openssh-client is not installed")
        key = scratch / "signer"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        key.chmod(0o644)
    found, layouts = [], []
    for identity, compression in (("root", "gzip"), ("subids", "zstd")):
        examples = make_examples(identity, *bases)
        if name == "secrets-ssh":
            examples.builder.env["EXAMPLES_SSH_KEY"] = str(key)
        folder = (
            EXAMPLES if identity == "root" else _strange(examples, scratch / "another place" / "of examples")
        )
        layout = examples.builder.home / "layout"
        output = f"type=oci,dest={layout},tar=false,compression={compression}"
        built, _ = examples.build(name, "--output", "type=image", "--output", output, folder=folder)
        assert built.ran
        found.append(built.digest)
        layouts.append(layout)
    assert found[0] == found[1]
    assert _diff_ids(layouts[0]) == _diff_ids(layouts[1]) != []
