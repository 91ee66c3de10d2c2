"""What steps see besides their root: mounts, secrets, agents, networks, limits."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from copy_cases import result_tree

from building import Builder, Context, MakeBuilder, processes_with

VALUE = "s3cr3t-Value+with/odd=chars-0123456789"
DEADLINE_S = 60


@pytest.fixture(scope="module")
def builder(module_builder: Builder) -> Builder:
    return module_builder


def out(builder: Builder, root: Path, *args: str) -> str:
    """What the build left in /out."""
    seen = result_tree(builder, root, *args).seen("out")
    assert seen is not None
    assert seen.text is not None
    return seen.text


RACE = """FROM busybox AS {name}
RUN --mount=type=cache,target=/c,id={cache},sharing={sharing} <<EOT
set -e
touch /c/in-{name}
n=0; while [ $n -lt 40 ] && [ $(ls /c | wc -l) -lt 2 ]; do n=$((n+1)); usleep 50000; done
ls /c | wc -l > /out
rm /c/in-{name}
EOT
"""


@pytest.mark.parametrize(("sharing", "most"), [("shared", 2), ("locked", 1), ("private", 1)])
def test_sharing_of_cache_mounts(sharing: str, most: int, builder: Builder, context: Context) -> None:
    """Two steps meet in a shared cache; they do not in a locked or a private one."""
    stages = [RACE.format(name=name, cache=f"race-{sharing}", sharing=sharing) for name in ("a", "b")]
    text = "".join(stages) + "FROM scratch\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n"
    tree = result_tree(builder, context({"Dockerfile": text}), "--jobs", "2", "--no-cache")
    seen = [tree.contents[name].decode().strip() for name in ("a", "b")]
    assert max(seen) == str(most)


SECRETS = """FROM busybox
RUN --mount=type=secret,id=token --mount=type=cache,target=/c <<EOT
stat -c '%a %u:%g' /run/secrets/token > /out
cat /run/secrets/token; cat /run/secrets/token >&2
touch /c/ready
while [ ! -e /c/go ]; do usleep 20000; done
EOT
RUN --mount=type=secret,id=token,target=/etc/t,mode=440,uid=7,gid=8 stat -c '%a %u:%g' /etc/t >> /out
RUN --mount=type=secret,id=token,env=TOKEN echo "value $TOKEN" && [ ! -e /run/secrets/token ] && echo ${#TOKEN} >> /out
RUN --mount=type=secret,id=nothing [ ! -e /run/secrets/nothing ]
"""


def forms(value: str) -> list[bytes]:
    """The value, and what of its base64 forms does not depend on what is around it."""
    shifted = [base64.b64encode(b"x" * shift + value.encode()) for shift in range(3)]
    return [value.encode(), value.encode().hex().encode(), *(text[4:-4] for text in shifted)]


def holds(path: Path, wanted: list[bytes]) -> bool:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data += gzip.decompress(data)
    return any(form in data for form in wanted)


def leaks(top: Path, value: str) -> list[str]:
    """Files below a directory that hold a value, plain, encoded or compressed."""
    wanted = forms(value)
    paths = (Path(where) / name for where, _, names in os.walk(top) for name in names)
    return [str(path) for path in paths if path.is_file() and not path.is_symlink() and holds(path, wanted)]


def processes_holding(value: str) -> list[str]:
    """Command lines of processes outside of the step whose arguments or environment hold a value."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            inside = os.readlink(f"/proc/{name}/root") != "/"
            texts = [Path(f"/proc/{name}/{kind}").read_bytes() for kind in ("cmdline", "environ")]
        except OSError:
            continue
        if not inside and any(value.encode() in text for text in texts):
            found.append(texts[0].decode())
    return found


def wait_for(cache_mounts: Path, name: str, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        for path in cache_mounts.glob(f"*/shared/{name}"):
            return path
        time.sleep(0.02)
    raise AssertionError(f"no step made {name}")


def test_a_secret_is_seen_by_its_step_and_nobody_else(make_builder: MakeBuilder, context: Context) -> None:
    for identity in ("root", "subids"):
        builder = make_builder(identity)
        root = context({"Dockerfile": SECRETS})
        secret = builder.home / "token"
        secret.write_text(VALUE)
        os.chown(secret, builder.uid, builder.uid)
        args = ("build", "--progress", "plain", "-t", "s", "--secret", f"id=token,src={secret}", str(root))
        process = builder.start(*args)
        ready = wait_for(builder.store / "cache-mounts", "ready", process)
        try:
            assert processes_with("token,src=")
            assert processes_holding(VALUE) == []
        finally:
            (ready.parent / "go").touch()
            printed = "".join(process.communicate(timeout=DEADLINE_S))
        assert process.returncode == 0, printed
        assert VALUE not in printed
        assert printed.count("***") >= 3
        assert leaks(builder.store, VALUE) == []
        assert builder.run("run", "s", "cat", "/out").out == f"400 0:0\n440 7:8\n{len(VALUE)}\n"
        assert (
            builder.run(
                "run", "s", "sh", "-c", "ls /run/secrets 2>/dev/null; ls /etc/t 2>/dev/null; true"
            ).out
            == ""
        )
        secret.write_text("another value, not the same")
        again = builder.build(root, "--secret", f"id=token,src={secret}")
        assert again.ran == []


def test_the_search_for_leaks_finds_them(scratch: Path) -> None:
    (scratch / "layer").write_bytes(gzip.compress(b"tar " + VALUE.encode()))
    (scratch / "journal").write_bytes(base64.b64encode(b"a line with " + VALUE.encode() + b" in it"))
    assert len(leaks(scratch, VALUE)) == 2


def test_a_failing_step_does_not_tell_its_secret(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    builder.env["TOKEN"] = VALUE
    text = "FROM busybox\nRUN --mount=type=secret,id=TOKEN,env=T --mount=type=secret,id=TOKEN echo $T; cat /run/secrets/TOKEN; exit 3\n"
    done = builder.run(
        "build", "--progress", "plain", "--secret", "id=TOKEN", str(context({"Dockerfile": text})), status=1
    )
    assert VALUE not in done.out + done.err
    assert "***" in done.err
    assert leaks(builder.store, VALUE) == []


def test_network_hosts_and_limits(builder: Builder, context: Context) -> None:
    text = """FROM busybox
RUN ls /sys/class/net > /out
RUN --network=none ls /sys/class/net > /none
RUN grep example.test /etc/hosts > /hosts; ulimit -n > /limits; ulimit -Hn >> /limits; df -k /dev/shm | tail -1 > /shm
"""
    root = context({"Dockerfile": text})
    tree = result_tree(
        builder, root, "--network", "none", "--add-host", "example.test:10.1.2.3", "--ulimit", "nofile=100:200",
        "--shm-size", "2m",
    )  # fmt: skip
    contents = {
        name: tree.contents[name].decode().split() for name in ("out", "none", "hosts", "limits", "shm")
    }
    assert contents["out"] == contents["none"] == ["lo"]
    assert contents["hosts"] == ["10.1.2.3", "example.test"]
    assert contents["limits"] == ["100", "200"]
    assert contents["shm"][1] == "2048"
    tree.check({"etc/hosts": None})


def test_the_hosts_network_is_there_by_request(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN readlink /proc/self/ns/net > /out\n"})
    assert out(builder, root, "--network", "host").strip() == os.readlink("/proc/self/ns/net")
    assert out(builder, root, "--network", "none").strip() != os.readlink("/proc/self/ns/net")


def test_proxies_reach_steps_but_no_history_and_no_key(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo $HTTPS_PROXY > /out\n"})
    proxy = "http://user:pw@proxy.test:3128"
    assert out(builder, root, "--build-arg", f"HTTPS_PROXY={proxy}") == f"{proxy}\n"
    built = builder.build(root, "-t", "p", "--build-arg", "HTTPS_PROXY=http://another.test")
    assert built.ran == []
    document = builder.run("inspect", "p").out
    assert "proxy.test" not in document
    assert "another.test" not in document
    assert msgspec.json.decode(document)["digest"] == built.digest
