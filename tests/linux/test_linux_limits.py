"""Limits, subordinate ids and the host report."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.linux import limits, namespaces
from identities import identity_prefix


def test_default_capabilities_are_the_engines_fourteen() -> None:
    names = [
        name for bit, name in enumerate(limits.CAPABILITIES) if limits.DEFAULT_CAPABILITY_MASK >> bit & 1
    ]
    assert len(names) == 14
    assert {"CHOWN", "SETFCAP", "MKNOD", "AUDIT_WRITE", "SYS_CHROOT"} <= set(names)
    assert not {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"} & set(names)


def test_rlimits_never_rise() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = limits.rlimits([("nofile", -1, -1), ("NPROC", 7, 5)])
    assert found[0] == {"type": "RLIMIT_NOFILE", "soft": hard, "hard": hard}
    assert found[1]["soft"] == found[1]["hard"] == 5
    with pytest.raises(UserError) as caught:
        limits.rlimits([("nofiles", 1, 1)])
    assert caught.value.code == "unknown-ulimit"


PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {
            "names": ["mount"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["vax"]}},
        {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
    ],
}


@pytest.mark.parametrize(
    ("caps", "action"), [(frozenset({"CAP_SYS_ADMIN"}), "SCMP_ACT_ALLOW"), (frozenset(), "SCMP_ACT_ERRNO")]
)
def test_profiles_conditions(caps: frozenset[str], action: str) -> None:
    profile = msgspec.convert(PROFILE, type=limits._Profile)
    found = limits.convert_profile(profile, caps)
    assert [rule["names"][0] for rule in found["syscalls"]] == ["read", "mount", "ptrace"]
    assert found["syscalls"][1]["action"] == action
    assert found["defaultErrnoRet"] == 38


def test_subordinate_ranges(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("# x\nme:100:10\nother:1:1\n1000:300:5\nme:bad:1\nme:5\nme:200:0\nme:400:2\n")
    assert namespaces.subordinate_ranges(str(path), ["1000", "me"]) == [(100, 10), (300, 5), (400, 2)]
    assert namespaces.subordinate_ranges(str(tmp_path / "none"), ["me"]) == []


@pytest.mark.parametrize(("identity", "subids"), [("root", True), ("subids", True), ("single", False)])
def test_report(identity: str, subids: bool) -> None:
    prefix, _ = identity_prefix(identity)
    script = (
        "import msgspec; from arkwright.linux.probe import probe; "
        "print(msgspec.json.encode(probe()).decode())"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        check=True,
    )
    found = {item["name"]: item for item in msgspec.json.decode(done.stdout)["findings"]}
    assert found["kernel"]["ok"]
    assert found["worker"]["ok"]
    assert found["overlay"]["ok"]
    assert found["subordinate-ids"]["ok"] is subids
    assert all(item["reason"] for item in found.values())
    assert all(item["fix"] for item in found.values() if not item["ok"])
