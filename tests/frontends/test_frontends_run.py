"""RUN: commands, heredocs, mounts, network, security, environment."""

from __future__ import annotations

import pytest
from frontend_data import PATH, image_config

from arkwright.diagnostics.errors import Denied
from arkwright.graph.ops import ExecOp, FileOp, MkFileAction, Mount, SecretEnv, Ulimit


def mounts(built):
    return built.op(ExecOp).mounts[1:]


@pytest.mark.parametrize(
    ("lines", "args"),
    [
        ("RUN a  $X 'b'", ("/bin/sh", "-c", "a  $X 'b'")),
        ('RUN ["a", "$X"]', ("a", "$X")),
        ('SHELL ["/bin/bash", "-ec"]\nRUN x', ("/bin/bash", "-ec", "x")),
        ("RUN", ("/bin/sh", "-c", "")),
        ("RUN <<E\na\nb\nE", ("/bin/sh", "-c", "a\nb\n")),
        ("RUN <<-E\n\ta\n\tE", ("/bin/sh", "-c", "a\n")),
        ("RUN cat <<'A' <<-B > f\na\nA\n\tb\n\tB", ("/bin/sh", "-c", "cat <<'A' <<-B > f\na\nA\n\tb\nB")),
        ("RUN <<E bash\na\nE", ("/bin/sh", "-c", "<<E bash\na\nE")),
        ("RUN <<A <<B\na\nA\nb\nB", ("/bin/sh", "-c", "<<A <<B\na\nA\nb\nB")),
    ],
)
def test_command_forms(compile_file, lines, args):
    assert compile_file(f"FROM debian\n{lines}\n").op(ExecOp).args == args


def test_the_shell_of_the_base(compile_file):
    built = compile_file("FROM base\nRUN x\n", images={"base": image_config(shell=("/bin/ash", "-c"))})
    assert built.op(ExecOp).args == ("/bin/ash", "-c", "x")


def test_a_heredoc_with_a_shebang_is_a_file(compile_file):
    built = compile_file("FROM debian\nRUN <<E\n#!/usr/bin/python3\nprint(1)\nE\n")
    op = built.op(ExecOp)
    assert op.args == ("/bin/sh", "-c", "/dev/pipes/E")
    assert op.mounts[1] == Mount(dest="/dev/pipes", input=1, readonly=True)
    (action,) = built.op(FileOp).actions
    assert action == MkFileAction(
        input=-1, output=0, path="/E", mode=0o755, data=b"#!/usr/bin/python3\nprint(1)\n"
    )


def test_what_a_step_gets(compile_file):
    built = compile_file(
        "FROM base\nARG A=1\nWORKDIR w\nUSER u:g\nRUN x\n",
        images={"base": image_config(env=("B=2", PATH), working_dir="/srv")},
        extra_hosts=(("h", "1.2.3.4"),),
        ulimits=(Ulimit("nofile", 1, 2),),
        shm_size=5,
        hostname="me",
        network="none",
    )
    op = built.op(ExecOp)
    assert op.env == ("B=2", PATH, "A=1")
    assert (op.cwd, op.user, op.hostname, op.network, op.security) == (
        "/srv/w",
        "u:g",
        "me",
        "none",
        "sandbox",
    )
    assert (op.extra_hosts, op.ulimits, op.shm_size) == ((("h", "1.2.3.4"),), (Ulimit("nofile", 1, 2),), 5)
    assert op.mounts == (Mount(dest="/", input=0, output=0),)
    assert str(built.vertices(ExecOp)[0].platform) == "linux/amd64"


def test_path_is_added_when_the_base_has_none(compile_file):
    built = compile_file("FROM debian\nRUN x\n")
    assert built.op(ExecOp).env == (PATH,)
    assert built.config.config.env == (PATH,)


def test_history_shows_build_arguments(compile_file):
    built = compile_file("FROM debian\nARG B=2\nARG A\nRUN x\n")
    assert built.history()[-1] == ("RUN |2 B=2 A= /bin/sh -c x", False)
    assert compile_file("FROM debian\nRUN x\n").history() == [("RUN /bin/sh -c x", False)]
    assert compile_file("FROM debian\nRUN x\n").config.history[-1].comment == "arkwright.dockerfile.v0"


@pytest.mark.parametrize(
    ("value", "mount"),
    [
        ("target=/m", Mount(dest="/m", input=1, readonly=True)),
        ("type=bind,dst=m,src=/a/../b,rw", Mount(dest="/w/m", input=1, selector="/b")),
        ("type=BIND,destination=/m,ro=false", Mount(dest="/m", input=1)),
        ("type=bind,target=/m,readwrite=false", Mount(dest="/m", input=1, readonly=True)),
        ("type=bind", Mount(dest="/w", input=1, readonly=True)),
        ("type=bind,from=scratch,target=/m", Mount(dest="/m", readonly=True)),
        ("type=cache,target=/c/", Mount(dest="/c", type="cache", cache_id="/c")),
        (
            "type=cache,target=c,id=x,sharing=locked,mode=0700,uid=1,gid=2,ro",
            Mount(
                dest="/w/c",
                type="cache",
                cache_id="x",
                sharing="locked",
                mode=0o700,
                uid=1,
                gid=2,
                readonly=True,
            ),
        ),
        (
            "type=cache,target=/c,from=other,source=s",
            Mount(dest="/c", type="cache", cache_id="/c", input=1, selector="/s"),
        ),
        ("type=tmpfs,target=/t,size=1m", Mount(dest="/t", type="tmpfs", tmpfs_size=1 << 20)),
        (
            "type=secret,id=k",
            Mount(dest="/run/secrets/k", type="secret", secret_id="k", readonly=True, mode=0o400),
        ),
        (
            "type=secret,target=/etc/key,required,uid=1,mode=444",
            Mount(
                dest="/etc/key",
                type="secret",
                secret_id="key",
                required=True,
                readonly=True,
                mode=0o444,
                uid=1,
            ),
        ),
        (
            "type=secret,source=s,target=rel,required=false",
            Mount(dest="/w/rel", type="secret", secret_id="s", readonly=True, mode=0o400),
        ),
        (
            "type=ssh",
            Mount(
                dest="/run/buildkit/ssh_agent.0", type="ssh", secret_id="default", readonly=True, mode=0o600
            ),
        ),
        (
            "type=ssh,id=gh,target=/s,required=true,mode=0666",
            Mount(dest="/s", type="ssh", secret_id="gh", required=True, readonly=True, mode=0o666),
        ),
        ("target=/$V,source=${V}x", Mount(dest="/v", input=1, selector="/vx", readonly=True)),
    ],
)
def test_mounts(compile_file, value, mount):
    built = compile_file(f"FROM debian AS other\nFROM debian\nARG V=v\nWORKDIR /w\nRUN --mount={value} x\n")
    assert mounts(built) == (mount,)


def test_secrets_as_environment(compile_file):
    op = compile_file("FROM debian\nRUN --mount=type=secret,id=k,env=KEY,required x\n").op(ExecOp)
    assert (op.secret_env, len(op.mounts)) == ((SecretEnv("KEY", "k", True),), 1)
    op = compile_file("FROM debian\nRUN --mount=type=secret,id=k,env=KEY,target=/k x\n").op(ExecOp)
    assert (op.secret_env, op.mounts[1].dest) == ((SecretEnv("KEY", "k"),), "/k")
    assert not any("KEY" in entry for entry in op.env)


def test_agents(compile_file):
    op = compile_file("FROM debian\nRUN --mount=type=ssh --mount=type=ssh,id=b x\n").op(ExecOp)
    assert [m.dest for m in op.mounts[1:]] == ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]
    assert "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0" in op.env
    built = compile_file("FROM debian\nENV SSH_AUTH_SOCK=mine\nRUN --mount=type=ssh x\n")
    assert "SSH_AUTH_SOCK=mine" in built.op(ExecOp).env
    assert all("ssh_agent" not in entry for entry in built.config.config.env)


def test_mounts_of_stages_and_images(compile_file):
    built = compile_file(
        "FROM debian AS Tools\nRUN t\nFROM debian\n"
        "RUN --mount=from=tools,source=/bin,target=/b --mount=from=busybox,target=/a --mount=type=cache,target=/b/c x\n"
    )
    op = built.vertices(ExecOp)[-1].op
    assert [(m.dest, m.input) for m in op.mounts] == [("/", 0), ("/a", 2), ("/b", 1), ("/b/c", -1)]


def test_cache_namespace_and_host_name_arguments(compile_file):
    args = {"BUILDKIT_CACHE_MOUNT_NS": "ns", "BUILDKIT_SANDBOX_HOSTNAME": "box"}
    op = compile_file("FROM debian\nRUN --mount=type=cache,target=/c x\n", build_args=args).op(ExecOp)
    assert (op.mounts[1].cache_id, op.hostname) == ("ns//c", "box")


@pytest.mark.parametrize(
    ("value", "code", "place"),
    [
        ("type=bnid,target=/m", "invalid-mount", "bnid"),
        ("target=/m,targte=/x", "unknown-mount-key", "targte=/x"),
        ("target=/m,z", "unknown-mount-key", "z"),
        ("target", "invalid-mount", "target"),
        ("target=/", "invalid-mount", "/"),
        ("type=bind,target=/m,mode=1", "invalid-mount", "1"),
        ("type=tmpfs,target=/m,uid=1", "invalid-mount", "1"),
        ("type=cache,target=/m,size=1", "invalid-mount", "1"),
        ("type=bind,target=/m,sharing=locked", "invalid-mount", "locked"),
        ("type=cache,target=/m,sharing=lokced", "invalid-mount", "lokced"),
        ("type=cache,target=/m,env=A", "invalid-mount", "A"),
        ("type=cache,target=/m,required", "invalid-mount", "required"),
        ("type=tmpfs,target=/m,size=x", "invalid-mount", "x"),
        ("type=cache,target=/m,mode=9", "invalid-mount", "9"),
        ("type=cache,target=/m,uid=-1", "invalid-mount", "-1"),
        ("type=bind,target=/m,ro=maybe", "invalid-mount", "ro=maybe"),
        ("type=secret", "invalid-mount", "type=secret"),
        ("type=secret,id=a,source=b", "invalid-mount", "b"),
        ("type=secret,id=a,from=scratch", "invalid-mount", "scratch"),
        ("type=ssh,source=x", "invalid-mount", "x"),
    ],
)
def test_wrong_mounts_point_at_the_field(fails, value, code, place):
    found = fails(code, f"FROM debian\nRUN --mount={value} x\n")
    assert found.labels[0].span.text == place


def test_meaningless_keys_are_told(compile_file):
    built = compile_file("FROM debian\nRUN --mount=type=tmpfs,target=/t,from=x x\n")
    assert built.warnings == ["ignored-mount-key"]


def test_quoted_mount_values(compile_file):
    built = compile_file('FROM debian\nRUN --mount=type=cache,\\"target=/a,b\\" x\n')
    assert mounts(built)[0].dest == "/a,b"


@pytest.mark.parametrize(
    ("flag", "request_network", "network"),
    [
        ("", "host", "host"),
        ("--network=none ", "host", "none"),
        ("--network=default ", "none", "none"),
        ("--network=host ", "host", "host"),
    ],
)
def test_network(compile_file, flag, request_network, network):
    assert compile_file(f"FROM debian\nRUN {flag}x\n", network=request_network).op(ExecOp).network == network


def test_the_network_of_the_host_must_be_allowed(compile_file):
    text = "FROM debian\nRUN --network=host x\n"
    assert compile_file(text, allow=("network.host",)).op(ExecOp).network == "host"
    with pytest.raises(Denied) as refused:
        compile_file(text, allow=("security.insecure",))
    assert refused.value.code == "entitlement-missing"
    assert refused.value.details["rule"] == "network.host"


def test_network_and_security_values(compile_file, fails):
    text = "FROM debian\nRUN --security=insecure x\n"
    assert compile_file(text, allow=("security.insecure",)).op(ExecOp).security == "insecure"
    with pytest.raises(Denied) as refused:
        compile_file(text, allow=("network.host",))
    assert refused.value.code == "entitlement-missing"
    assert fails("invalid-network", "FROM debian\nRUN --network=hots x\n").hint == 'did you mean "host"?'
    fails("invalid-security", "FROM debian\nRUN --security=none x\n")
    fails("unsupported-flag", "FROM debian\nRUN --device=x y\n")
