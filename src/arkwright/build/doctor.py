"""What this host can do for a build, and how a build's steps would be isolated here."""

from __future__ import annotations

import os

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.linux import probe
from arkwright.linux.probe import Finding
from arkwright.linux.worker import Worker, run_in_worker
from arkwright.sandbox.choice import chosen_sandbox
from arkwright.sandbox.connected import Networks
from arkwright.store.store import Store

_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre")
# What a build can do without, when something else stands in for it.
_OPTIONAL = (
    "crun", "runc", "bubblewrap", "chroot", "newuidmap", "cgroups", "emulation", "subordinate-ids", "slirp4netns", "tun",
)  # fmt: skip


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """`tier`: how RUN steps would be isolated, empty when they cannot run; `snapshots`: `overlay`
    or `copy`; `network`: what gives steps a network of their own, or `host`; `reasons`: why not a stronger one, or why not at all."""

    tier: str = ""
    snapshots: str = ""
    network: str = ""
    reasons: tuple[str, ...] = ()
    fix: str = ""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `arkwright doctor` shows."""

    isolation: Isolation
    findings: tuple[Finding, ...]

    def needed(self, finding: Finding) -> bool:
        """Whether a finding that is not ok is worth a repair, as builds do without it only badly."""
        return finding.name not in _OPTIONAL


def examine(store_root_path: str) -> Examination:
    """Try it. The calling process must have one thread; the store is made if it is missing.

    Raises what `Store.open` raises.
    """
    Store.open(store_root_path).close()
    root_path = os.path.realpath(store_root_path)
    findings = (*probe.probe(_work_path(root_path)).findings, _file_system(root_path))
    return Examination(isolation=_isolation(root_path), findings=findings)


def _work_path(root_path: str) -> str:
    path = os.path.join(root_path, "run")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _isolation(root_path: str) -> Isolation:
    def body(worker: Worker) -> bytes:
        from arkwright.build.tiers import chosen_snapshotter

        notices: list[str] = []
        with Store.open(root_path) as store:
            snapshots = chosen_snapshotter(store, worker, "auto", notices.append).name
        tier = chosen_sandbox(worker, "auto", notices.append).tier
        network = Networks(worker, notices.append).tool or "host"
        reasons = (*worker.facts, *notices)
        found = Isolation(tier=tier, snapshots=snapshots, network=network, reasons=reasons)
        return msgspec.json.encode(found)

    try:
        data = run_in_worker(body, store_root_path=root_path, plain="fallback")
    except ArkwrightError as error:
        first = error.diagnostics[0]
        return Isolation(reasons=(first.message, *first.notes), fix=first.hint or "")
    return msgspec.json.decode(data, type=Isolation)


def _file_system(path: str) -> Finding:
    found, best = "unknown", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, place, kind, *_ = line.split(" ")
            place = place.replace("\\040", " ")
            inside = path == place or path.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best):
                found, best = kind, place
    ok = found not in _NETWORK_FILE_SYSTEMS
    return Finding(
        name="store",
        ok=ok,
        reason=f"{path} is on {found}",
        fix="" if ok else "set ARKWRIGHT_ROOT to a directory on a local disk",
    )
