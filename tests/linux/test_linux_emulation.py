"""What is found out about programs of other architectures, without asking anything but the kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from arkwright.linux import emulation
from arkwright.oci.platform import Platform, host_platform


def test_the_hosts_own_programs_run(tmp_path: Path) -> None:
    own = host_platform().architecture
    found = emulation.find_emulations([own], str(tmp_path))
    assert found[own].ok
    assert not found[own].emulator_path
    assert not os.listdir(tmp_path)


def test_what_nobody_emulates_is_refused_with_a_way_out(tmp_path: Path) -> None:
    found = emulation.find_emulations(["vax"], str(tmp_path))["vax"]
    assert not found.ok
    error = emulation.no_emulation("linux/vax", found)
    assert (error.code, error.exit_code) == ("no-emulation", 4)
    assert "BUILDPLATFORM" in str(error.diagnostics[0].hint)


def test_systems_are_told_apart() -> None:
    assert emulation.emulation_key(Platform("linux", "arm64", "v8")) == "arm64"
    assert emulation.emulation_key(Platform("windows", "amd64")) == "windows/amd64"


@pytest.mark.parametrize("name", emulation.MACHINES)
def test_programs_are_elf_and_their_handler_matches_them(name: str) -> None:
    """The header as elf(5) has it; the handler's mask applied as binfmt-misc.rst says."""
    data, machine = emulation.program(name), emulation.MACHINES[name]
    order = ">" if machine.big_endian else "<"
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from(f"{order}HH", data, 16) == (2, machine.number)
    fields = emulation.registration(name, "/usr/bin/emulator").split(b":")
    assert fields[1:4] == [f"arkwright-{name}".encode(), b"M", b""]
    magic, mask = (bytes.fromhex(field.decode().replace("\\x", "")) for field in fields[4:6])
    assert len(magic) == len(mask) == 20
    assert all(byte & bits == want & bits for byte, bits, want in zip(data, mask, magic, strict=False))
    assert fields[6:] == [b"/usr/bin/emulator", b"POCF"]
