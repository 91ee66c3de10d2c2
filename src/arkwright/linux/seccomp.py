"""A seccomp profile of the runtime specification as the filter that the kernel takes.

Compiled by libseccomp, which runtimes use as well; without it there is no filter. Source:
seccomp_rule_add(3), seccomp_export_bpf(3), config-linux.md of the runtime specification.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes

_LIBRARY = "libseccomp.so.2"
_ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_KILL": 0, "SCMP_ACT_LOG": 0x7FFC0000}
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_COMPARE = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
_ATTR_NO_NEW_PRIVS = 3
_UNKNOWN_CALL = -1


def compiled(profile: Mapping[str, Any]) -> bytes | None:
    """The filter of `linux.seccomp` (see `limits.seccomp`); None where libseccomp is missing.

    Raises `OSError` when libseccomp refuses the profile. System calls that it does not know are
    left out, as runtimes do.
    """
    library = _library()
    if library is None:
        return None
    context = library.seccomp_init(_action(profile["defaultAction"], profile.get("defaultErrnoRet")))
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init failed")
    try:
        library.seccomp_attr_set(context, _ATTR_NO_NEW_PRIVS, 0)
        for name in profile.get("architectures", ()):
            token = library.seccomp_arch_resolve_name(_arch_name(name))
            if token:
                _check(library.seccomp_arch_add(context, token), ignored=errno.EEXIST)
        for rule in profile["syscalls"]:
            _add(library, context, rule, profile)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def library_version() -> tuple[int, int, int] | None:
    """The version of libseccomp (seccomp_version(3)); None where it is missing."""
    library = _library()
    if library is None:
        return None
    import ctypes as c

    library.seccomp_version.restype = c.POINTER(c.c_uint * 3)
    major, minor, micro = library.seccomp_version().contents
    return major, minor, micro


def _add(library: ctypes.CDLL, context: Any, rule: Mapping[str, Any], profile: Mapping[str, Any]) -> None:
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == _action(profile["defaultAction"], profile.get("defaultErrnoRet")):
        return
    comparisons = _comparisons(rule.get("args") or ())
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != _UNKNOWN_CALL:
            found = library.seccomp_rule_add_array(context, action, number, len(comparisons), comparisons)
            _check(found, ignored=errno.EDOM)


def _comparisons(args: Any) -> Any:
    import ctypes as c

    class Comparison(c.Structure):
        _fields_ = (("arg", c.c_uint), ("op", c.c_int), ("first", c.c_uint64), ("second", c.c_uint64))

    found = (Comparison * len(args))()
    for item, arg in zip(found, args, strict=True):
        item.arg, item.op = arg["index"], _COMPARE[arg["op"]]
        item.first, item.second = arg["value"], arg.get("valueTwo", 0)
    return found


def _exported(library: ctypes.CDLL, context: Any) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, descriptor))
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def _action(name: str, error: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return _ERRNO | (errno.EPERM if error is None else error)
    return _ACTIONS.get(name, _KILL_PROCESS)


def _arch_name(name: str) -> bytes:
    return name.removeprefix("SCMP_ARCH_").lower().encode()


def _check(result: int, ignored: int = 0) -> None:
    if result < 0 and -result != ignored:
        raise OSError(-result, os.strerror(-result))


@functools.cache
def _library() -> ctypes.CDLL | None:
    import ctypes as c

    with contextlib.suppress(OSError):
        library = c.CDLL(_LIBRARY, use_errno=True)
        library.seccomp_init.restype = c.c_void_p
        library.seccomp_init.argtypes = (c.c_uint32,)
        library.seccomp_release.argtypes = (c.c_void_p,)
        library.seccomp_attr_set.argtypes = (c.c_void_p, c.c_int, c.c_uint32)
        library.seccomp_arch_resolve_name.restype = c.c_uint32
        library.seccomp_arch_add.argtypes = (c.c_void_p, c.c_uint32)
        library.seccomp_rule_add_array.argtypes = (c.c_void_p, c.c_uint32, c.c_int, c.c_uint, c.c_void_p)
        library.seccomp_export_bpf.argtypes = (c.c_void_p, c.c_int)
        return library
    return None
