"""Instructions that change the image config only, and the history that they leave."""

from __future__ import annotations

import pytest
from frontend_data import PATH, image_config

from arkwright.oci.config import Healthcheck


def config_of(compile_file, lines, **base):
    images = {"base": image_config(**base)}
    return compile_file(f"FROM base\n{lines}\n", images=images).config.config


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("ENV A=1 B=\"2 3\"", "ENV A=1 B=2 3"),
        ("ENV A  b c", "ENV A=b c"),
        ("LABEL a=b", "LABEL a=b"),
        ("ARG A=1 B", "ARG A=1 B"),
        ("USER me", "USER me"),
        ("EXPOSE 80 443/udp", "EXPOSE [80/tcp 443/udp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ('VOLUME ["/a b"]', "VOLUME [/a b]"),
        ('CMD ["a", "b c"]', 'CMD ["a" "b c"]'),
        ("CMD echo \"$X\"", 'CMD ["/bin/sh" "-c" "echo \\"$X\\""]'),
        ("ENTRYPOINT x", 'ENTRYPOINT ["/bin/sh" "-c" "x"]'),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
        ("MAINTAINER Me <me@x>", "MAINTAINER Me <me@x>"),
        ("WORKDIR /", "WORKDIR /"),
        (
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
            "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
        ),
    ],
)  # fmt: skip
def test_history_without_layers(compile_file, line, entry):
    built = compile_file(f"FROM debian\n{line}\n")
    assert built.history() == [(entry, True)]
    assert built.definition.target == compile_file("FROM debian\n").definition.target


def test_env_replaces_in_place_and_appends(compile_file):
    config = config_of(compile_file, "ENV A=2 C=3\nENV $A=x", env=("A=1", "B=2", PATH))
    assert config.env == ("A=2", "B=2", PATH, "C=3", "2=x")


def test_labels(compile_file):
    built = compile_file(
        "FROM debian\nARG V=1\nLABEL a=\"$V x\" b='$V'\nLABEL a=2\n", labels={"b": "cli", "c": "d"}
    )
    assert built.config.config.labels == {"a": "2", "b": "cli", "c": "d"}


def test_blank_names_are_refused_after_expansion(fails):
    fails("dockerfile-syntax", "FROM debian\nENV $X=1\n")
    fails("dockerfile-syntax", "FROM debian\nLABEL $X=1\n")


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        ("80", ["80/tcp"]), ("8000-8002/udp", ["8000/udp", "8001/udp", "8002/udp"]), ("53/SCTP", ["53/sctp"]),
        ("127.0.0.1:80:8080", ["8080/tcp"]), ("[::1]:80:81", ["81/tcp"]), ("5000:80", ["80/tcp"]), ("$P", ["1/tcp", "2/tcp"]),
        ("7000-7005:80", ["80/tcp"]),
    ],
)  # fmt: skip
def test_expose(compile_file, written, ports):
    config = config_of(compile_file, f'ARG P="1 2"\nEXPOSE {written}')
    assert list(config.exposed_ports) == ports


@pytest.mark.parametrize(
    "port", ["x", "80/icmp", "70000", "90-80", "80/tcp/udp", "host:80:80", "1-2:80-85", "/tcp", "-1"]
)
def test_wrong_ports(fails, port):
    assert fails("invalid-port", f"FROM debian\nEXPOSE {port}\n").labels[0].span.text == port


def test_entrypoint_clears_an_inherited_cmd_only(compile_file):
    assert config_of(compile_file, "ENTRYPOINT x", cmd=("old",)).cmd is None
    assert config_of(compile_file, "CMD new\nENTRYPOINT x", cmd=("old",)).cmd == ("/bin/sh", "-c", "new")
    assert config_of(compile_file, "ENTRYPOINT []", entrypoint=("old",)).entrypoint is None
    assert config_of(compile_file, "CMD []", cmd=("old",)).cmd == ()
    staged = compile_file("FROM debian AS a\nCMD c\nFROM a\nENTRYPOINT e\n").config.config
    assert staged.cmd is None


def test_cmd_does_not_expand(compile_file):
    assert config_of(compile_file, "ARG X=1\nCMD echo $X").cmd == ("/bin/sh", "-c", "echo $X")
    assert config_of(compile_file, 'CMD ["$X"]').args_escaped


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("NONE", Healthcheck(test=("NONE",))),
        ("CMD a b", Healthcheck(test=("CMD-SHELL", "a b"))),
        ('cmd ["a", "b"]', Healthcheck(test=("CMD", "a", "b"))),
        (
            "--interval=5s --timeout=1m --start-period=0 --start-interval=500ms --retries=0 CMD x",
            Healthcheck(
                test=("CMD-SHELL", "x"), interval=5 * 10**9, timeout=60 * 10**9, start_interval=5 * 10**8
            ),
        ),
    ],
)
def test_healthcheck(compile_file, line, check):
    assert config_of(compile_file, f"HEALTHCHECK {line}").healthcheck == check


@pytest.mark.parametrize("signal", ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1", "$S"])
def test_signals(compile_file, signal):
    expected = "SIGKILL" if signal == "$S" else signal
    assert config_of(compile_file, f"ARG S=SIGKILL\nSTOPSIGNAL {signal}").stop_signal == expected


@pytest.mark.parametrize("signal", ["SIGNOPE", "0", "65", "-9", "RTMIN+40"])
def test_wrong_signals(fails, signal):
    fails("invalid-signal", f"FROM debian\nSTOPSIGNAL {signal}\n")


def test_volumes_user_author_shell(compile_file):
    config = config_of(
        compile_file, 'ARG V=/v\nVOLUME $V "/a"\nUSER $V:g\nSHELL ["$V"]', volumes={"/old": {}}
    )
    assert set(config.volumes) == {"/old", "/v", "/a"}
    assert (config.user, config.shell) == ("/v:g", ("$V",))
    assert compile_file("FROM debian\nMAINTAINER me\n").config.author == "me"


def test_empty_volume_after_expansion(fails):
    fails("missing-argument", "FROM debian\nVOLUME $X\n")


def test_the_base_config_is_kept(compile_file):
    config = config_of(compile_file, "USER x", entrypoint=("e",), labels={"a": "b"}, stop_signal="SIGINT")
    assert (config.entrypoint, config.labels, config.stop_signal) == (("e",), {"a": "b"}, "SIGINT")
