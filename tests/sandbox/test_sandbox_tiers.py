"""The tiers without an OCI runtime pass the suite, as far as they can."""

from __future__ import annotations

import pytest
from sandbox_harness import Bench, picture
from sandbox_suite import SandboxSuite
from test_sandbox_runtime import Kills

from arkwright.sandbox.spec import Bind, Secret, Tmpfs


class TestBubblewrap(SandboxSuite):
    factory = "bubblewrap"
    needs = ("bwrap",)

    def test_processes_are_hidden(self, bench: Bench) -> None:
        """The first process of the namespace is bubblewrap's, which waits."""
        pid, count = bench.say("echo $$; ls -d /proc/[0-9]* | wc -l").split()
        assert (pid, count in ("3", "4")) == ("2", True)

    def test_insecure(self, bench: Bench) -> None:
        script = "grep -E '^(CapEff|Seccomp):' /proc/self/status"
        lines = dict(line.split(":\t") for line in bench.say(script, security="insecure").splitlines())
        assert lines["Seccomp"] == "0"
        assert int(lines["CapEff"], 16) >> 21 & 1  # CAP_SYS_ADMIN

    def test_no_network(self, bench: Bench) -> None:
        out = bench.say("ip -o link | grep -v lo:; ip -o link | grep -c LOOPBACK", network="none")
        assert out.split() == ["1"]


class TestChroot(SandboxSuite):
    """The suite without what needs a namespace or a file system of the kernel's."""

    factory = "chroot"
    needs = ()

    def test_cwd_in_a_mount(self, bench: Bench) -> None:
        (bench.shared / "sub").mkdir()
        bench.own(bench.shared)
        mounts = (Bind(source=str(bench.shared), dest="/src"),)
        assert bench.say("pwd", cwd="/src/sub", mounts=mounts) == "/src/sub"
        assert bench.sh("pwd", cwd="/src/other", mounts=mounts).error == "no-such-directory"

    def test_writable_binds_are_written_back(self, bench: Bench) -> None:
        bench.file("f", "text")
        mounts = (Bind(source=str(bench.shared), dest="/rw", readonly=False),)
        before = picture(bench.root)
        assert bench.say("cat /rw/f; echo more > /rw/g", mounts=mounts) == "text"
        assert (bench.shared / "g").read_text() == "more\n"
        assert picture(bench.root) == before

    def test_what_needs_more_is_refused(self, bench: Bench) -> None:
        secret = Secret(dest="/s", data=b"x")
        for fields in ({"mounts": (secret,)}, {"network": "none"}, {"readonly_root": True}):
            assert bench.sh("true", **fields).error == "isolation-too-weak"

    @pytest.mark.parametrize("script", ["true", "exit 1", "echo x > /etc/hosts; echo y > /dev/null"])
    def test_no_trace_of_stand_ins(self, bench: Bench, script: str) -> None:
        (bench.root / "dev").mkdir()
        (bench.root / "dev/old").write_text("kept")
        bench.own(bench.root)
        before = picture(bench.root)
        mounts = (Tmpfs(dest="/var/cache/deep/er"), Bind(source=str(bench.shared), dest="/opt/src"))
        bench.sh(script, mounts=mounts)
        assert picture(bench.root) == before
        assert not [path for path in bench.root.parent.iterdir() if "aside" in path.name]

    test_confinement = None
    test_kernel_files_are_masked = None
    test_sys_is_read_only = None
    test_hostname = None
    test_processes_are_hidden = None
    test_no_input = None
    test_descriptors = None
    test_no_network = None
    test_host_network = None
    test_private_namespaces = None
    test_shm_size = None
    test_steps_in_parallel = None
    test_insecure = None
    test_user_has_no_effective_capabilities = None
    test_tmpfs = None
    test_mounts_within_mounts = None
    test_secret = None
    test_secret_of_a_user = None
    test_readonly_root = None
    test_no_trace = None
    test_links_do_not_lead_out = None
    test_binds = None
    test_resolv_conf = None
    test_renamed_directories = None
    test_changes_of_the_step_are_kept = None


class TestBubblewrapKills(Kills):
    factory = "bubblewrap"
    needs = ("bwrap",)


class TestChrootKills(Kills):
    factory = "chroot"
    needs = ()
