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


def probe(work_path: str | None = None) -> HostReport:
    """Look at this host as this user; `work_path` is where files may be made (default: /tmp)."""
    return HostReport(
        findings=(
            _kernel(),
            _user_namespace(),
            _subordinate_ids(),
            *_in_worker(work_path),
            *(_program(name, name, name, "runs steps") for name in ("crun", "runc")),
            _program("bubblewrap", "bwrap", "bubblewrap", "runs steps where no OCI runtime does"),
            _program("slirp4netns", "slirp4netns", "slirp4netns", "gives steps a network of their own"),
            _tun(),
            _chroot(),
            _program("newuidmap", "newuidmap", "uidmap", "maps subordinate ids", version=False),
            _control_groups(),
            _seccomp(),
            _emulation(work_path),
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
        fix = namespaces.subordinate_ids_fix()
        return Finding(name="subordinate-ids", ok=False, reason=maps.reason, fix=fix)
    count = sum(item.count for item in maps.uids)
    return Finding(name="subordinate-ids", ok=True, reason=f"{count} user ids can be mapped")


def _in_worker(work_path: str | None) -> list[Finding]:
    """Try the worker's namespaces, then an overlay in them."""

    def body(worker: Worker) -> bytes:
        found = [Finding(name="worker", ok=True, reason="; ".join(worker.facts) or "all namespaces work")]
        found.append(_attempt("overlay", lambda: _try_overlay(worker.runtime_path)))
        found.append(_proc(worker))
        return msgspec.json.encode(found)

    with tempfile.TemporaryDirectory(prefix="arkwright-probe-", dir=work_path) as store_root_path:
        try:
            data = run_in_worker(body, store_root_path=store_root_path, plain="never")
        except ArkwrightError as error:
            lacking = [
                Finding(name=name, ok=False, reason="needs the worker") for name in ("overlay", "proc")
            ]
            return [_failed("worker", error), *lacking]
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


def _proc(worker: Worker) -> Finding:
    if not worker.proc_refused:
        return Finding(name="proc", ok=True, reason="steps get a /proc of their own")
    return Finding(
        name="proc",
        ok=False,
        reason="the kernel refuses a new /proc, as files of this one are masked; steps see the builder's",
        fix="start this container with an unmasked /proc (docker: --security-opt systempaths=unconfined, "
        "podman: --security-opt unmask=ALL, Kubernetes: procMount: Unmasked)",
    )


def _program(name: str, program: str, package: str, what: str, *, version: bool = True) -> Finding:
    path = shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    fix = f"install the package {package}"
    if path is None:
        return Finding(name=name, ok=False, reason=f"not installed; it {what}", fix=fix)
    if not version:
        return Finding(name=name, ok=True, reason=path)
    import subprocess

    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name=name, ok=False, reason=f"{path}: {error}", fix=f"{fix} again")
    number = said.split("\n", 1)[0].rpartition(" ")[2]
    return Finding(name=name, ok=True, reason=f"{path}, version {number}")


def _tun() -> Finding:
    path = "/dev/net/tun"
    if os.access(path, os.R_OK | os.W_OK):
        return Finding(name="tun", ok=True, reason=f"{path} can be opened")
    if os.path.exists(path):
        return Finding(
            name="tun", ok=False, reason=f"this user may not open {path}", fix=f"as root: chmod 0666 {path}"
        )
    fix = "as root: modprobe tun; for a container: --device /dev/net/tun"
    return Finding(name="tun", ok=False, reason=f"there is no {path}", fix=fix)


def _chroot() -> Finding:
    lacking = namespaces.lacks_for_chroot()
    if not lacking:
        return Finding(name="chroot", ok=True, reason="this process may change roots and owners")
    return Finding(
        name="chroot",
        ok=False,
        reason="without namespaces this process lacks " + ", ".join(lacking),
        fix="only where namespaces are forbidden: run as root with the engine's default capabilities",
    )


def _control_groups() -> Finding:
    root = "/sys/fs/cgroup"
    if os.path.exists(f"{root}/cgroup.controllers"):
        kind, place = "version 2", _own_group(root, "0::")
        controllers = _read(f"{place}/cgroup.controllers")
        writable = os.access(f"{place}/cgroup.procs", os.W_OK) and "memory" in controllers
    elif os.path.ismount(root):
        kind = "hybrid" if os.path.ismount(f"{root}/unified") else "version 1"
        writable = os.access(_own_group(f"{root}/memory", ":memory:"), os.W_OK)
    else:
        kind, writable = "none", False
    reason = f"{kind}; steps " + ("can be limited by them" if writable else "are limited by rlimits only")
    fix = (
        "run builds in a scope of their own: systemd-run --user --scope -p Delegate=yes arkwright build …"
        if kind == "version 2"
        else "boot with control groups of version 2 (systemd.unified_cgroup_hierarchy=1), or run as root"
    )
    return Finding(name="cgroups", ok=writable, reason=reason, fix="" if writable else fix)


def _own_group(root: str, marker: str) -> str:
    for line in _read("/proc/self/cgroup").splitlines():
        if marker in line:
            return root + line.partition(marker)[2].rstrip("/")
    return root


def _emulation(work_path: str | None) -> Finding:
    """Whether programs of another common architecture run in a step."""
    from arkwright.linux.emulation import find_emulations
    from arkwright.oci.platform import host_platform

    wanted = "amd64" if host_platform().architecture == "arm64" else "arm64"
    with tempfile.TemporaryDirectory(prefix="arkwright-probe-", dir=work_path) as path:
        found = find_emulations((wanted,), path)[wanted]
    reason = f"programs for {wanted} run here" if found.ok else found.reason
    return Finding(name="emulation", ok=found.ok, reason=reason, fix=found.fix)


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
