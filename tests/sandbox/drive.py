"""Runs steps in a sandbox, in an interpreter of its own: `drive.py STORE FACTORY < job > outcomes`.

FACTORY is `module:callable`; the callable takes (worker, notice) and returns a `Sandbox`. The job
and the outcomes are pickles; see `sandbox_harness`.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
from functools import partial
from typing import Any

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.linux import limits
from arkwright.linux.worker import Worker, run_in_worker
from arkwright.sandbox import connected
from arkwright.sandbox.bubblewrap import BubblewrapSandbox
from arkwright.sandbox.choice import plain_worker
from arkwright.sandbox.chroot import ChrootSandbox
from arkwright.sandbox.runtime import RuntimeSandbox
from arkwright.sandbox.spec import Sandbox, StepSpec


def crun(worker: Worker, notice: Any) -> Sandbox:
    return RuntimeSandbox(worker, runtimes=("crun",), notice=notice)


def runc(worker: Worker, notice: Any) -> Sandbox:
    return RuntimeSandbox(worker, runtimes=("runc",), notice=notice)


def fallback(worker: Worker, notice: Any) -> Sandbox:
    return RuntimeSandbox(worker, runtimes=("no-such-runtime", "false", "crun", "runc"), notice=notice)


def unprofiled(worker: Worker, notice: Any) -> Sandbox:
    """As on a host without the engines' seccomp profile."""
    limits.SECCOMP_PROFILE_PATHS = ()
    return crun(worker, notice)


def nothing(worker: Worker, notice: Any) -> Sandbox:
    return RuntimeSandbox(worker, runtimes=("no-such-runtime", "false"), notice=notice)


def bubblewrap(worker: Worker, notice: Any) -> Sandbox:
    return BubblewrapSandbox(worker, notice=notice)


def chroot(worker: Worker, notice: Any) -> Sandbox:
    return ChrootSandbox(worker, notice=notice)


def by_pasta(worker: Worker, notice: Any) -> Sandbox:
    connected.TOOLS = ("pasta",)
    return crun(worker, notice)


def by_slirp4netns(worker: Worker, notice: Any) -> Sandbox:
    connected.TOOLS = ("slirp4netns",)
    return crun(worker, notice)


def by_nothing(worker: Worker, notice: Any) -> Sandbox:
    connected.TOOLS = ("no-such-tool",)
    return crun(worker, notice)


def namespaced_chroot(worker: Worker, notice: Any) -> Sandbox:
    """As in a container that allows namespaces and masks /proc."""
    return chroot(worker, lambda text: None)


def alive_with(marker: str) -> int:
    """How many processes of the host have `marker` among their arguments."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as source:
                    count += marker.encode() in source.read()
            except OSError:
                continue
    return count


def one(sandbox: Sandbox, job: dict[str, Any], spec: StepSpec) -> dict[str, Any]:
    """Run a step; cancel it when its output holds `cancel_on`."""
    streams = {1: bytearray(), 2: bytearray()}
    cancelled = threading.Event()

    def output(number: int, data: bytes) -> None:
        streams[number] += data
        if job["cancel_on"] and job["cancel_on"] in streams[number]:
            cancelled.set()

    found: dict[str, Any] = {"status": None, "error": "", "tier": ""}
    try:
        if job["stdio"]:
            found["status"] = sandbox.run(spec, job["root"], output, stdio=job["stdio"])
        else:
            found["status"] = sandbox.run(spec, job["root"], output, cancelled=cancelled)
        found["tier"] = sandbox.tier
    except ArkwrightError as error:
        found["error"] = error.code
    found["out"], found["err"] = bytes(streams[1]), bytes(streams[2])
    found["alive"] = alive_with(job["marker"]) if job["marker"] else 0
    return found


def body(worker: Worker, job: dict[str, Any], factory: Any) -> bytes:
    notices: list[str] = []
    sandbox = factory(worker, notices.append)
    steps = job["steps"]
    outcomes: list[Any] = [None] * len(steps)

    def run(number: int) -> None:
        outcomes[number] = one(sandbox, job, steps[number])

    if job["together"]:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(steps))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for number in range(len(steps)):
            run(number)
    left = sorted(os.listdir(worker.runtime_path))
    return pickle.dumps({"outcomes": outcomes, "notices": notices, "left": left})


def main() -> None:
    store, spelled = sys.argv[1:3]
    module, _, name = spelled.rpartition(":")
    factory = getattr(importlib.import_module(module), name) if module else globals()[name]
    job = pickle.load(sys.stdin.buffer)
    os.umask(job["umask"])
    found = run_in_worker(
        partial(body, job=job, factory=factory), store_root_path=store, plain=plain_worker(spelled)
    )
    with open(job["answer"], "wb") as target:
        target.write(found)


if __name__ == "__main__":
    main()
