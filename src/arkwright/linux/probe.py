"""What this host can do for a build, each with a reason and a fix where it cannot.

Nothing here changes the host. What needs a namespace is tried in a child process of its own, so
`probe` must be called from a process with one thread.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.linux import limits, mounts, namespaces
from arkwright.linux.worker import Worker, run_in_worker


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One capability of the host: `reason` says what was found, `fix` what would help."""

    name: str
    ok: bool
    reason: str
    fix: str = ""


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """Findings in a fixed order, the ones that steps cannot do without first."""

    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)


def probe() -> HostReport:
    """Look at this host as this user."""
    return HostReport(
        findings=(
            _kernel(),
            _user_namespace(),
            _subordinate_ids(),
            *_in_worker(),
            *(_runtime(name) for name in ("crun", "runc")),
            _control_groups(),
            _seccomp(),
        )
    )


def _kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    ok = numbers >= (5, 11)
    return Finding(
        name="kernel", ok=ok, reason=f"Linux {release}", fix="" if ok else "use Linux 5.11 or later"
    )


def _user_namespace() -> Finding:
    if not namespaces.needs_user_namespace():
        return Finding(name="user-namespace", ok=True, reason="not needed by root")
    limit = _read("/proc/sys/user/max_user_namespaces")
    clone = _read("/proc/sys/kernel/unprivileged_userns_clone")
    if limit == "0" or clone == "0":
        error = OSError(1, "they are switched off by sysctl")
        return _failed("user-namespace", namespaces.no_user_namespace(error))
    return Finding(name="user-namespace", ok=True, reason=f"up to {limit or 'any number of'} of them")


def _subordinate_ids() -> Finding:
    if not namespaces.needs_user_namespace():
        return Finding(name="subordinate-ids", ok=True, reason="not needed by root")
    maps = namespaces.plan_id_maps()
    if maps.single_id:
        refusal = namespaces.unmapped_id("user", 1, maps.reason)
        return _failed("subordinate-ids", refusal)
    count = sum(item.count for item in maps.uids)
    return Finding(name="subordinate-ids", ok=True, reason=f"{count} user ids can be mapped")


def _in_worker() -> list[Finding]:
    """Try the worker's namespaces, then an overlay in them."""

    def body(worker: Worker) -> bytes:
        found = [Finding(name="worker", ok=True, reason="; ".join(worker.facts) or "all namespaces work")]
        found.append(_attempt("overlay", lambda: _try_overlay(worker.runtime_path)))
        return msgspec.json.encode(found)

    with tempfile.TemporaryDirectory(prefix="arkwright-probe-") as store_root_path:
        try:
            data = run_in_worker(body, store_root_path=store_root_path, plain="never")
        except ArkwrightError as error:
            return [_failed("worker", error)]
    return msgspec.json.decode(data, type=list[Finding])


def _try_overlay(path: str) -> str:
    for name in ("lower", "upper", "work", "merged"):
        os.makedirs(os.path.join(path, "probe", name))
    lower, upper, work, merged = (
        os.path.join(path, "probe", name) for name in ("lower", "upper", "work", "merged")
    )
    os.mkdir(os.path.join(lower, "gone"))
    mounts.overlay([lower], upper, work, merged)
    os.rmdir(os.path.join(merged, "gone"))
    os.mkdir(os.path.join(merged, "gone"))
    mounts.unmount(merged)
    return "mounts, whiteouts and opaque directories work"


def _attempt(name: str, what: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, ok=True, reason=what())
    except ArkwrightError as error:
        return _failed(name, error)
    except OSError as error:
        return Finding(name=name, ok=False, reason=str(error))


def _failed(name: str, error: ArkwrightError) -> Finding:
    return Finding(name=name, ok=False, reason=str(error), fix=error.diagnostics[0].hint or "")


def _runtime(name: str) -> Finding:
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        return Finding(name=name, ok=False, reason="not installed", fix=f"install the package {name}")
    import subprocess

    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            name=name, ok=False, reason=f"{path}: {error}", fix=f"install the package {name} again"
        )
    version = said.split("\n", 1)[0].rpartition(" ")[2]
    return Finding(name=name, ok=True, reason=f"{path}, version {version}")


def _control_groups() -> Finding:
    root = "/sys/fs/cgroup"
    if os.path.exists(f"{root}/cgroup.controllers"):
        kind = "version 2"
    elif os.path.ismount(f"{root}/unified"):
        kind = "hybrid; the unified tree is hidden from steps, which crun 1.8 needs"
    elif os.path.ismount(root):
        kind = "version 1"
    else:
        kind = "none"
    return Finding(name="cgroups", ok=True, reason=kind)


def _seccomp() -> Finding:
    if _read("/proc/sys/kernel/seccomp/actions_avail") == "":
        return Finding(name="seccomp", ok=False, reason="the kernel has no seccomp filters")
    for path in limits.SECCOMP_PROFILE_PATHS:
        if os.path.exists(path):
            return Finding(name="seccomp", ok=True, reason=f"profile {path}")
    return Finding(name="seccomp", ok=True, reason="built-in profile")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as source:
            return source.read().strip()
    except OSError:
        return ""
