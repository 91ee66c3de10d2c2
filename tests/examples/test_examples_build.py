"""The examples are built for real: by two users with one digest, run, and built again from the cache."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from arkwright.events.types import Log
from building import Built
from example_builds import EXAMPLES, Examples, MakeExamples

# Two cold builds with downloads: a minute when the machine does nothing else.
pytestmark = pytest.mark.timeout(1800)
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/expected.txt"))
DOCKERFILES = sorted(EXAMPLES.rglob("Dockerfile"))
# Half a minute each for a compiler and what it compiles: the second user has it in ./dev soak only.
SLOW = () if os.environ.get("ARKWRIGHT_SOAK") else ("go-dag", "java")
BUSYBOX_ONLY = ("monorepo", "onbuild")


def _base_of(name: str) -> str:
    return "busybox" if name in BUSYBOX_ONLY else "debian:bookworm"


def _printed(built: Built) -> str:
    return b"".join(event.data for event in built.events if isinstance(event, Log)).decode(errors="replace")


@pytest.fixture
def ssh_key(scratch: Path) -> Path:
    """A key of the test's own; ed25519 signatures depend on key and message only."""
    if shutil.which("ssh-agent") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs-ssh-agent: openssh-client is not installed")
    path = scratch / "signer"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    path.chmod(0o644)
    return path


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_two_users_build_one_image(
    name: str, shared_examples: Callable[[str], Examples], request: pytest.FixtureRequest
) -> None:
    digests = {}
    for identity in ("root",) if name in SLOW else ("root", "subids"):
        examples = shared_examples(identity)
        if name == "secrets-ssh":
            examples.builder.env["EXAMPLES_SSH_KEY"] = str(request.getfixturevalue("ssh_key"))
        built, _ = examples.build(name)
        assert built.ran
        digests[identity] = built.digest
        again, _ = examples.build(name)
        assert again.ran == []
        assert again.digest == built.digest
    assert len(set(digests.values())) == 1


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_secrets_and_the_agent_leave_nothing_behind(
    identity: str, make_examples: MakeExamples, ssh_key: Path
) -> None:
    examples = make_examples(identity, "debian:bookworm")
    builder = examples.builder
    token, password = f"deploy:{os.urandom(12).hex()}", os.urandom(12).hex()
    builder.env |= {
        "EXAMPLES_TOKEN": token,
        "EXAMPLES_PASSWORD": password,
        "EXAMPLES_SSH_KEY": str(ssh_key),
    }
    archive = builder.home / "release.tar"
    built, printed = examples.build(
        "secrets-ssh", "--output", "type=image", "--output", f"type=tar,dest={archive}"
    )
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", str(ssh_key)], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    # The step saw the agent: what `ssh-add -l` printed there is this key.
    assert fingerprint in _printed(built)
    private = ssh_key.read_text().splitlines()
    secrets = [token.partition(":")[2], password, private[1], private[len(private) // 2]]
    secrets += [base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] for secret in secrets[:2]]
    assert not [secret for secret in secrets if secret in printed]
    # The trees of all steps are plain files of the store; the image is the tar.
    pattern = builder.scratch / "pattern"
    pattern.write_text("\n".join(secrets) + "\n")
    found = subprocess.run(
        ["grep", "-rlaF", "-f", str(pattern), str(builder.store), str(archive)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (1, "")
    logged = _printed(built) + repr(built.events)
    assert not [secret for secret in secrets if secret in logged]
    # The search would have found them: what may be known is there.
    public = ssh_key.with_suffix(".pub").read_text().split()[1]
    for known, place in (("scope=deploy", archive), (public, archive), (public, builder.store)):
        assert subprocess.run(["grep", "-rqaF", known, str(place)], check=False).returncode == 0, known


def test_packages_are_downloaded_once(make_examples: MakeExamples) -> None:
    examples = make_examples("root", "debian:bookworm")
    first, _ = examples.build("apt-cache")
    assert re.search(r"Get:\d+ \S+ \S+ \S+ jq ", _printed(first))
    more, _ = examples.build("apt-cache", "--build-arg", "PACKAGES=jq file")
    downloads = re.findall(r"Get:\d+ \S+ \S+ \S+ (\S+) \S+ \S+ \[", _printed(more))
    assert "file" in downloads and "jq" not in downloads
    # A cache mount that is full does not show in the result.
    fresh, _ = examples.build("apt-cache", "--no-cache")
    assert [name for name in fresh.ran if name.startswith("[tools ")]
    assert not re.search(r"Get:\d+ \S+ \S+ \S+ jq ", _printed(fresh))
    assert fresh.digest == first.digest


def test_a_changed_test_leaves_the_bundle_cached(make_examples: MakeExamples) -> None:
    builder = make_examples("root", "busybox").builder
    root = builder.scratch / "monorepo"
    shutil.copytree(EXAMPLES / "monorepo", root)
    first = builder.build(root, "--tag", "repo")
    with (root / "packages/core/tests/arithmetic.sh").open("a") as file:
        file.write('[ "$(add 1 1)" = 2 ]\n')
    second = builder.build(root)
    assert second.digest == first.digest
    assert [name for name in second.ran if "run-tests" in name]
    assert not [name for name in second.ran if "bundle" in name or "resolve" in name]
    (root / "packages/report/src/line.sh").write_text('line() { printf "%s: %s\\n" "$1" "$2"; }\n')
    (root / "packages/report/tests/line.sh").write_text('[ "$(line a b)" = "a: b" ]\n')
    (root / "services/api/tests/sum.sh").unlink()
    (root / "services/api/tests/sum.sh").write_text("true\n")
    third = builder.build(root, "--tag", "changed")
    assert [name for name in third.ran if "bundle /repo" in name]
    assert not [name for name in third.ran if "resolve" in name]
    assert builder.run("run", "changed").out == "sum: 7\nproduct: 12\n"


def test_the_monorepo_image_has_the_sources_and_nothing_else(make_examples: MakeExamples) -> None:
    builder = make_examples("subids", "busybox").builder
    out = builder.home / "out"
    builder.build(EXAMPLES / "monorepo", "--output", f"type=local,dest={out}")
    files = sorted(
        str(path.relative_to(out / "usr/share/bundle"))
        for path in (out / "usr/share/bundle").rglob("*")
        if path.is_file()
    )
    assert files == [
        "passed",
        "sources/packages/core/src/arithmetic.sh",
        "sources/packages/report/src/line.sh",
        "sources/services/api/src/main.sh",
        "sources/services/web/src/main.sh",
    ]
    assert [path.name for path in (out / "srv").iterdir()] == ["main.sh"]


def test_triggers_take_arguments_contexts_and_are_spent(make_examples: MakeExamples) -> None:
    examples = make_examples("root", "busybox")
    examples.build("onbuild")
    builder = examples.builder
    other = builder.scratch / "other-style"
    other.mkdir()
    (other / "dark.css").write_text("body { background: black; }\n")
    built = builder.build(EXAMPLES / "onbuild/app", "--tag", "site", "--build-context", f"assets={other}")
    assert len([name for name in built.ran if "ONBUILD" in name]) >= 2
    assert builder.run("run", "site", "show").out.splitlines()[2:] == ["Untitled: Tea", "2", "dark.css"]
    for name, triggers in (("onbuild-base", 6), ("site", 0)):
        config = msgspec.json.decode(builder.run("inspect", "--format", "json", name).out)
        assert len(_on_build(config)) == triggers


def _on_build(document: object) -> list[str]:
    """The `OnBuild` of a config, wherever in the document it stands."""
    if isinstance(document, dict):
        found = document.get("OnBuild")
        if found:
            return list(found)
        document = list(document.values())
    if isinstance(document, list):
        return next((found for found in map(_on_build, document) if found), [])
    return []


def test_the_build_checks_find_nothing(shared_examples: Callable[[str], Examples]) -> None:
    builder = shared_examples("root").builder
    builder.build(EXAMPLES / "onbuild/base", "--tag", "onbuild-base")
    for path in DOCKERFILES:
        assert builder.run("build", "--check", str(path.parent)).out == "Dockerfile: no findings\n"


def test_each_example_says_how_it_is_built_and_is_in_the_script() -> None:
    assert len(NAMES) == 10
    script = (EXAMPLES / "build.sh").read_text()
    listed = re.search(r"^all=\((.*)\)$", script, re.M)
    assert listed is not None
    assert sorted(listed[1].split()) == NAMES
    contents = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        text = (EXAMPLES / name / "README.md").read_text()
        assert f"examples/build.sh {name}" in text
        assert "arkwright build" in text and "arkwright run" in text
        assert f"({name}/README.md)" in contents


def test_the_lockfile_names_the_public_registry() -> None:
    lock = msgspec.json.decode((EXAMPLES / "node-lockfile/package-lock.json").read_bytes())
    packages = [entry for path, entry in lock["packages"].items() if path]
    assert len(packages) > 5
    assert all(entry["resolved"].startswith("https://registry.npmjs.org/") for entry in packages)
    assert all(entry["integrity"].startswith("sha512-") for entry in packages)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_running_every_step_again_gives_the_same_image(
    name: str, make_examples: MakeExamples, request: pytest.FixtureRequest
) -> None:
    if not os.environ.get("ARKWRIGHT_SOAK") and name not in ("monorepo", "heredocs"):
        pytest.skip("soak: all examples are built again by ./dev soak")
    examples = make_examples("root", _base_of(name))
    if name == "secrets-ssh":
        examples.builder.env["EXAMPLES_SSH_KEY"] = str(request.getfixturevalue("ssh_key"))
    first, _ = examples.build(name)
    again, _ = examples.build(name, "--no-cache")
    assert again.ran
    assert again.digest == first.digest


@pytest.mark.soak
def test_the_go_program_is_built_for_other_systems(make_examples: MakeExamples) -> None:
    if not os.environ.get("ARKWRIGHT_SOAK"):
        pytest.skip("soak: compiles the standard library for two more systems")
    examples = make_examples("root", "debian:bookworm")
    builder = examples.builder
    out = builder.home / "out"
    built = builder.build(EXAMPLES / "go-dag", "--target", "clients", "--output", f"type=local,dest={out}")
    assert not [name for name in built.ran if "go test" in name or "go vet" in name]
    programs = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("shortctl*")}
    assert sorted(programs) == ["linux-arm64/shortctl", "windows-amd64/shortctl.exe"]
    assert programs["linux-arm64/shortctl"][18:20] == b"\xb7\x00"  # EM_AARCH64
    assert programs["windows-amd64/shortctl.exe"][:2] == b"MZ"
    both = builder.build(EXAMPLES / "go-dag", "--platform", "linux/amd64,linux/arm64")
    assert len([name for name in both.ran if "go test" in name]) == 1
