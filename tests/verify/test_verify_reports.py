"""`check-reproducible` of builds that are not: each file with its step, its likely cause and what helps."""

from __future__ import annotations

from building import Builder, Context
from verifying import checked, files, rules

WILD = """\
FROM busybox AS made
COPY src /src
RUN date > /stamp; date +%s > /epoch; cat /proc/sys/kernel/random/uuid > /uuid; nproc > /cpus
RUN head -c 12 /dev/urandom | base64 > /token; tar cf /t.tar -C /src .; ls -l --full-time /src/a | cut -c40- > /listing
FROM busybox
COPY --from=made /stamp /epoch /uuid /cpus /token /t.tar /listing /made/
RUN mktemp > /place; mkdir -p /var/log/apt; date > /var/log/app.log; echo calm > /calm
"""


def test_every_difference_has_its_step_and_its_rule(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": WILD, "src/a": "a", "src/b": "b"})
    report = checked(somebody, str(root), status=3)
    assert (report["identical"], report["error"]) == (False, "layer-not-reproduced")
    found = files(report)
    wanted = {
        "/made/stamp": "timestamp", "/made/epoch": "timestamp", "/made/uuid": "uuid", "/made/token": "random",
        "/made/t.tar": "tar-metadata", "/place": "build-path", "/var/log/app.log": "log",
        "/made/listing": "context-times",
    }  # fmt: skip
    if "cores" in report["worlds"] and len(set(report["worlds"]["cores"])) == 2:
        wanted["/made/cpus"] = "cpu-count"
    assert {path: rule for path, rule in wanted.items() if rule not in rules(found.get(path, {}))} == {}
    assert "/calm" not in found
    assert report["times_matter"] == ["/made/listing", "/made/t.tar"]
    # Copied between stages, yet made by a step of the other one.
    assert found["/made/stamp"]["step"].startswith("[made] RUN /bin/sh -c date > /stamp")
    assert found["/made/listing"]["step"].startswith("[made] RUN /bin/sh -c head -c 12")
    assert found["/place"]["step"].startswith("RUN /bin/sh -c mktemp")
    before, after = found["/made/uuid"]["diff"][1:3]
    assert (before[0], after[0], len(before)) == ("-", "+", 37)
    assert {member["name"] for member in found["/made/t.tar"]["members"]} >= {"a", "b"}
    assert all(cause["cure"] for file in found.values() for cause in file["causes"])


def test_a_build_that_is_the_same_everywhere(anybody: Builder, context: Context) -> None:
    text = (
        "FROM busybox\nCOPY . /c\nRUN ls /c > /ls; umask > /umask; env | sort > /env; hostname > /host\n"
        "RUN echo 'u:x:5:6::/:/bin/sh' >> /etc/passwd && touch /now\n"
    )
    root = context({"Dockerfile": text, "a/b": "1", "c": "2", ".dockerignore": "hidden\n", "hidden": "x"})
    report = checked(anybody, "--platform", "local", "--label", "a=b", "--annotation", "c=d", str(root))
    assert report["identical"]
    varied = {name for name, (one, other) in report["worlds"].items() if one != other}
    assert varied >= {"directory", "umask", "locale", "time zone", "context times"}
    if anybody.uid == 0:
        assert "user" in varied
    built = anybody.build(root, "--label", "a=b", "--annotation", "c=d")
    assert report["new"] == built.digest


def test_a_build_that_fails_is_no_difference(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN exit 7\n"})
    done = somebody.run("check-reproducible", str(root), status=1)
    assert "error[step-failed]" in done.err
    assert "error[rebuild-failed]" in done.err
    no_context = somebody.run("check-reproducible", "-", status=1, input=b"")
    assert "error[context-needed]" in no_context.err


def test_people_read_it_too(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\nLABEL x=1\n"})
    done = somebody.run("check-reproducible", "--progress", "none", str(root), status=3)
    for text in (
        "~ /id  content",
        "uuid: it holds a random identifier",
        "what helps:",
        "RUN /bin/sh -c cat /proc",
        "varied: ",
    ):
        assert text in done.out
    assert "error[layer-not-reproduced]: 1 layer and 1 file differ" in done.err


def test_who_builds(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM scratch\nLABEL a=b\n"})
    for name in ("root", "nobody-of-this-name"):
        done = somebody.run("check-reproducible", "--user", name, str(root), status=2)
        assert "error[invalid-option-value]" in done.err
