"""`arkwright build`: argv to a request, and what is done with the receipt.

The build itself is replaced by a stand-in that records what it was asked: how builds run is tested
with `build` and in the conformance cases.
"""

from __future__ import annotations

import json
import sys
import types as modules
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arkwright.build.request import BuildRequest, Receipt
from arkwright.build.session import SecretSpec, SessionInputs
from arkwright.cli.pending import PENDING
from arkwright.events import types
from arkwright.events.stream import EventStream
from arkwright.exporters.base import Output
from arkwright.graph.ops import Ulimit
from arkwright.oci.platform import Platform

DIGEST = "sha256:" + "d" * 64


class Recorded:
    """What the stand-in was asked."""

    def __init__(self) -> None:
        self.request: BuildRequest | None = None
        self.session: SessionInputs | None = None
        self.root_path = ""
        self.error: Exception | None = None

    def build(
        self, request: BuildRequest, session: SessionInputs, stream: EventStream, root_path: str
    ) -> Receipt:
        self.request, self.session, self.root_path = request, session, root_path
        stream.emit(types.Declared(vertex="v", name="[1/1] RUN x"))
        stream.emit(types.Started(vertex="v"))
        if self.error is not None:
            stream.emit(types.Failed(vertex="v", message="no"))
            raise self.error
        stream.emit(types.Finished(vertex="v"))
        report = msgspec.Raw(b'{"type":"image","destination":""}')
        return Receipt(
            build=stream.build, digest=DIGEST, config_digest="sha256:c", exports=(report,), duration_s=1.26,
            steps_run=1, steps_cached=2,
        )  # fmt: skip


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    stand_in: Any = modules.ModuleType("arkwright.build.run")
    found = Recorded()
    stand_in.build = found.build
    stand_in.new_build_id = lambda: "build-1"
    monkeypatch.setitem(sys.modules, "arkwright.build.run", stand_in)
    return found


def test_a_build_without_options(run, recorded: Recorded, tmp_path: Path) -> None:
    result = run("build")
    assert result.exit_code == 0, result.stderr
    assert recorded.request == BuildRequest(context=".", outputs=(Output(type="image"),))
    assert recorded.session == SessionInputs()
    assert recorded.root_path == str(tmp_path / "store")
    assert result.stdout == ""
    assert result.stderr == (
        f"#1 [1/1] RUN x\n#1 DONE 0.0s\n\nbuilt {DIGEST} in 1.3s: 1 steps run, 2 cached\n"
    )


def test_every_option_reaches_the_request(run, recorded: Recorded, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "key").write_text("hush")
    (tmp_path / "sock").touch()
    monkeypatch.setenv("FROM_ENV", "e")
    result = run(
        "build", "src", "-f", "deploy/Dockerfile", "-t", "app:1", "--tag", "r.example/app", "-t", "app:1",
        "--target", "final", "--build-arg", "A=1", "--build-arg", "FROM_ENV", "--build-context", "Base=docker-image://x",
        "--secret", f"id=k,src={tmp_path}/key", "--ssh", f"default={tmp_path}/sock",
        "--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=x.tar,compression=zstd", "--push", "--load",
        "--no-cache", "--no-cache-filter", "a,b", "--label", "l=1", "--annotation", "manifest:n=2",
        "--network", "none", "--add-host", "db:10.0.0.1", "--ulimit", "nofile=5:6", "--shm-size", "1g", "--pull",
        "--isolation", "crun", "-j3", "--scrub=none", "--tls-verify=false", "--timestamp", "7",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert recorded.request == BuildRequest(
        context="src",
        dockerfile="deploy/Dockerfile",
        names=("docker.io/library/app:1", "r.example/app:latest"),
        target="final",
        build_args={"A": "1", "FROM_ENV": "e"},
        named_contexts={"base": "docker-image://x"},
        platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")),
        outputs=(
            Output(type="oci", dest="x.tar", attrs={"compression": "zstd"}),
            Output(type="registry"),
            Output(type="docker"),
        ),
        labels={"l": "1"},
        annotations={"manifest:n": "2"},
        no_cache=True,
        no_cache_filter=("a", "b"),
        network="none",
        extra_hosts=(("db", "10.0.0.1"),),
        ulimits=(Ulimit("nofile", 5, 6),),
        shm_size=1 << 30,
        pull=True,
        isolation="crun",
        jobs=3,
        scrub="none",
        epoch=7,
    )
    assert recorded.session == SessionInputs(
        secrets={"k": SecretSpec(src=str(tmp_path / "key"))},
        ssh={"default": str(tmp_path / "sock")},
        tls_verify=False,
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], None),
        (["--tls-verify"], True),
        (["--tls-verify=true"], True),
        (["--tls-verify=0"], False),
        (["--tls-verify=false", "--tls-verify"], True),
    ],
)
def test_tls_verify(run, recorded: Recorded, written: list[str], expected: bool | None) -> None:
    assert run("build", *written, ".").exit_code == 0
    assert recorded.session is not None
    assert recorded.session.tls_verify is expected


def test_switches_take_values_and_never_eat_the_context(run, recorded: Recorded) -> None:
    assert run("build", "--pull", "dir").exit_code == 0
    assert recorded.request is not None
    assert (recorded.request.context, recorded.request.pull) == ("dir", True)
    assert run("build", "--pull=true", "--no-cache=false", "--", "dir").exit_code == 0
    assert (recorded.request.pull, recorded.request.no_cache) == (True, False)
    assert run("build", "--target", "--pull=x", "dir").exit_code == 0
    assert recorded.request.target == "--pull=x"


def test_the_environment_stands_for_options(run, recorded: Recorded, tmp_path: Path) -> None:
    env = {
        "ARKWRIGHT_BUILD_TARGET": "t", "ARKWRIGHT_BUILD_NO_CACHE": "1", "ARKWRIGHT_BUILD_PLATFORM": "linux/arm64",
        "ARKWRIGHT_PROGRESS": "rawjson", "ARKWRIGHT_ROOT": str(tmp_path / "other"),
        "ARKWRIGHT_BUILD_TLS_VERIFY": "false",
    }  # fmt: skip
    result = run("build", env=env)
    assert result.exit_code == 0, result.stderr
    request, session = recorded.request, recorded.session
    assert request is not None
    assert session is not None
    assert (request.target, request.no_cache, session.tls_verify) == ("t", True, False)
    assert request.platforms == (Platform("linux", "arm64"),)
    assert recorded.root_path == str(tmp_path / "other")
    assert json.loads(result.stderr.splitlines()[0])["event"] == "declared"
    assert run("build", "--target", "u", env=env).exit_code == 0
    assert recorded.request is not None
    assert recorded.request.target == "u"


def test_root_of_the_program_and_of_the_command(run, recorded: Recorded, tmp_path: Path) -> None:
    assert run("--root", str(tmp_path / "a"), "build", env={"ARKWRIGHT_ROOT": ""}).exit_code == 0
    assert recorded.root_path == str(tmp_path / "a")
    assert run("--root", str(tmp_path / "a"), "build", "--root", str(tmp_path / "b")).exit_code == 0
    assert recorded.root_path == str(tmp_path / "b")


@pytest.mark.parametrize("mode", [["-q"], ["--quiet"], ["--progress=quiet"], ["-q", "--progress=plain"]])
def test_quiet_prints_the_digest(run, recorded: Recorded, mode: list[str]) -> None:
    result = run("build", *mode)
    assert (result.exit_code, result.stdout, result.stderr) == (0, DIGEST + "\n", "")


def test_none_prints_nothing(run, recorded: Recorded) -> None:
    result = run("build", "--progress=none")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_rawjson_prints_events_only(run, recorded: Recorded) -> None:
    result = run("build", "--progress=rawjson")
    assert [json.loads(line)["event"] for line in result.stderr.splitlines()] == [
        "declared",
        "started",
        "finished",
    ]


def test_iidfile_and_metadata_file(run, recorded: Recorded, tmp_path: Path) -> None:
    iid, metadata = tmp_path / "iid", tmp_path / "metadata.json"
    iid.write_text("old")
    assert run("build", "-t", "app", "--iidfile", str(iid), "--metadata-file", str(metadata)).exit_code == 0
    assert iid.read_text() == DIGEST
    assert json.loads(metadata.read_text()) == {
        "containerimage.digest": DIGEST,
        "containerimage.config.digest": "sha256:c",
        "image.name": "docker.io/library/app:latest",
        "arkwright.build": "build-1",
        "arkwright.exports": [{"type": "image", "destination": ""}],
        "arkwright.steps": {"run": 1, "cached": 2},
        "arkwright.duration_s": 1.26,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iid", "metadata.json"]


def test_a_failed_build_leaves_no_old_iidfile(run, recorded: Recorded, tmp_path: Path) -> None:
    from arkwright.diagnostics.errors import StepFailed

    iid = tmp_path / "iid"
    iid.write_text("old")
    recorded.error = StepFailed.of("step-failed", "the command failed", details={"status": 1})
    result = run("build", "--iidfile", str(iid))
    assert result.exit_code == 1
    assert not iid.exists()
    assert result.stderr.startswith(
        "#1 [1/1] RUN x\n#1 ERROR: no\n\nerror[step-failed]: the command failed\n"
    )
    assert result.stdout == ""


def test_an_unwritable_metadata_file(run, recorded: Recorded, tmp_path: Path) -> None:
    result = run("build", "--metadata-file", str(tmp_path / "no" / "file"))
    assert result.exit_code == 1
    assert "error[unwritable-file]" in result.stderr


def test_a_fault_names_the_journal_of_the_build(run, recorded: Recorded, tmp_path: Path) -> None:
    journal = tmp_path / "store" / "history" / "build-1" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.touch()
    recorded.error = RuntimeError("broken")
    result = run("build", "-q")
    assert result.exit_code == 70
    assert str(journal) in result.stderr


@pytest.mark.parametrize("option", PENDING, ids=lambda option: option.names[-1])
def test_what_is_not_built_yet_says_so(run, recorded: Recorded, option: Any) -> None:
    for name in option.names:
        written = [name] if option.bare else [name, "type=x"]
        result = run("build", *written, ".")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error[not-built-yet]: {option.names[-1]} is not built yet: ")
    assert recorded.request is None


@pytest.mark.parametrize(
    "written",
    [
        ["--provenance=false"], ["--provenance=false", "--sbom=false"], ["--sbom=FALSE"],
        ["--attest", "type=provenance,disabled=true"], ["--call", "build"], ["--check=false"],
    ],
)  # fmt: skip
def test_asking_for_nothing_is_no_error(run, recorded: Recorded, written: list[str]) -> None:
    result = run("build", *written, ".")
    assert result.exit_code == 0, result.stderr
    assert recorded.request is not None


@pytest.mark.parametrize(
    ("written", "code", "status"),
    [
        (["-f", "-", "-"], "conflicting-options", 2),
        (["--push"], "conflicting-options", 2),
        (["-t", "UPPER"], "invalid-reference", 1),
        (["-t", "a@sha256:" + "0" * 64], "invalid-option-value", 2),
        (["--label", "x"], "invalid-option-value", 2),
        (["--build-context", "x"], "invalid-option-value", 2),
        (["--build-context", "x="], "invalid-option-value", 2),
        (["--platform", "a/b/c/d"], "invalid-platform", 1),
        (["--tls-verify=perhaps"], "invalid-option-value", 2),
        (["--timestamp", "soon"], "invalid-usage", 2),
    ],
)
def test_wrong_options(run, recorded: Recorded, written: list[str], code: str, status: int) -> None:
    result = run("build", *written)
    assert result.stderr.startswith(f"error[{code}]: ")
    assert result.exit_code == status
    assert recorded.request is None


def test_secrets_appear_nowhere(run, recorded: Recorded, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "hush-hush")
    recorded.error = RuntimeError("broken")
    result = run("build", "--secret", "id=TOKEN", "--progress=rawjson", env={"ARKWRIGHT_DEBUG": "1"})
    assert recorded.session is not None
    assert recorded.session.secrets == {"TOKEN": SecretSpec(env="TOKEN")}
    assert "hush-hush" not in result.output + repr(recorded.session) + repr(recorded.request)
