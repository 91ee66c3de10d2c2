"""The tiers without an OCI runtime pass the suite, as far as they can."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sandbox_harness import Bench, picture
from sandbox_suite import SandboxSuite
from test_sandbox_runtime import Kills

from arkwright.sandbox.spec import Bind, Secret, StepSpec, Tmpfs
from arkwright.sources.local import SECRET_LIMIT


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


class _Chroot(SandboxSuite):
    """The suite without what needs a namespace of the step's own or a file system of the kernel's."""

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

    def test_a_read_only_root_is_refused(self, bench: Bench) -> None:
        assert bench.sh("true", readonly_root=True).error == "isolation-too-weak"

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
    test_private_namespaces = None
    test_shm_size = None
    test_insecure = None
    test_steps_in_parallel = None  # in one tree, which builds never do
    test_user_has_no_effective_capabilities = None
    test_readonly_root = None
    test_resolv_conf = None
    test_renamed_directories = None


class TestChroot(_Chroot):
    """Without namespaces: no mounts, and the builder's processes and network."""

    @pytest.fixture
    def bench(self, scratch: Path) -> Bench:
        return Bench(scratch, self.factory, "root")

    def test_what_needs_more_is_refused(self, bench: Bench) -> None:
        assert bench.sh("true", network="none").error == "isolation-too-weak"

    def test_secret_through_a_pipe(self, bench: Bench) -> None:
        """The largest that there is can be read again and again, whole each time, also in pieces, and is in no
        file of the store or the root."""
        data = os.urandom(SECRET_LIMIT // 2).hex().encode()
        secret = Secret(dest="/etc/token", data=data, mode=0o440, uid=5, gid=6)
        before = picture(bench.root)
        script = "for i in 1 2 3 4 5 6; do sha256sum < /etc/token; head -c 3 /etc/token; done; stat -c '%a %u %g' /etc/token"
        out = bench.say(f"{script}; dd if=/etc/token bs=1000 2>/dev/null | sha256sum", mounts=(secret,))
        found = f"{hashlib.sha256(data).hexdigest()}  -\n"
        assert out + "\n" == (found + data[:3].decode()) * 6 + f"440 5 6\n{found}"
        assert picture(bench.root) == before
        for path in (*bench.store.rglob("*"), *bench.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name != "answer":
                assert data not in path.read_bytes()

    def test_secret_that_nobody_reads(self, bench: Bench) -> None:
        before = picture(bench.root)
        bench.say("true", mounts=(Secret(dest="/run/secrets/token", data=b"x" * 100_000),))
        assert picture(bench.root) == before

    def test_secret_that_the_step_replaces(self, bench: Bench) -> None:
        """What the step puts there is not led to, and stays as the step's own."""
        script = "cat /etc/token; rm /etc/token; ln -s /etc/passwd /etc/token; head -c 4 /etc/token"
        passwd = (bench.root / "etc/passwd").read_bytes()
        assert bench.say(script, mounts=(Secret(dest="/etc/token", data=b"s3cret"),)).startswith("s3cret")
        assert (bench.root / "etc/passwd").read_bytes() == passwd
        assert os.readlink(bench.root / "etc/token") == "/etc/passwd"

    def test_secret_on_a_memory_file_system(self, bench: Bench) -> None:
        """What the tree is on is no disk, so that the secret may be in it."""
        secret = Secret(dest="/run/secrets/token", data=b"s3cret", mode=0o440, uid=5, gid=6)
        place = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="arkwright-test-"))
        try:
            shutil.copytree(bench.root, place / "root", symlinks=True)
            before = picture(place / "root")
            script = "cat /run/secrets/token; stat -c ' %a %u %g' /run/secrets/token"
            spec = StepSpec(args=("/bin/sh", "-c", script), mounts=(secret,), network="host")
            assert bench.steps(spec, root=str(place / "root"))[0].out == "s3cret 440 5 6\n"
            assert picture(place / "root") == before
        finally:
            shutil.rmtree(place)

    test_host_network = None
    test_tmpfs = None
    test_mounts_within_mounts = None
    test_secret = None
    test_secret_of_a_user = None
    test_no_trace = None
    test_links_do_not_lead_out = None
    test_binds = None
    test_changes_of_the_step_are_kept = None


class TestChrootInNamespaces(_Chroot):
    """In a user namespace: mounts are real, so that secrets are files and cache mounts are shared."""

    @pytest.fixture(params=["subids", "single"])
    def bench(self, request: pytest.FixtureRequest, scratch: Path) -> Bench:
        return Bench(scratch, self.factory, request.param)

    def test_a_read_only_tmpfs(self, bench: Bench) -> None:
        found = bench.sh("echo x > /t/f", mounts=(Tmpfs(dest="/t", readonly=True),))
        assert "Read-only" in found.err


class TestBubblewrapKills(Kills):
    factory = "bubblewrap"
    needs = ("bwrap",)


class TestChrootKills(Kills):
    factory = "chroot"
    needs = ()
