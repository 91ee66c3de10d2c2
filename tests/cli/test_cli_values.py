"""Values as users of docker and buildah write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkwright.cli import values
from arkwright.cli.images import field
from arkwright.cli.outputs import output, outputs
from arkwright.cli.session import agents, secrets
from arkwright.diagnostics.errors import ArkwrightError, UsageError
from arkwright.exporters.base import Output
from arkwright.graph.ops import Ulimit
from arkwright.oci.platform import Platform, host_platform


def code_of(error: pytest.ExceptionInfo[ArkwrightError]) -> str:
    assert isinstance(error.value, UsageError)
    return error.value.code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1,b=2", {"a": "1", "b": "2"}),
        ('type=local,"dest=a,b"', {"type": "local", "dest": "a,b"}),
        ('"dest=say ""hi""",type=x', {"dest": 'say "hi"', "type": "x"}),
        ("key", {"key": ""}),
        ("A=B=C", {"a": "B=C"}),
    ],
)
def test_attributes(text: str, expected: dict[str, str]) -> None:
    assert values.attributes("-o", text) == expected


@pytest.mark.parametrize("text", ['a="b"', '"a=b', '"a=b"c', "a=1,a=2", "", "a=1,,b=2", "=1"])
def test_wrong_attributes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.attributes("-o", text)
    assert code_of(caught) == "invalid-option-value"


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=8), min_size=1
    )
)
def test_csv_agrees_with_the_standard_library_s_writer(fields: list[str]) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(fields)
    assert values.csv_fields("-o", written.getvalue()) == fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", Output(type="tar", dest="-")),
        ("out/dir", Output(type="local", dest="out/dir")),
        ("type=oci,dest=x.tar", Output(type="oci", dest="x.tar")),
        ("type=docker", Output(type="docker")),
        ("type=tar,dest=-", Output(type="tar", dest="-")),
        ("type=image,name=a,push=true", Output(type="registry", attrs={"name": "a"})),
        ("type=image,push=false", Output(type="image", attrs={"push": "false"})),
        ("type=oci,dest=d,compression=zstd,tar=false", Output(type="oci", dest="d", attrs={"compression": "zstd", "tar": "false"})),
    ],
)  # fmt: skip
def test_output(text: str, expected: Output) -> None:
    assert output(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid-output"),
        ("type=oci", "invalid-output"),
        ("type=local,dest=-", "invalid-output"),
        ("type=ocl,dest=x", "unknown-output-type"),
        ("dest=x", "invalid-output"),
        ("type=oci,dest=a,compression=rar", "invalid-output-attribute"),
    ],
)
def test_wrong_output(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        output(text)
    assert code_of(caught) == code


def test_push_and_load() -> None:
    assert outputs((), push=False, load=False) == (Output(type="image"),)
    assert outputs((), push=True, load=False) == (Output(type="registry"),)
    assert outputs((), push=False, load=True) == (Output(type="docker"),)
    assert outputs(("out",), push=True, load=True) == (
        Output(type="local", dest="out"), Output(type="registry"), Output(type="docker"),
    )  # fmt: skip
    assert outputs(("type=image,name=a",), push=True, load=False) == (
        Output(type="registry", attrs={"name": "a"}),
    )
    assert outputs(("type=docker",), push=False, load=True) == (Output(type="docker"),)
    assert len(outputs(("type=docker,dest=x",), push=False, load=True)) == 2
    with pytest.raises(UsageError) as caught:
        outputs(("-", "type=oci,dest=-"), push=False, load=False)
    assert code_of(caught) == "conflicting-options"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64m", 64 << 20),
        ("1", 1),
        ("2g", 2 << 30),
        ("1.5k", 1536),
        ("3KiB", 3072),
        ("10MB", 10 << 20),
        ("7b", 7),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert values.size("--shm-size", text) == expected


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 2", "٣m"])
def test_wrong_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.size("--shm-size", text)
    assert code_of(caught) == "invalid-option-value"


def test_ulimit() -> None:
    assert values.ulimit("nofile=1024") == Ulimit("nofile", 1024, 1024)
    assert values.ulimit("nofile=1024:4096") == Ulimit("nofile", 1024, 4096)
    assert values.ulimit("core=-1") == Ulimit("core", -1, -1)
    assert values.ulimit("core=5:unlimited") == Ulimit("core", 5, -1)
    for text in ("nofil=1", "nofile", "nofile=a", "nofile=5:4", "nofile=-1:4", "nofile="):
        with pytest.raises(UsageError) as caught:
            values.ulimit(text)
        assert code_of(caught) == "invalid-option-value"


def test_extra_host() -> None:
    assert values.extra_host("db:10.0.0.1") == ("db", "10.0.0.1")
    assert values.extra_host("db=10.0.0.1") == ("db", "10.0.0.1")
    assert values.extra_host("db:fe80::1") == ("db", "fe80::1")
    assert values.extra_host("db=[fe80::1]") == ("db", "fe80::1")
    assert values.extra_host("me:host-gateway") == ("me", "host-gateway")
    for text in ("db", "db:", ":10.0.0.1", "db:10.0.0", "db:example.org"):
        with pytest.raises(UsageError) as caught:
            values.extra_host(text)
        assert code_of(caught) == "invalid-option-value"


def test_platforms() -> None:
    amd, arm = Platform("linux", "amd64"), Platform("linux", "arm64")
    assert values.platforms(("linux/amd64,linux/arm64", "amd64")) == (amd, arm)
    assert values.platforms(("local",)) == (host_platform(),)
    assert values.platforms(()) == ()
    with pytest.raises(ArkwrightError) as caught:
        values.platforms(("a/b/c/d",))
    assert caught.value.code == "invalid-platform"


def test_build_args_take_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert values.settings("--build-arg", ("A=1", "A=2", "HERE", "NOWHERE", "E=")) == {
        "A": "2",
        "HERE": "yes",
        "E": "",
    }
    assert values.settings("--env", ("A=1", "HERE", "NOWHERE")) == {"A": "1", "HERE": "yes"}
    with pytest.raises(UsageError) as caught:
        values.settings("--build-arg", ("=x",))
    assert code_of(caught) == "invalid-option-value"


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("hush")
    monkeypatch.setenv("TOKEN", "hush")
    found = secrets(("id=a,src=key", "id=TOKEN", "id=key", "id=c,env=TOKEN", "type=env,id=d,src=TOKEN"))
    assert {name: (spec.src, spec.env) for name, spec in found.items()} == {
        "a": (str(tmp_path / "key"), ""),
        "TOKEN": ("", "TOKEN"),
        "key": (str(tmp_path / "key"), ""),
        "c": ("", "TOKEN"),
        "d": ("", "TOKEN"),
    }
    assert "hush" not in repr(found)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("src=x", "invalid-option-value"),
        ("id=a,scr=x", "invalid-option-value"),
        ("id=a,type=vault", "invalid-option-value"),
        ("id=a,src=x,env=y", "invalid-option-value"),
        ("id=a,src=/nonexistent", "missing-secret"),
        ("id=a,env=NOT_SET_ANYWHERE", "missing-secret"),
        ("id=nothing-of-that-name", "missing-secret"),
    ],
)
def test_wrong_secrets(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        secrets((text,))
    assert code_of(caught) == code


def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "agent"
    socket.touch()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    assert agents(("default", f"other={socket}")) == {"default": str(socket), "other": str(socket)}
    with pytest.raises(UsageError) as caught:
        agents((f"a={tmp_path}/none",))
    assert code_of(caught) == "no-ssh-agent"
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(UsageError) as caught:
        agents(("default",))
    assert code_of(caught) == "no-ssh-agent"


DOCUMENT = {"config": {"Env": ["A=1"], "Labels": {"org.example.a": "x"}}, "Digest": "sha256:1"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("config.Env", ["A=1"]),
        ("Config.env.0", "A=1"),
        ("digest", "sha256:1"),
        ("{{.Config.Labels}}", {"org.example.a": "x"}),
        ("config.Labels.org.example.a", "x"),
    ],
)
def test_fields(path: str, expected: object) -> None:
    assert field(DOCUMENT, path) == expected


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("confg.Env", "did you mean config?"),
        ("config.Env.7", None),
        ("digest.x", None),
        ("Env", "did you mean config.Env?"),
    ],
)
def test_unknown_fields(path: str, hint: str | None) -> None:
    with pytest.raises(ArkwrightError) as caught:
        field(DOCUMENT, path)
    assert caught.value.code == "unknown-field"
    assert caught.value.diagnostics[0].hint == hint
