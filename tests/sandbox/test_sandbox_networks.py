"""Networks of steps' own: what they reach and do not reach, who shares one, and that nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from linux_harness import eventually, processes_with
from network_world import GATEWAY, GATEWAY6, LOOPBACK_PORT
from sandbox_harness import Bench

from arkwright.sandbox.network import HOST, NONE, Network, hosts_file, resolv_conf
from arkwright.sandbox.spec import Bind, StepSpec

WORLD = Path(__file__).with_name("network_world.py")


@pytest.fixture
def world(bench: Bench) -> Bench:
    """A bench on a host with a small outside (see `network_world`)."""
    if os.geteuid() != 0:
        pytest.skip("needs-root: a network namespace with an outside")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("needs-tun: the kernel module tun")
    if shutil.which("ip") is None:
        pytest.skip("needs-ip: the package iproute2")
    bench._prefix = [sys.executable, str(WORLD), *bench._prefix]
    return bench


def step(script: str, **fields: object) -> StepSpec:
    return StepSpec(args=("/bin/sh", "-c", script), **fields)  # type: ignore[arg-type]


class OwnNetwork:
    """What a network by either tool is."""

    gateway = ""

    def test_outside_and_own_loopback(self, world: Bench) -> None:
        reached = f"nc -w 5 {GATEWAY} 80 < /dev/null"
        names = "readlink /proc/self/ns/net; ip -o link | wc -l"
        refused = "; ".join(
            f"nc -w 1 {address} {LOOPBACK_PORT} < /dev/null && echo reached"
            for address in ("127.0.0.1", "::1", self.gateway, GATEWAY, "169.254.1.1", "10.0.2.3")
        )
        found = world.steps(step(reached), step(names), step(refused), step(names, network="host"))
        assert world.notices == []
        assert found[0].out == "outside\n", found[0].err
        assert found[1].out.split()[1] == "2"  # lo and one more
        assert found[1].out.split()[0] != found[3].out.split()[0]
        assert found[2].out == "", found[2].out

    def test_the_resolver_of_the_hosts_loopback_answers(self, world: Bench) -> None:
        outcome = world.steps(step("cat /etc/resolv.conf; busybox nslookup anything.example.test"))[0]
        assert "search example.test" in outcome.out
        assert "nameserver 127." not in outcome.out
        assert GATEWAY in outcome.out, outcome.out

    def test_nothing_reaches_the_step(self, world: Bench) -> None:
        shared = (Bind(source=str(world.shared), dest="/shared", readonly=False),)
        listen = (
            "nc -l -p 8000 < /dev/null & touch /shared/up; while test ! -e /shared/down; do sleep 0.01; done"
        )
        reach = (
            "while test ! -e /shared/up; do sleep 0.01; done; n=0; "
            "while [ $n -lt 20 ]; do nc -w 1 127.0.0.1 8000 < /dev/null && echo reached; n=$((n+1)); sleep 0.02; "
            "done; touch /shared/down"
        )
        found = world.steps(
            step(listen, mounts=shared), step(reach, mounts=shared, network="host"), together=True
        )
        assert [item.status and item.status.status for item in found] == [0, 0], found[1].err
        assert found[1].out == ""

    def test_who_shares_a_network(self, world: Bench) -> None:
        mine = "readlink /proc/self/ns/net"
        talk = f"{mine}; nc -l -p 8000 < /dev/null & until nc -w 1 127.0.0.1 8000 < /dev/null; do sleep 0.01; done"
        found = world.steps(step(mine), step(talk), step(mine), step(mine, security="insecure"), step(mine))
        first, talked, after, insecure, last = (item.out.strip() for item in found)
        assert first == talked  # nothing was left there
        assert after != talked  # a connection was
        assert insecure == after
        assert last != insecure  # who knows what it did

    def test_steps_at_the_same_time_have_their_own(self, world: Bench) -> None:
        shared = (Bind(source=str(world.shared), dest="/shared", readonly=False),)
        script = (
            "readlink /proc/self/ns/net; touch /shared/{0}; while test ! -e /shared/{1}; do sleep 0.01; done"
        )
        specs = [step(script.format(*pair), mounts=shared) for pair in (("a", "b"), ("b", "a"))]
        names = {item.out for item in world.steps(*specs, together=True)}
        assert len(names) == 2
        assert world.left == ["state"] or all(name.startswith(("network-", "state")) for name in world.left)

    def test_a_tool_that_dies_is_replaced(self, world: Bench) -> None:
        shared = (Bind(source=str(world.shared), dest="/shared", readonly=False),)
        wait = "touch /shared/up; while test ! -e /shared/down; do sleep 0.01; done"
        again = f"nc -w 5 {GATEWAY} 80 < /dev/null > /shared/answer"
        process = world.launch(step(wait, mounts=shared), step(again, mounts=shared))
        try:
            assert eventually((world.shared / "up").exists)
            (tool,) = self._tools(world)
            os.kill(tool, signal.SIGKILL)
            # Init tells of ends in their order: the builder hears of this one before the step's.
            assert eventually(lambda: not Path(f"/proc/{tool}").exists())
            (world.shared / "down").touch()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate(timeout=60)
        assert (world.shared / "answer").read_text() == "outside\n"

    @pytest.mark.parametrize("victim", ["supervisor", "worker", "init"])
    def test_no_tool_survives_a_kill(self, world: Bench, victim: str) -> None:
        shared = (Bind(source=str(world.shared), dest="/shared", readonly=False),)
        process = world.launch(step("touch /shared/up; sleep 1000", mounts=shared))
        try:
            assert eventually((world.shared / "up").exists)
            assert self._tools(world)
            os.kill(_pid(process.pid, victim), signal.SIGKILL)
            assert eventually(lambda: not self._tools(world)), self._tools(world)
        finally:
            process.kill()
            process.communicate(timeout=60)

    def _tools(self, bench: Bench) -> list[int]:
        return processes_with(f"{bench.store}/run/network-")


def _pid(supervisor: int, victim: str) -> int:
    def child(pid: int) -> int:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    worker = child(supervisor)
    return {"supervisor": supervisor, "worker": worker, "init": child(worker)}[victim]


class TestPasta(OwnNetwork):
    factory = "by_pasta"
    needs = ("crun", "pasta")
    gateway = GATEWAY

    @pytest.fixture(autouse=True)
    def of_2024(self) -> None:
        said = subprocess.run(["pasta", "--version"], capture_output=True, text=True).stdout
        if not re.search(r"20(2[4-9]|[3-9]\d)[_\d]{4}", said.partition("\n")[0]):
            pytest.skip("needs-pasta: a version of 2024 or later")

    def test_ipv6(self, world: Bench) -> None:
        outcome = world.steps(step(f"nc -w 5 {GATEWAY6} 80 < /dev/null"))[0]
        assert outcome.out == "outside\n", outcome.err


class TestOldPasta:
    factory = "by_pasta"
    needs = ("crun", "pasta")

    def test_it_is_not_used(self, world: Bench) -> None:
        said = subprocess.run(["pasta", "--version"], capture_output=True, text=True).stdout
        if "unknown version" not in said:
            pytest.skip("needs-pasta: one that does not know its version, as that of Debian 12")
        found = world.steps(
            step("readlink /proc/self/ns/net"), step("readlink /proc/self/ns/net", network="host")
        )
        assert found[0].out == found[1].out
        assert len(world.notices) == 1
        assert "loses the ends of connections" in world.notices[0]


class TestSlirp4netns(OwnNetwork):
    factory = "by_slirp4netns"
    needs = ("crun", "slirp4netns")
    gateway = "10.0.2.2"


class TestBubblewrapNetwork:
    factory = "bubblewrap"
    needs = ("bwrap", "slirp4netns")

    def test_outside(self, world: Bench) -> None:
        found = world.steps(
            step(f"nc -w 5 {GATEWAY} 80 < /dev/null; nc -w 1 127.0.0.1 {LOOPBACK_PORT} < /dev/null")
        )
        assert found[0].out == "outside\n", found[0].err


class TestChrootNetwork:
    factory = "namespaced_chroot"
    needs = ("slirp4netns",)

    def test_outside_and_none(self, world: Bench) -> None:
        reach = f"nc -w 5 {GATEWAY} 80 < /dev/null; nc -w 1 127.0.0.1 {LOOPBACK_PORT} < /dev/null"
        found = world.steps(step(reach), step(f"{reach}; ip -o link | wc -l", network="none"))
        assert found[0].out == "outside\n", found[0].err
        assert found[1].out == "1\n"


class TestNoTool:
    factory = "by_nothing"
    needs = ("crun",)

    def test_the_hosts_network_with_one_notice(self, bench: Bench) -> None:
        found = bench.steps(*(step("readlink /proc/self/ns/net") for _ in range(2)))
        assert {item.out.strip() for item in found} == {os.readlink("/proc/self/ns/net")}
        assert bench.notices == ["steps use the host's network: no-such-tool is not installed"]


# --- The files of the resolver ---------------------------------------------------------------

OWN = Network(kind="own", path="/x", nameserver="10.0.2.3")


@pytest.mark.parametrize(
    ("network", "host", "given"),
    [
        (HOST, "nameserver 127.0.0.53\n", "nameserver 127.0.0.53\n"),
        (NONE, "search a\nnameserver 127.0.0.1\n", ""),
        (NONE, "nameserver 192.0.2.1\n", ""),
        (OWN, "nameserver 192.0.2.1\noptions edns0\n", "nameserver 192.0.2.1\noptions edns0\n"),
        (OWN, "search a\nnameserver 127.0.0.53\n", "nameserver 10.0.2.3\nsearch a\n"),
        (OWN, "nameserver ::1\nnameserver 192.0.2.1\n", "nameserver 10.0.2.3\nnameserver 192.0.2.1\n"),
        (OWN, "", "nameserver 10.0.2.3\n"),
    ],
)
def test_resolv_conf(network: Network, host: str, given: str) -> None:
    assert resolv_conf(network, host).decode() == given


def test_hosts_file() -> None:
    lines = hosts_file("me", [("db", "10.0.0.1")]).decode().splitlines()
    assert lines[:2] == ["127.0.0.1\tlocalhost", "127.0.0.1\tme"]
    assert lines[-1] == "10.0.0.1\tdb"
