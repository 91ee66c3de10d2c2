"""WORKDIR, USER, SHELL and the image's config, as seen from outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from copy_cases import Case, Seen, make, run_case

from building import Builder


@pytest.fixture(scope="module")
def builder(module_builder: Builder) -> Builder:
    return module_builder


@pytest.fixture
def root(builder: Builder) -> Iterator[Path]:
    """Where a context is made."""
    path = builder.scratch / "context"
    path.mkdir()
    yield path
    shutil.rmtree(path)


STEPS = [
    Case(
        "WORKDIR makes missing parts 0755, owned by the current USER; relative to the one before",
        "FROM scratch\nCOPY --chmod=700 f /there/f\nUSER 7:8\nWORKDIR /there\nWORKDIR a/b\nCOPY f .\n", {"f": "x"},
        {
            "there": Seen("dir", None, 0o700, (0, 0)), "there/a": Seen("dir", None, 0o755, (7, 8)),
            "there/a/b": Seen("dir", None, 0o755, (7, 8)), "there/a/b/f": Seen("file", "x", None, (0, 0)),
        },
    ),
    Case(
        "USER without a passwd entry: gid 0, HOME=/",
        "FROM busybox\nUSER 1234\nWORKDIR /w\nRUN echo $HOME $(id -u):$(id -g) > out\n", {},
        {"w/out": Seen("file", "/ 1234:0\n", 0o644, (1234, 0))},
    ),
    Case(
        "USER name: primary and supplementary groups; name:group only that one; HOME from passwd",
        "FROM busybox\nRUN echo 'app:x:77:88::/home/app:/bin/sh' >> /etc/passwd && echo 'extra:x:99:app' >> /etc/group"
        " && mkdir -m 777 /w\nUSER app\nRUN echo $HOME $(id -u) $(id -G) > /w/a\nUSER app:extra\n"
        "RUN echo $(id -u) $(id -G) > /w/b\n", {},
        {"w/a": Seen("file", "/home/app 77 88 99\n"), "w/b": Seen("file", "77 99\n")},
    ),
    Case(
        "SHELL changes the shell form",
        'FROM busybox\nSHELL ["/bin/sh", "-xec"]\nRUN echo $0 > /out\nSHELL ["/bin/busybox", "echo", "-n"]\n', {},
        {"out": Seen("file")},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.fact[:50])
def test_step(case: Case, builder: Builder, root: Path) -> None:
    run_case(builder, root, case)


CONFIG = [
    ("ENTRYPOINT clears an inherited CMD, not its own stage's",
     'FROM scratch AS a\nCMD ["old"]\nFROM a\nENTRYPOINT ["e"]\n', {"Entrypoint": ["e"], "Cmd": None}),
    ("ENTRYPOINT keeps a CMD of the same stage",
     'FROM scratch\nCMD ["own"]\nENTRYPOINT ["e"]\n', {"Entrypoint": ["e"], "Cmd": ["own"]}),
    ("shell forms use SHELL", 'FROM scratch\nSHELL ["/bin/ash", "-c"]\nCMD a b\n',
     {"Cmd": ["/bin/ash", "-c", "a b"], "Shell": ["/bin/ash", "-c"]}),
    ("HEALTHCHECK", "FROM scratch\nHEALTHCHECK --interval=1m30s --timeout=5s --retries=3 CMD check it\n",
     {"Healthcheck": {"Test": ["CMD-SHELL", "check it"], "Interval": 90 * 10**9, "Timeout": 5 * 10**9, "Retries": 3}}),
    ("HEALTHCHECK NONE", "FROM scratch\nHEALTHCHECK NONE\n", {"Healthcheck": {"Test": ["NONE"]}}),
    ("EXPOSE of ranges and protocols", "FROM scratch\nEXPOSE 80 8000-8002/udp 53/sctp\n",
     {"ExposedPorts": {name: {} for name in ("80/tcp", "8000/udp", "8001/udp", "8002/udp", "53/sctp")}}),
    ("STOPSIGNAL, VOLUME, USER, LABEL", 'FROM scratch\nSTOPSIGNAL SIGINT\nVOLUME /a /b\nUSER me:us\nLABEL a=1 b="2 3"\n',
     {"StopSignal": "SIGINT", "Volumes": {"/a": {}, "/b": {}}, "User": "me:us", "Labels": {"a": "1", "b": "2 3"}}),
    ("ONBUILD is kept in the config", "FROM scratch\nONBUILD RUN make\n", {"OnBuild": ["RUN make"]}),
    ("PATH is there when the base has none", "FROM scratch\nENV A=b\n",
     {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"]}),
    ("WORKDIR is cleaned and joined", "FROM scratch\nWORKDIR /a/../b\nWORKDIR c/\n", {"WorkingDir": "/b/c"}),
    ("HOME is not stored", "FROM scratch\nUSER 1234\n", {"User": "1234"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in CONFIG], ids=[case[0] for case in CONFIG]
)
def test_config(text: str, expected: dict[str, Any], builder: Builder, root: Path) -> None:
    make(root, {"Dockerfile": text}, builder.uid)
    builder.run("build", "-t", "config:1", str(root))
    config = msgspec.json.decode(builder.run("inspect", "config:1").out)["config"]["config"]
    assert {key: config.get(key) for key in expected} == expected
    assert not any(item.startswith("HOME=") for item in config.get("Env") or ())


def test_an_empty_layer_is_no_layer_in_history_and_workdir_is_one(builder: Builder, root: Path) -> None:
    make(
        root, {"Dockerfile": "FROM scratch\nENV A=b\nWORKDIR /\nWORKDIR /w\nWORKDIR /w\nCOPY f /f\n", "f": ""}
    )
    builder.run("build", "-t", "history:1", str(root))
    config = msgspec.json.decode(builder.run("inspect", "history:1").out)["config"]
    layers = [item["created_by"].split()[0] for item in config["history"] if not item.get("empty_layer")]
    assert layers == ["WORKDIR", "WORKDIR", "COPY"]
    assert len(config["rootfs"]["diff_ids"]) == 3
