"""The suite that every sandbox passes, as root and as users with and without subordinate ids.

Subclass `SandboxSuite`, set `factory` to `module:callable` (takes the worker and a `notice`
callback, returns a `Sandbox`) and `needs` to the programs without which the tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest
from sandbox_harness import Bench, marker, picture

from arkwright.sandbox.spec import Bind, Rlimit, Secret, SshSocket, StepSpec, Tmpfs


class SandboxSuite:
    factory: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    # --- How a step ends ----------------------------------------------------------------------

    def test_exit_status(self, bench: Bench) -> None:
        found = bench.steps(*(StepSpec(args=("/bin/sh", "-c", f"exit {n}")) for n in (0, 1, 42, 255)))
        assert [item.status and item.status.status for item in found] == [0, 1, 42, 255]
        assert all(item.status and item.status.signal is None for item in found if item.status.status < 128)
        assert all(item.status and item.status.tier == item.tier for item in found)

    def test_signal(self, bench: Bench) -> None:
        status = bench.sh("sh -c 'kill -TERM $$'; exit $?").status
        assert status is not None
        assert (status.status, status.signal) == (143, 15)

    def test_command_that_cannot_be_executed(self, bench: Bench) -> None:
        bench_file = bench.root / "bin/data"
        bench_file.write_text("no program")
        bench_file.chmod(0o644)
        found = bench.steps(
            StepSpec(args=("nope",)), StepSpec(args=("/nope",)), StepSpec(args=("/bin/data",))
        )
        assert [item.status and item.status.status for item in found] == [127, 127, 126]
        assert all(item.err for item in found)

    def test_output_order_and_bytes(self, bench: Bench) -> None:
        found = bench.sh(
            "i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf 'last\\r'"
        )
        assert found.out == "".join(f"out {n}\n" for n in range(3000)) + "last\r"
        assert found.err == "".join(f"err {n}\n" for n in range(3000))

    def test_much_output(self, bench: Bench) -> None:
        assert len(bench.say("dd if=/dev/zero bs=1M count=8 2>/dev/null")) == 8 << 20

    def test_cancel_kills(self, bench: Bench) -> None:
        mark = marker()
        script = f"setsid sleep 1000 {mark} & sleep 1000 {mark} & echo up; wait"
        found = bench.sh(script, cancel_on=b"up", marker=mark)
        assert found.error == "cancelled"
        assert found.alive == 0
        assert bench.left in ([], ["state"])

    def test_background_processes_end_with_the_step(self, bench: Bench) -> None:
        mark = marker()
        found = bench.sh(f"setsid sleep 1000 {mark} & echo up; exit 3", marker=mark)
        assert found.status is not None
        assert (found.status.status, found.alive) == (3, 0)

    def test_steps_in_parallel(self, bench: Bench) -> None:
        """Two steps that wait for each other through a shared directory."""
        specs = [
            StepSpec(
                args=("/bin/sh", "-c", f"touch /s/{me}; until [ -e /s/{other} ]; do :; done; echo {me}"),
                mounts=(Bind(source=str(bench.shared), dest="/s", readonly=False),),
            )
            for me, other in (("a", "b"), ("b", "a"))
        ]
        assert [item.out for item in bench.steps(*specs, together=True)] == ["a\n", "b\n"]

    # --- What a step sees ---------------------------------------------------------------------

    def test_environment_is_exactly_as_given(self, bench: Bench) -> None:
        env = ("Z=1", "A=x y", "HOME=/tmp", "PATH=/bin", "EMPTY=")
        spec = StepSpec(args=("/bin/env",), env=env, secret_env=(("TOKEN", "t0p"), ("A", "no")))
        out = bench.steps(spec)[0].out
        assert sorted(out.splitlines()) == sorted([*env, "TOKEN=t0p"])

    def test_default_path_and_home(self, bench: Bench) -> None:
        out = bench.steps(StepSpec(args=("/bin/env",)))[0].out
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        assert sorted(out.splitlines()) == ["HOME=/root", path]

    def test_umask(self, bench: Bench) -> None:
        assert bench.say("umask; touch /tmp/f; stat -c %a /tmp/f", umask=0o077) == "0022\n644"

    def test_confinement(self, bench: Bench) -> None:
        out = bench.say("grep -E '^(CapEff|CapBnd|CapInh|CapAmb|Seccomp|NoNewPrivs):' /proc/self/status")
        found = dict(line.split(":\t") for line in out.splitlines())
        assert found == {
            "CapInh": "0" * 16,
            "CapEff": "00000000a80425fb",
            "CapBnd": "00000000a80425fb",
            "CapAmb": "0" * 16,
            "NoNewPrivs": "0",
            "Seccomp": "2",
        }

    def test_insecure(self, bench: Bench) -> None:
        script = "grep -E '^(CapEff|Seccomp):' /proc/self/status; mount | grep -c '/proc/.*\\<ro\\>'"
        found = bench.sh(script, security="insecure")
        lines = dict(line.split(":\t") for line in found.out.splitlines() if ":\t" in line)
        assert lines["Seccomp"] == "0"
        assert int(lines["CapEff"], 16) >> 21 & 1  # CAP_SYS_ADMIN
        assert found.out.splitlines()[-1] == "0"

    def test_kernel_files_are_masked(self, bench: Bench) -> None:
        found = bench.sh(
            "cat /proc/keys /proc/timer_list | wc -c; echo 1 > /proc/sys/vm/overcommit_memory; ls /sys/firmware"
        )
        assert found.out.strip() == "0"
        assert "Read-only file system" in found.err

    def test_sys_is_read_only(self, bench: Bench) -> None:
        assert (
            "\nro\n"
            in bench.say("grep ' /sys ' /proc/mounts; grep -q ' /sys .* ro,' /proc/mounts && echo ro") + "\n"
        )

    def test_devices(self, bench: Bench) -> None:
        out = bench.say(
            "cd /dev; ls; head -c 0 null 2>/dev/null; test -c null -a -c random -a -d pts && echo yes; : > null"
        )
        assert out.splitlines()[-1] == "yes"
        assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "shm"} <= set(
            out.split()
        )
        assert "vda" not in out
        assert "kmsg" not in out

    def test_hostname(self, bench: Bench) -> None:
        assert bench.say("hostname") == "buildkitsandbox"
        assert bench.say("hostname", hostname="other") == "other"

    def test_processes_are_hidden(self, bench: Bench) -> None:
        assert bench.say("echo $$; ls -d /proc/[0-9]* | wc -l") in ("1\n2", "1\n3")

    def test_no_input(self, bench: Bench) -> None:
        count, source = bench.say("cat | wc -c; readlink /proc/self/fd/0").split()
        assert count == "0"
        assert source == "/dev/null" or source.startswith("pipe:")

    def test_descriptors(self, bench: Bench) -> None:
        assert bench.say("echo $(ls /proc/self/fd)").split()[:3] == ["0", "1", "2"]
        assert len(bench.say("ls /proc/$$/fd").split()) <= 4  # sh may keep one of its own

    def test_stdio_is_passed_through(self, bench: Bench) -> None:
        outcome = bench.steps(StepSpec(args=("/bin/sh", "-c", "echo through")), stdio=(0, 1, 2))[0]
        assert outcome.out == ""
        assert bench.stdout == b"through\n"

    def test_no_network(self, bench: Bench) -> None:
        out = bench.say(
            "ip -o link | grep -v lo:; ip -o link | grep -c LOOPBACK; ls /sys/class/net", network="none"
        )
        assert out.split() == ["1", "lo"]

    def test_host_network(self, bench: Bench) -> None:
        mine = os.readlink("/proc/self/ns/net")
        assert bench.say("readlink /proc/self/ns/net", network="host") == mine

    def test_private_namespaces(self, bench: Bench) -> None:
        out = bench.say("for n in pid mnt ipc uts cgroup; do readlink /proc/self/ns/$n; done").splitlines()
        mine = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "mnt", "ipc", "uts", "cgroup")]
        assert len(out) == 5
        assert not set(out) & set(mine)

    def test_shm_size(self, bench: Bench) -> None:
        assert bench.say("df -k /dev/shm | tail -1 2>/dev/null || df -k /dev/shm", shm_size=8 << 20).split()[
            -5
        ] in (
            "8192",
            "8192K",
        )

    def test_rlimits_are_clamped(self, bench: Bench) -> None:
        limits = (Rlimit("nofile", 100, 200), Rlimit("core", 0, 0))
        assert bench.say("ulimit -Sn; ulimit -Hn; ulimit -c", rlimits=limits).split() == ["100", "200", "0"]
        ceiling = bench.say("ulimit -Hn")
        assert bench.say("ulimit -Hn", rlimits=(Rlimit("nofile", -1, -1),)) == ceiling

    # --- Users --------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("", "0 0 0 /root"),
            ("root", "0 0 0 /root"),
            ("builder", "5 6 6 77 88 /home/builder"),
            ("5", "5 6 6 77 88 /home/builder"),
            ("builder:extra", "5 77 77 /home/builder"),
            ("1234", "1234 0 0 /"),
            ("1234:5678", "1234 5678 5678 /"),
        ],
    )
    def test_user(self, bench: Bench, user: str, expected: str) -> None:
        found = bench.sh("echo $(id -u) $(id -g) $(id -G) $HOME", user=user)
        if bench.identity == "single" and not expected.startswith("0 "):
            assert found.error == "unmapped-id"
            return
        assert found.out.strip() == expected

    def test_user_has_no_effective_capabilities(self, bench: Bench) -> None:
        if bench.identity == "single":
            pytest.skip("needs-subordinate-ids: a second user id")
        out = bench.say("grep -E '^Cap(Eff|Bnd):' /proc/self/status", user="builder")
        assert out.split() == ["CapEff:", "0" * 16, "CapBnd:", "00000000a80425fb"]

    @pytest.mark.parametrize(
        ("user", "code"), [("nobody-here", "unknown-user"), ("root:nothing", "unknown-group")]
    )
    def test_unknown_user(self, bench: Bench, user: str, code: str) -> None:
        assert bench.sh("true", user=user).error == code

    # --- Directories and mounts ---------------------------------------------------------------

    def test_cwd(self, bench: Bench) -> None:
        (bench.root / "link").symlink_to("/var")
        assert bench.say("pwd", cwd="/home/builder") == "/home/builder"
        assert bench.say("pwd -P", cwd="/link") == "/var"

    def test_missing_cwd_is_not_made(self, bench: Bench) -> None:
        before = picture(bench.root)
        assert bench.sh("pwd", cwd="/no/such").error == "no-such-directory"
        assert bench.sh("pwd", cwd="/etc/passwd").error == "no-such-directory"
        assert picture(bench.root) == before

    def test_cwd_in_a_mount(self, bench: Bench) -> None:
        (bench.shared / "sub").mkdir()
        mounts = (Bind(source=str(bench.shared), dest="/src"),)
        assert bench.say("pwd", cwd="/src/sub", mounts=mounts) == "/src/sub"
        assert bench.sh("pwd", cwd="/src/other", mounts=mounts).error == "no-such-directory"

    def test_binds(self, bench: Bench) -> None:
        bench.file("f", "text")
        source = str(bench.shared)
        mounts = (Bind(source=source, dest="/ro"), Bind(source=source, dest="/rw", readonly=False))
        found = bench.sh("cat /ro/f; echo more > /rw/g; echo no > /ro/h", mounts=mounts)
        assert found.out == "text"
        assert "Read-only" in found.err
        assert (bench.shared / "g").read_text() == "more\n"
        assert not (bench.shared / "h").exists()

    def test_bind_of_a_file(self, bench: Bench) -> None:
        path = bench.file("f", "text")
        assert bench.say("cat /a/b/file", mounts=(Bind(source=str(path), dest="/a/b/file"),)) == "text"

    def test_bad_mounts(self, bench: Bench) -> None:
        path = str(bench.file("f"))
        assert bench.sh("true", mounts=(Bind(source=path, dest="/etc"),)).error == "bad-mount-target"
        assert bench.sh("true", mounts=(Tmpfs(dest="/etc/passwd"),)).error == "bad-mount-target"
        assert bench.sh("true", mounts=(Tmpfs(dest="/etc/passwd/x"),)).error == "bad-mount-target"
        assert bench.sh("true", mounts=(Bind(source="/no/such", dest="/x"),)).error == "bad-mount-source"

    def test_tmpfs(self, bench: Bench) -> None:
        out = bench.say(
            "stat -c %a /t; df -k /t | grep -c 4096; echo x > /t/f; ls /t",
            mounts=(Tmpfs(dest="/t", size=4 << 20),),
        )
        assert out.split() == ["1777", "1", "f"]
        assert not (bench.root / "t").exists()

    def test_mounts_within_mounts(self, bench: Bench) -> None:
        """Parents come first whatever the order, and stubs inside a mount vanish as well."""
        (bench.shared / "d").mkdir()
        bench.own(bench.shared)
        before = picture(bench.shared)
        mounts = (
            Secret(dest="/w/d/token", data=b"inner"),
            Tmpfs(dest="/w/t"),
            Bind(source=str(bench.shared), dest="/w", readonly=False),
            Secret(dest="/w/t/x/deep", data=b"deep"),
        )
        assert bench.say("cat /w/d/token; cat /w/t/x/deep", mounts=mounts) == "innerdeep"
        assert picture(bench.shared) == before

    def test_secret(self, bench: Bench) -> None:
        data = b"s3cret-" + os.urandom(8).hex().encode()
        secret = Secret(dest="/run/secrets/token", data=data)
        before = picture(bench.root)
        out = bench.say(
            "cat /run/secrets/token; echo; stat -c '%a %u %g' /run/secrets/token", mounts=(secret,)
        )
        assert out.splitlines() == [data.decode(), "400 0 0"]
        assert picture(bench.root) == before
        assert bench.left in ([], ["state"])
        for path in (*bench.store.rglob("*"), *bench.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name != "answer":
                assert data not in path.read_bytes()

    def test_secret_of_a_user(self, bench: Bench) -> None:
        secret = Secret(dest="/s", data=b"x", uid=5, gid=6, mode=0o440)
        found = bench.sh("cat /s; stat -c ' %a %u %g' /s", user="builder", mounts=(secret,))
        if bench.identity == "single":
            assert found.error == "unmapped-id"
        else:
            assert found.out.strip() == "x 440 5 6"

    def test_agent_socket(self, bench: Bench) -> None:
        user, uid = ("", 0) if bench.identity == "single" else ("builder", 5)
        mount = SshSocket(dest="/run/agent", source=str(bench.shared / "agent"), uid=uid)
        script = "test -S /run/agent; stat -c '%a %u' /run/agent"
        assert bench.say(script, user=user, mounts=(mount,)) == f"600 {uid}"
        assert not (bench.root / "run").exists()

    # --- Names --------------------------------------------------------------------------------

    def test_hosts(self, bench: Bench) -> None:
        out = bench.say("cat /etc/hosts", extra_hosts=(("db", "10.1.2.3"), ("six", "fd00::1")))
        lines = [line.split() for line in out.splitlines()]
        assert ["10.1.2.3", "db"] in lines
        assert ["fd00::1", "six"] in lines
        assert ["127.0.0.1", "localhost"] in lines

    def test_resolv_conf(self, bench: Bench) -> None:
        assert bench.say("cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text().rstrip("\n")
        assert "nameserver 127." not in bench.say("cat /etc/resolv.conf", network="none")

    # --- No trace -----------------------------------------------------------------------------

    @pytest.mark.parametrize("script", ["true", "exit 1", "echo x > /etc/hosts; echo y > /etc/resolv.conf"])
    def test_no_trace(self, bench: Bench, script: str) -> None:
        before = picture(bench.root)
        mounts = (
            Tmpfs(dest="/var/cache/deep/er"),
            Secret(dest="/root/.token", data=b"x"),
            Bind(source=str(bench.shared), dest="/opt/src"),
        )
        bench.sh(script, mounts=mounts)
        assert picture(bench.root) == before

    def test_existing_files_keep_their_content(self, bench: Bench) -> None:
        (bench.root / "etc/hosts").write_text("mine\n")
        bench.own(bench.root)
        before = picture(bench.root)
        assert "mine" not in bench.say("cat /etc/hosts; echo x > /etc/hosts")
        assert (bench.root / "etc/hosts").read_text() == "mine\n"
        assert picture(bench.root) == before

    def test_changes_of_the_step_are_kept(self, bench: Bench) -> None:
        """A directory that got a stub and was then used by the step stays, with the step's time."""
        bench.say(
            "touch /run/mine /etc/new; touch -d @1000000000 /etc",
            mounts=(Secret(dest="/run/a/s", data=b"x"),),
        )
        assert (bench.root / "run/mine").exists()
        assert not (bench.root / "run/a").exists()
        assert (bench.root / "etc").stat().st_mtime == 1000000000
        assert not (bench.root / "etc/hosts").exists()

    def test_renamed_directories(self, bench: Bench) -> None:
        """The step moves the directory that holds a stub away and puts files in its place."""
        bench.say("mv /etc /etc2; mkdir /etc; echo kept > /etc/hosts")
        assert (bench.root / "etc/hosts").read_text() == "kept\n"
        assert not (bench.root / "etc2/hosts").exists()
        assert (bench.root / "etc2/passwd").exists()

    def test_links_do_not_lead_out(self, bench: Bench) -> None:
        """Mount points behind hostile and honest links stand inside the root."""
        outside = bench.shared / "outside"
        outside.mkdir()
        bench.own(bench.shared)
        (bench.root / "etc/hosts").symlink_to(str(outside / "hosts"))
        (bench.root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub.conf")
        (bench.root / "proc").symlink_to("../../../var/proc")
        (bench.root / "up").symlink_to("../../../../../../tmp")
        bench.own(bench.root)
        before, untouched = picture(bench.root), picture(bench.shared)
        out = bench.say(
            "cat /etc/hosts /etc/resolv.conf; cat /up/s", mounts=(Secret(dest="/up/s", data=b"sec"),)
        )
        assert "localhost" in out
        assert out.endswith("sec")
        assert picture(bench.root) == before
        assert picture(bench.shared) == untouched

    def test_root_under_an_odd_path(self, bench: Bench) -> None:
        odd = bench.root.parent / "a b,c:d=\\e"
        bench.root.rename(odd)
        found = bench.steps(StepSpec(args=("/bin/true",)), root=str(odd))[0]
        assert found.status is not None
        assert found.status.status == 0

    def test_readonly_root(self, bench: Bench) -> None:
        found = bench.sh("echo x > /tmp/f", readonly_root=True)
        assert "Read-only" in found.err
