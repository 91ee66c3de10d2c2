"""Builds for several platforms: indexes, shared stages, foreign steps with and without emulation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arkwright.linux.emulation import program
from building import Builder, Context, MakeBuilder

BOTH = "--platform=linux/amd64,linux/arm64"
HOST = Path(__file__).parent / "binfmt_host.py"
# No kernel and no emulator that Arkwright knows runs this one, so every host refuses it.
NOWHERE = "linux/sparc64"
FOREIGN_COPY = "FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 prog-$TARGETARCH /prog\n"


def blob(builder: Builder, digest: str) -> Any:
    (path,) = [found for found in builder.store.rglob(digest[7:]) if found.is_file()]
    return json.loads(path.read_bytes())


def configs(builder: Builder, digest: str) -> dict[str, Any]:
    """The image configs below an index, by platform, in its order."""
    index = blob(builder, digest)
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    found = {}
    for entry in index["manifests"]:
        manifest = blob(builder, entry["digest"])
        platform = entry["platform"]
        name = "/".join(platform[key] for key in ("os", "architecture", "variant") if key in platform)
        found[name] = blob(builder, manifest["config"]["digest"])
    return found


@pytest.fixture(scope="module")
def programs() -> dict[str, bytes]:
    """A program per architecture that ends with status 0."""
    return {f"prog-{name}": program(name) for name in ("amd64", "arm64", "386", "riscv64", "s390x")}


@pytest.fixture
def on_host(make_builder: MakeBuilder) -> Callable[..., Builder]:
    """A builder on a host whose binfmt_misc has handlers for these architectures."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])

    def make(identity: str, architectures: str, flags: str = "POCF") -> Builder:
        if os.geteuid() != 0:
            pytest.skip("needs-root: a user namespace with all ids")
        if release < (6, 7):
            pytest.skip("needs-linux-6.7: binfmt_misc in user namespaces")
        if architectures and shutil.which("qemu-aarch64-static") is None:
            pytest.skip("needs-qemu-aarch64-static: the package qemu-user-static")
        builder = make_builder(identity)
        builder.prefix = [sys.executable, str(HOST), architectures, flags, *builder.prefix]
        return builder

    return make


def test_an_index_has_one_manifest_per_platform(builder: Builder, context: Context) -> None:
    root = context({
        "Dockerfile": "FROM scratch\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT TARGETOS\n"
        "ARG BUILDPLATFORM\nCOPY $TARGETARCH$TARGETVARIANT /file\n"
        "LABEL target=$TARGETOS/$TARGETARCH/$TARGETVARIANT platform=$TARGETPLATFORM build=$BUILDPLATFORM\n",
        "amd64": "a", "arm64": "b", "armv7": "c",
    })  # fmt: skip
    built = builder.build(root, "--platform=linux/arm64/v8,linux/arm", "--platform=linux/amd64")
    found = configs(builder, built.digest)
    assert list(found) == ["linux/amd64", "linux/arm/v7", "linux/arm64"]
    labels = {name: config["config"]["Labels"] for name, config in found.items()}
    assert labels["linux/arm/v7"] == {
        "target": "linux/arm/v7", "platform": "linux/arm/v7", "build": "linux/amd64",
    }  # fmt: skip
    assert labels["linux/arm64"]["target"] == "linux/arm64/"
    assert len({str(config["rootfs"]) for config in found.values()}) == 3
    again = builder.build(root, "--platform=linux/amd64,linux/arm/v7,linux/arm64")
    assert (again.digest, again.ran) == (built.digest, [])


def test_a_build_stage_is_shared_and_foreign_stages_only_copy(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": (
        "FROM --platform=$BUILDPLATFORM busybox AS common\nRUN echo shared > /shared\n"
        "FROM common AS compile\nARG TARGETARCH\nRUN uname -m > /out; echo $TARGETARCH >> /out\n"
        "FROM scratch\nCOPY --from=compile /out /shared /\nWORKDIR /new\n"
    )})  # fmt: skip
    built = builder.build(root, BOTH, f"--output=type=local,dest={builder.home}/out")
    assert sum("echo shared" in name for name in built.ran) == 1
    assert sum("uname -m" in name for name in built.ran) == 2
    machine = os.uname().machine
    for arch in ("amd64", "arm64"):
        assert (builder.home / f"out/linux_{arch}/out").read_text() == f"{machine}\n{arch}\n"
        assert (builder.home / f"out/linux_{arch}/new").is_dir()


def test_a_foreign_step_is_refused_before_anything_runs(builder: Builder, context: Context) -> None:
    root = context({
        "Dockerfile": "FROM --platform=$BUILDPLATFORM busybox AS tool\nRUN echo made > /made\n"
        "FROM scratch\nCOPY --from=tool /made /bin/\nRUN [\"/prog\"]\n"
    })  # fmt: skip
    done = builder.run("build", "--progress=plain", f"--platform=linux/amd64,{NOWHERE}", str(root), status=4)
    assert "error[no-emulation]" in done.err
    assert NOWHERE in done.err
    assert "Dockerfile:5" in done.err
    assert "BUILDPLATFORM" in done.err
    assert "echo made" not in done.out + done.err.split("error[")[0]


def test_two_refused_platforms_are_named_at_once(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": 'FROM scratch\nCOPY Dockerfile /\nRUN ["/one"]\nRUN ["/two"]\n'})
    done = builder.run(
        "build", "--progress=plain", "--platform=linux/sparc64,windows/amd64", str(root), status=4
    )
    assert done.err.count("error[no-emulation]") == 2
    assert "windows/amd64" in done.err
    assert "Dockerfile:3" in done.err
    assert "Dockerfile:4" not in done.err


def test_native_386_runs_on_amd64(builder: Builder, context: Context, programs: dict[str, bytes]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs-amd64: a host that runs 386 programs")
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\n', **programs})
    built = builder.build(root, "--platform=linux/386")
    assert any("/prog" in name for name in built.ran)


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_registered_emulators_run_foreign_steps(
    on_host: Callable[..., Builder], identity: str, context: Context, programs: dict[str, bytes]
) -> None:
    builder = on_host(identity, "arm64,riscv64")
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\n', **programs})
    built = builder.build(root, "--platform=linux/amd64,linux/arm64,linux/riscv64")
    assert sum("RUN" in name for name in built.ran) == 3
    assert list(configs(builder, built.digest)) == ["linux/amd64", "linux/arm64", "linux/riscv64"]


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_cached_foreign_build_needs_no_emulation(
    on_host: Callable[..., Builder], identity: str, context: Context, programs: dict[str, bytes]
) -> None:
    builder = on_host(identity, "arm64")
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\nCOPY extra /\n', "extra": "1", **programs})
    first = builder.build(root, "--platform=linux/arm64")
    bare = on_host(identity, "")
    bare.env["PATH"] = without_emulators(builder)
    again = bare.build(root, "--platform=linux/arm64")
    assert (again.digest, again.ran) == (first.digest, [])
    # What follows the step may change; what stands before it may be made again, if it comes out equal.
    (root / "extra").write_text("2")
    assert not any("RUN" in name for name in bare.build(root, "--platform=linux/arm64").ran)
    (root / "prog-arm64").write_bytes(program("arm64") + b"changed")
    bare.run("build", "--progress=plain", "--platform=linux/arm64", str(root), status=4)


def without_emulators(builder: Builder) -> str:
    """A PATH of links to everything but emulators."""
    folder = builder.scratch / "bin"
    if not folder.exists():
        folder.mkdir()
        for place in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            for path in Path(place).iterdir() if Path(place).is_dir() else ():
                if not path.name.startswith("qemu-") and not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path)
    return str(folder)


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_handler_without_the_fixed_binary_flag_does_not_count(
    on_host: Callable[..., Builder], identity: str, context: Context, programs: dict[str, bytes]
) -> None:
    builder = on_host(identity, "arm64", "POC")
    builder.env["PATH"] = without_emulators(builder)
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\n', **programs})
    done = builder.run("build", "--progress=plain", "--platform=linux/arm64", str(root), status=4)
    assert "error[no-emulation]" in done.err
    assert "flag F" in done.err


def test_a_user_needs_no_registration(
    on_host: Callable[..., Builder], context: Context, programs: dict[str, bytes]
) -> None:
    builder = on_host("subids", "")
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("needs-qemu-aarch64-static: the package qemu-user-static")
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\n', **programs})
    built = builder.build(root, "--platform=linux/386,linux/arm64,linux/s390x,linux/amd64")
    assert sum("RUN" in name for name in built.ran) == 4


def test_root_without_handlers_is_told_what_to_do(
    on_host: Callable[..., Builder], context: Context, programs: dict[str, bytes]
) -> None:
    builder = on_host("root", "")
    root = context({"Dockerfile": f'{FOREIGN_COPY}RUN ["/prog"]\n', **programs})
    done = builder.run("build", "--progress=plain", "--platform=linux/arm64", str(root), status=4)
    assert "error[no-emulation]" in done.err
    assert "linux/arm64" in done.err
    assert "binfmt" in done.err


def test_outputs_of_several_platforms(builder: Builder, context: Context) -> None:
    root = context(
        {"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /name\n", "amd64": "a", "arm64": "b"}
    )
    home = builder.home
    built = builder.build(
        root, BOTH, f"--output=type=oci,dest={home}/oci.tar", f"--output=type=tar,dest={home}/files.tar",
        f"--output=type=local,dest={home}/flat,platform-split=false", "--output=type=image", "-t", "many",
    )  # fmt: skip
    with tarfile.open(home / "oci.tar") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        assert [entry["digest"] for entry in index["manifests"]] == [built.digest]
    with tarfile.open(home / "files.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith("name")]
        assert names == ["linux_amd64/name", "linux_arm64/name"]
    assert (home / "flat/name").read_text() in ("a", "b")
    if shutil.which("skopeo"):
        shown = subprocess.run(
            ["skopeo", "inspect", "--raw", f"oci-archive:{home}/oci.tar"], capture_output=True, check=True
        )
        assert len(json.loads(shown.stdout)["manifests"]) == 2


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("--load", "docker-archive-platforms"),
        ("--output=type=docker,dest=image.tar", "docker-archive-platforms"),
        ("--output=type=tar,dest=files.tar,platform-split=false", "invalid-output-attribute"),
    ],
)
def test_outputs_that_hold_one_platform_refuse_two(
    module_builder: Builder, context: Context, output: str, code: str
) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo never\n"})
    done = module_builder.run("build", "--progress=plain", BOTH, output, str(root), status=1)
    assert f"error[{code}]" in done.err
    assert "echo never" not in done.err.split("error[")[0]


def test_named_contexts_by_platform(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nCOPY --from=files name /name\n"})
    for name in ("one", "two"):
        context({"name": name}, name)
    built = builder.build(
        root, BOTH, f"--output=type=local,dest={builder.home}/out",
        f"--build-context=files={root.parent}/one", f"--build-context=files::linux/arm64/v8={root.parent}/two",
    )  # fmt: skip
    assert built.digest == ""
    assert (builder.home / "out/linux_amd64/name").read_text() == "one"
    assert (builder.home / "out/linux_arm64/name").read_text() == "two"


@pytest.fixture(scope="module")
def arm64_busybox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """Debian's static busybox for arm64, fetched with a state of apt that is not the host's."""
    folder = tmp_path_factory.mktemp("apt")
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if shutil.which("apt-get") is None or not sources.exists():
        pytest.skip("needs-apt: a Debian host with a deb822 sources file")
    for name in ("lists/partial", "cache/archives/partial", "sources", "tree"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    stanza = sources.read_text().strip().split("\n\n")[0]
    suite = re.search(r"(?m)^Suites: *(\S+)", stanza)
    assert suite is not None
    (folder / "sources/debian.sources").write_text(
        re.sub(r"(?m)^Suites:.*", f"Suites: {suite[1]}", stanza) + "\n"
    )
    settings = {
        "Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status", "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": folder / "sources", "APT::Architecture": "arm64",
        "APT::Architectures": "arm64", "Acquire::Languages": "none", "APT::Sandbox::User": "",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    for command in (["update", "-qq"], ["download", "-qq", "busybox-static"]):
        done = subprocess.run(
            ["apt-get", *options, *command], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"needs-debian-archive: busybox-static for arm64: {done.stderr[:200]}")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "tree")], check=True)
    yield (folder / "tree/bin/busybox").read_bytes()
    shutil.rmtree(folder)


@pytest.mark.parametrize(("identity", "registered"), [("root", "arm64"), ("subids", "arm64"), ("subids", "")])
def test_a_foreign_busybox_runs_its_shell(
    on_host: Callable[..., Builder], identity: str, registered: str, context: Context, arm64_busybox: bytes
) -> None:
    builder = on_host(identity, registered)
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("needs-qemu-aarch64-static: the package qemu-user-static")
    root = context({
        "Dockerfile": "FROM scratch\nCOPY --chmod=755 busybox /bin/sh\nRUN uname -m > /machine && "
        "/bin/sh -c 'id -u' > /id && mkdir -p /a/b && ln -s b /a/c\n",
        "busybox": arm64_busybox,
    })  # fmt: skip
    builder.build(root, "--platform=linux/arm64", f"--output={builder.home}/out")
    assert (builder.home / "out/machine").read_text() == "aarch64\n"
    assert (builder.home / "out/id").read_text() == "0\n"
    assert (builder.home / "out/a/c").is_symlink()
