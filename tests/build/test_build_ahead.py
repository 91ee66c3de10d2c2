"""Bases are looked up side by side: the registry of this test answers nobody before all have asked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from building import Builder, Context, MakeBuilder
from loopback_server import Exchange, LoopbackRegistry

CHILD = Path(__file__).with_name("forking.py")
COUNT = 4
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Together(LoopbackRegistry):
    """Holds the first request for each manifest until `COUNT` different ones were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(COUNT)
        self.held: set[str] = set()
        self.met = 0

    def respond(self, exchange: Exchange) -> None:
        name = exchange.path.partition("/manifests/")[0]
        with self.lock:
            first = "/manifests/" in exchange.path and name not in self.held
            self.held.add(name if first else "")
        if first:
            try:
                self.barrier.wait(20)
                with self.lock:
                    self.met += 1
            except threading.BrokenBarrierError:
                pass
        super().respond(exchange)


@pytest.fixture
def registry() -> Iterator[Together]:
    with Together() as made:
        config = msgspec.json.encode(
            {
                "os": "linux",
                "architecture": "amd64",
                "config": {"Env": ["A=b"]},
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        )
        digest = made.add_blob(config)
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)},
        }  # fmt: skip
        data = msgspec.json.encode(manifest)
        made.add_manifest("latest", MANIFEST, data)
        made.add_manifest("sha256:" + hashlib.sha256(data).hexdigest(), MANIFEST, data)
        yield made


def test_bases_are_looked_up_side_by_side(
    make_builder: MakeBuilder, context: Context, registry: Together
) -> None:
    stages = [
        f"FROM {registry.host}/base{number} AS s{number}\nWORKDIR /w{number}\n" for number in range(COUNT - 1)
    ]
    copies = [f"COPY --from=s{number} / /\n" for number in range(COUNT - 1)]
    text = "".join([*stages, f"FROM {registry.host}/last\n", *copies])
    builder = make_builder("root")
    root = context({"Dockerfile": text})
    builder.run("build", str(root))
    assert registry.met == COUNT
    # What they found is used, and is in the store: nobody asks again.
    asked = len(registry.requests())
    assert len(registry.requests("", r"/manifests/latest")) == COUNT
    builder.run("build", str(root))
    assert len(registry.requests()) == asked


def test_what_is_not_there_is_told_with_its_place(
    make_builder: MakeBuilder, context: Context, registry: Together
) -> None:
    registry.barrier = threading.Barrier(1)
    text = f"FROM {registry.host}/a AS a\nFROM {registry.host}/b:gone\nCOPY --from=a / /\n"
    done = make_builder("root").run("build", str(context({"Dockerfile": text})), status=1)
    assert "error[unknown-image]" in done.err
    assert "Dockerfile:2:6" in done.err


def test_no_database_connection_crosses_a_fork(
    builder: Builder, context: Context, registry: Together, scratch: Path
) -> None:
    registry.barrier = threading.Barrier(1)
    report = scratch / "report"
    report.touch()
    report.chmod(0o666)
    bases = f"FROM {registry.host}/a AS a\nFROM {registry.host}/b\nCOPY --from=a / /\n"
    step = "FROM --platform=$BUILDPLATFORM busybox\nRUN true\n"
    builder.env["ARKWRIGHT_QUOTA"] = "1g"
    for text, platform in (
        (bases, "linux/amd64"),
        (step, "linux/amd64"),
        ("FROM busybox\nRUN true\n", "linux/s390x"),
    ):
        root = context({"Dockerfile": text})
        subprocess.run(
            [*builder.prefix, sys.executable, str(CHILD), str(report), "build", "--platform", platform, str(root)],
            cwd=builder.home, env=builder.env, check=platform == "linux/amd64", capture_output=True,
            stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
    forks = report.read_text().splitlines()
    assert len(forks) >= 5
    assert set(forks) == {""}
