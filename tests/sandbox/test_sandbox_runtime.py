"""The OCI runtimes pass the suite; which of them is used."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from linux_harness import eventually, processes_with
from sandbox_harness import Bench, marker
from sandbox_suite import SandboxSuite

from arkwright.sandbox.spec import StepSpec
from building import host_mounts


class TestCrun(SandboxSuite):
    factory = "crun"
    needs = ("crun",)


class TestRunc(SandboxSuite):
    factory = "runc"
    needs = ("runc",)


class TestFallback:
    factory = "fallback"
    needs = ("crun",)

    def test_the_first_that_works(self, bench: Bench) -> None:
        found = bench.steps(StepSpec(args=("/bin/true",)), StepSpec(args=("/bin/true",)))[0]
        assert found.tier == ("crun" if bench.identity == "root" else "crun+userns")
        told = [text for text in bench.notices if not text.startswith("steps use the host's network")]
        assert "no-such-runtime is not installed" in told[0]
        assert "false does not work here" in told[1]
        # A user who may not open /dev/net/tun is told once, for two steps.
        assert len(set(bench.notices)) == len(bench.notices)


class TestNothing:
    factory = "nothing"
    needs = ()

    def test_no_runtime(self, bench: Bench) -> None:
        assert bench.steps(StepSpec(args=("/bin/true",)))[0].error == "no-runtime"


class TestBuiltInProfile:
    factory = "unprofiled"
    needs = ("crun",)

    def test_dangerous_calls_are_refused(self, bench: Bench) -> None:
        """With every capability but the filter, so that it is the filter which refuses."""
        script = "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp; sh -c 'echo fork works'"
        found = bench.sh(script)
        assert found.out.split() == ["Seccomp:", "2", "fork", "works"]
        assert "Operation not permitted" in found.err or "permission denied" in found.err


class Kills:
    """Nothing of a step survives a kill of any process of ours."""

    needs: tuple[str, ...] = ()

    @pytest.mark.parametrize("victim", ["supervisor", "worker", "init", "runtime"])
    def test_kill(self, bench: Bench, victim: str) -> None:
        mark, mounts = marker(), host_mounts()
        script = f"setsid sleep 1000 {mark} & sleep 1000 {mark}"
        process = bench.launch(StepSpec(args=("/bin/sh", "-c", script), network="host"))
        try:
            assert eventually(lambda: len(processes_with(mark)) >= 2)
            os.kill(self._pid(process.pid, victim, mark), signal.SIGKILL)
            assert eventually(lambda: not processes_with(mark)), processes_with(mark)
            assert host_mounts() == mounts
        finally:
            process.kill()
            process.communicate(timeout=60)
        assert eventually(lambda: not list(Path("/sys/fs/cgroup").glob("*/step-*")))
        assert bench.say("echo again") == "again"

    @staticmethod
    def _pid(supervisor: int, victim: str, mark: str) -> int:
        def child(pid: int) -> int:
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

        worker = child(supervisor)
        pids = {"supervisor": supervisor, "worker": worker, "init": child(worker)}
        return pids.get(victim) or child(pids["init"])


class TestCrunKills(Kills):
    factory = "crun"
    needs = ("crun",)


class TestRuncKills(Kills):
    factory = "runc"
    needs = ("runc",)
