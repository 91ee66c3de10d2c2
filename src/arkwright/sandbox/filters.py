"""Filters of system calls, compiled once and kept: libseccomp takes 15 ms for the engines' profile, which
is twice what crun takes for all the rest of a step."""

from __future__ import annotations

import hashlib
import os
import threading

import msgspec

from arkwright.linux import limits
from arkwright.linux.seccomp import compiled, library_version
from arkwright.store.metadata import Metadata

BUCKET = "seccomp-filters"


class Filters:
    """Programs for the kernel (seccomp(2)), by profile. Thread-safe.

    `metadata` keeps them from build to build; without it they live as long as this object.
    """

    def __init__(self, metadata: Metadata | None = None) -> None:
        self._metadata = metadata
        self._lock = threading.Lock()
        self._made: dict[tuple[str, ...], bytes | None] = {}

    def of(self, capabilities: tuple[str, ...]) -> bytes | None:
        """The filter of a step with these capabilities; None where libseccomp is missing.

        Raises `OSError` when libseccomp refuses the profile.
        """
        with self._lock:
            if capabilities not in self._made:
                self._made[capabilities] = self._kept(capabilities)
            return self._made[capabilities]

    def _kept(self, capabilities: tuple[str, ...]) -> bytes | None:
        profile = limits.seccomp(capabilities)
        version = library_version()
        if self._metadata is None or version is None:
            return compiled(profile)
        # What libseccomp makes of a profile depends on the system calls that it knows.
        facts = msgspec.json.encode((version, os.uname().machine, profile))
        key = hashlib.sha256(facts).hexdigest()
        program = self._metadata.get(BUCKET, key)
        if program is None:
            program = compiled(profile)
            if program is not None:
                self._metadata.put(BUCKET, key, program)
        return program
