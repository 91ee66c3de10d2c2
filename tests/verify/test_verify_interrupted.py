"""Rebuilds end with whoever asked for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from building import Builder, Context, processes_with, wait_until_gone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on(number: signal.Signals, anybody: Builder, context: Context, scratch: Path) -> None:
    marker = f"7{os.getpid()}.{int(number)}"
    root = context({"Dockerfile": f"FROM busybox\nRUN sleep {marker}\n"})
    temporary = scratch / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    anybody.env["TMPDIR"] = str(temporary)
    process = anybody.start("check-reproducible", "--progress", "none", str(root))
    try:
        deadline = time.monotonic() + 240
        while not processes_with(f"sleep\0{marker}"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
        del anybody.env["TMPDIR"]
    wait_until_gone(f"sleep\0{marker}")
    if number == signal.SIGTERM:
        assert process.returncode == 130, out + err
        assert list(temporary.glob("arkwright-verify-*")) == []
