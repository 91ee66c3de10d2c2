"""Facts of COPY, ADD, WORKDIR, USER, ENV, ARG, stages, ignore files, as seen from outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from copy_cases import (
    OLD_S,
    Case,
    Node,
    Seen,
    file,
    folder,
    hard,
    link,
    make,
    result_tree,
    run_case,
    tar_bytes,
)
from file_site import FileSite

from building import Builder

ARCHIVE = {
    "top": file("inside", mode=0o640, owner=(12, 34)),
    "d": folder(0o711, owner=(5, 6)),
    "d/l": link("../top"),
}


@pytest.fixture(scope="module")
def builder(module_builder: Builder) -> Builder:
    return module_builder


@pytest.fixture
def root(builder: Builder) -> Iterator[Path]:
    """Where a context is made."""
    path = builder.scratch / "context"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server() -> Iterator[FileSite]:
    with FileSite() as site:
        yield site


COPY = [
    Case(
        "1: owners are dropped; modes, set-id bits, links, hard links and fifos are kept",
        "FROM scratch\nCOPY d /d\n",
        {
            "d/f": file("x", mode=0o4755, owner=(12, 34)), "d/h": hard("d/f"), "d/l": link("f"),
            "d/p": Node("fifo", mode=0o640),
        },
        {
            "d/f": Seen("file", "x", 0o4755, (0, 0)), "d/h": Seen("hard", "d/f"), "d/l": Seen("link", "f"),
            "d/p": Seen("fifo", None, 0o640),
        },
    ),
    Case(
        "2: a new top directory is 0755, nested ones keep their mode",
        "FROM scratch\nCOPY d /new\n",
        {"d": folder(0o1777), "d/in": folder(0o711), "d/in/f": "x"},
        {"new": Seen("dir", None, 0o755), "new/in": Seen("dir", None, 0o711)},
    ),
    Case(
        "3: an existing directory keeps mode and owner; --chown is for entries",
        "FROM scratch AS a\nCOPY --chown=5:6 --chmod=700 f /there/f\nFROM a\nCOPY --chown=7:8 d /there\n",
        {"f": "f", "d/g": "g"},
        {"there": Seen("dir", None, 0o700, (5, 6)), "there/g": Seen("file", "g", 0o644, (7, 8))},
    ),
    Case(
        "4: --chown and --chmod reach parents that are made; a number alone is user and group",
        "FROM scratch\nCOPY --chown=7 --chmod=640 f /a/b/f\n",
        {"f": "x"},
        {path: Seen("dir", None, 0o640, (7, 7)) for path in ("a", "a/b")}
        | {"a/b/f": Seen("file", "x", 0o640, (7, 7))},
    ),
    Case(
        "4: a link changes owner and not mode; set-id bits survive --chown",
        "FROM scratch\nCOPY --chown=7:8 d /d\n",
        {"d/f": file("x", mode=0o4755), "d/l": link("f")},
        {"d/f": Seen("file", "x", 0o4755, (7, 8)), "d/l": Seen("link", "f", None, (7, 8))},
    ),
    Case(
        "5: --chown=name takes the user's primary group from the image",
        "FROM scratch\nCOPY passwd group /etc/\nCOPY --chown=app f /f\nCOPY --chown=app:extra f /g\n",
        {"passwd": "app:x:77:88::/:/bin/sh\n", "group": "app:x:88:\nextra:x:99:\n", "f": "x"},
        {"f": Seen("file", "x", None, (77, 88)), "g": Seen("file", "x", None, (77, 99))},
    ),
    Case(
        "5: an unknown user is an error, not 0:0",
        "FROM scratch\nCOPY --chown=nosuchuser f /f\n", {"f": "x"}, error="unknown-user",
    ),
    Case(
        "6: two files to one name: the last wins",
        "FROM scratch\nCOPY a b /x\n", {"a": "a", "b": "b"}, {"x": Seen("file", "b")},
    ),
    Case(
        "7: a wildcard without a match is no error",
        "FROM scratch\nCOPY f *.none /d/\n", {"f": "x"}, {"d/f": Seen("file", "x")},
    ),
    Case("7: a literal missing source is one", "FROM scratch\nCOPY none /d/\n", {}, error="copy-source-missing"),
    Case(
        "7: .. and / stop at the root of the context",
        "FROM scratch\nCOPY ../../f /a\nCOPY /f /b\nCOPY /../d/../f /c\n",
        {"f": "x", "d": folder()},
        {name: Seen("file", "x") for name in "abc"},
    ),
    Case(
        "7: a wildcard does not cross a slash",
        "FROM scratch\nCOPY *.c /d/\n", {"a.c": "x", "s/b.c": "x"}, {"d/a.c": Seen("file"), "d/b.c": None},
    ),
    Case(
        "8: a source link to a directory is followed, also an absolute one",
        "FROM scratch\nCOPY rel /r\nCOPY abs /a\n",
        {"d/f": "x", "rel": link("d"), "abs": link("/d")},
        {"r/f": Seen("file", "x"), "a/f": Seen("file", "x")},
    ),
    Case(
        "8: links inside a copied tree stay links",
        "FROM scratch\nCOPY d /d\n",
        {"e/f": "x", "d/l": link("../e"), "d/abs": link("/etc/passwd")},
        {"d/l": Seen("link", "../e"), "d/abs": Seen("link", "/etc/passwd")},
    ),
    Case(
        "9: a destination through a link is followed inside the image",
        "FROM scratch AS a\nCOPY d /\nFROM a\nCOPY f /abs/f\nCOPY f /up/g\n",
        {"d/real/x": "", "d/abs": link("/real"), "d/up": link("../../../real"), "f": "x"},
        {"real/f": Seen("file", "x"), "real/g": Seen("file", "x"), "abs": Seen("link", "/real")},
    ),
    Case(
        "9: with --link a link in the way is replaced by a directory",
        "FROM scratch AS a\nCOPY d /\nFROM a\nCOPY --link f /abs/f\n",
        {"d/real/x": "", "d/abs": link("/real"), "f": "x"},
        {"abs": Seen("dir"), "abs/f": Seen("file", "x"), "real/f": None},
    ),
    Case(
        "10: a directory over a file is an error",
        "FROM scratch\nCOPY f /t/x\nCOPY d /t\n", {"f": "", "d/x/y": ""}, error="copy-type-conflict",
    ),
    Case(
        "10: a file over a directory is an error",
        "FROM scratch\nCOPY d /t\nCOPY e /t\n", {"d/x/y": "", "e/x": ""}, error="copy-type-conflict",
    ),
    Case(
        "11: --parents keeps the parents' modes; /./ is the pivot; wildcards cross with **",
        "FROM scratch\nCOPY --parents a/b/f /one/\nCOPY --parents a/./b/f /two/\nCOPY --parents **/*.c *.none /three/\n",
        {"a": folder(0o711), "a/b": folder(0o750), "a/b/f": "x", "a/b/x.c": "c"},
        {
            "one/a": Seen("dir", None, 0o711), "one/a/b/f": Seen("file", "x"), "two/b": Seen("dir", None, 0o750),
            "two/b/f": Seen("file", "x"), "two/a": None, "three/a/b/x.c": Seen("file", "c"),
        },
    ),
    Case(
        "11: a literal path of --parents must exist",
        "FROM scratch\nCOPY --parents a/none /x/\n", {"a/f": ""}, error="copy-source-missing",
    ),
    Case(
        "12: USER does not matter to COPY",
        "FROM scratch\nUSER 7:8\nCOPY f /d/f\n", {"f": "x"},
        {"d": Seen("dir", None, 0o755, (0, 0)), "d/f": Seen("file", "x", None, (0, 0))},
    ),
    Case(
        "--exclude counts from the copied directory, and may be repeated",
        "FROM scratch\nCOPY --exclude=*.txt --exclude=**/drop d /d\n",
        {"d/a.txt": "", "d/b.c": "", "d/s/drop": "", "d/s/keep.txt": ""},
        {"d/a.txt": None, "d/b.c": Seen("file"), "d/s/drop": None, "d/s/keep.txt": Seen("file")},
    ),
    Case(
        "COPY --link of a file, a tree and with --chown",
        "FROM scratch AS a\nCOPY f /keep\nFROM a\nCOPY --link d /d\nCOPY --link --chown=7:8 f /x/f\n",
        {"f": "x", "d/g": "g"},
        {"keep": Seen("file", "x"), "d/g": Seen("file", "g", None, (0, 0)), "x/f": Seen("file", "x", None, (7, 8))},
    ),
    Case(
        "COPY of a heredoc, expanded and not",
        'FROM scratch\nARG who=me\nCOPY <<a <<"b" /d/\nfor $who\na\nfor $who\nb\n', {},
        {"d/a": Seen("file", "for me\n", 0o644), "d/b": Seen("file", "for $who\n")},
    ),
    Case(
        "symbolic --chmod",
        "FROM scratch\nCOPY --chmod=u=rwX,go= d /d\n", {"d/f": file("x", mode=0o664), "d/s/x": file("", mode=0o755)},
        {"d/f": Seen("file", "x", 0o600), "d/s": Seen("dir", None, 0o700), "d/s/x": Seen("file", "", 0o700)},
    ),
    Case(
        "names with blanks, quotes and no UTF-8",
        'FROM scratch\nCOPY ["a b", "q s", "/d/"]\nCOPY odd /odd\n',
        {"a b": "1", "q s": "2", os.fsdecode(b"odd/\xff\xfe"): "3"},
        {"d/a b": Seen("file", "1"), "d/q s": Seen("file", "2"), os.fsdecode(b"odd/\xff\xfe"): Seen("file", "3")},
    ),
]  # fmt: skip

ADD = [
    *(
        Case(
            f"an archive ({name}) is unpacked, whatever its name",
            "FROM scratch\nADD bundle /new/\n",
            {"bundle": file(tar_bytes(ARCHIVE, mode))},
            {
                "new": Seen("dir", None, 0o755, (0, 0)), "new/top": Seen("file", "inside", 0o640, (12, 34)),
                "new/d": Seen("dir", None, 0o711, (5, 6)), "new/d/l": Seen("link", "../top"),
            },
        )
        for name, mode in (("tar", "w"), ("gzip", "w:gz"), ("xz", "w:xz"), ("bzip2", "w:bz2"))
    ),
    Case(
        "--chown is for all of the archive",
        "FROM scratch\nADD --chown=7:8 a.tar /new/\n", {"a.tar": file(tar_bytes(ARCHIVE))},
        {"new/top": Seen("file", "inside", 0o640, (7, 8)), "new/d": Seen("dir", None, 0o711, (7, 8))},
    ),
    Case(
        "COPY does not unpack, nor does ADD --unpack=false",
        "FROM scratch\nCOPY a.tar /copied\nADD --unpack=false a.tar /added\n", {"a.tar": file(tar_bytes({}))},
        {"copied": Seen("file"), "added": Seen("file")},
    ),
    Case(
        "a file that is no archive is copied",
        "FROM scratch\nADD a.tar.gz /d/\n", {"a.tar.gz": "no archive"}, {"d/a.tar.gz": Seen("file", "no archive")},
    ),
    Case(
        "an archive that leads out stays in",
        "FROM scratch\nADD a.tar /in/\n",
        {"a.tar": file(tar_bytes({"l": link("/../../out"), "l/f": file("x")}))}, {"in/out/f": Seen("file", "x"), "out/f": None},
    ),
    Case(
        "--checksum is for remote sources",
        f"FROM scratch\nADD --checksum=sha256:{'0' * 64} f /f\n", {"f": "x"}, error="invalid-checksum",
    ),
]  # fmt: skip

REST = [
    Case(
        "WORKDIR makes missing parts 0755, owned by the current USER; relative to the one before",
        "FROM scratch\nCOPY --chmod=700 f /there/f\nUSER 7:8\nWORKDIR /there\nWORKDIR a/b\nCOPY f .\n", {"f": "x"},
        {
            "there": Seen("dir", None, 0o700, (0, 0)), "there/a": Seen("dir", None, 0o755, (7, 8)),
            "there/a/b": Seen("dir", None, 0o755, (7, 8)), "there/a/b/f": Seen("file", "x", None, (0, 0)),
        },
    ),
    Case(
        "USER without a passwd entry: gid 0, HOME=/",
        "FROM busybox\nUSER 1234\nWORKDIR /w\nRUN echo $HOME $(id -u):$(id -g) > out\n", {},
        {"w/out": Seen("file", "/ 1234:0\n", 0o644, (1234, 0))},
    ),
    Case(
        "USER name: primary and supplementary groups; name:group only that one; HOME from passwd",
        "FROM busybox\nRUN echo 'app:x:77:88::/home/app:/bin/sh' >> /etc/passwd && echo 'extra:x:99:app' >> /etc/group"
        " && mkdir -m 777 /w\nUSER app\nRUN echo $HOME $(id -u) $(id -G) > /w/a\nUSER app:extra\n"
        "RUN echo $(id -u) $(id -G) > /w/b\n", {},
        {"w/a": Seen("file", "/home/app 77 88 99\n"), "w/b": Seen("file", "77 99\n")},
    ),
    Case(
        "ENV: the whole instruction sees old values; it beats ARG; undeclared is empty",
        "FROM busybox\nARG both=arg\nENV both=env one=1\nENV one=2 two=$one\nRUN echo $both $one $two [$none] > /out\n", {},
        {"out": Seen("file", "env 2 1 []\n")}, args=("--build-arg", "both=given"),
    ),
    Case(
        "ARG: a global one after re-declaration only; inherited by stages on top",
        "ARG g=global\nFROM busybox AS a\nRUN echo [$g] > /before\nARG g\nARG own=o\nFROM a\nRUN echo [$g] [$own] > /after\n", {},
        {"before": Seen("file", "[]\n"), "after": Seen("file", "[global] [o]\n")},
    ),
    Case(
        "stages: names know no case, numbers work, unused failing ones are not run",
        "FROM scratch AS One\nCOPY f /f\nFROM busybox AS bad\nRUN false\nFROM scratch\nCOPY --from=ONE /f /a\nCOPY --from=0 /f /b\n",
        {"f": "x"}, {"a": Seen("file", "x"), "b": Seen("file", "x")},
    ),
    Case(
        "stages: --from a later one is an error",
        "FROM scratch\nCOPY --from=later /f /f\nFROM scratch AS later\nCOPY f /f\n", {"f": ""}, error="unknown-stage",
        args=("--target", "0"),
    ),
    Case(
        "stages: COPY --from a stage keeps owners",
        "FROM scratch AS a\nCOPY --chown=5:6 f /f\nFROM scratch\nCOPY --from=a /f /f\n", {"f": "x"},
        {"f": Seen("file", "x", None, (5, 6))},
    ),
    Case(
        "ONBUILD triggers run first and are dropped",
        "FROM scratch AS parent\nONBUILD COPY f /first\nONBUILD COPY --from=other /o /o\nFROM scratch AS other\nCOPY f /o\n"
        "FROM parent\nCOPY --chmod=600 f /first\n", {"f": "x"},
        {"first": Seen("file", "x", 0o600), "o": Seen("file", "x")},
    ),
    Case(
        "SHELL changes the shell form",
        'FROM busybox\nSHELL ["/bin/sh", "-xec"]\nRUN echo $0 > /out\nSHELL ["/bin/busybox", "echo", "-n"]\n', {},
        {"out": Seen("file")},
    ),
    Case(
        "dockerignore: last line wins, ! brings back, # only in column 0, slashes and blanks stripped, paths cleaned",
        "FROM scratch\nCOPY . /c\n",
        {
            ".dockerignore": "# comment\n/lead  \nx/../cleaned\n**/*.tmp\n!keep.tmp\ndir\n!dir/in/kept\nDockerfile\n.dockerignore\n",
            "lead": "", "cleaned": "", "a.tmp": "", "s/b.tmp": "", "keep.tmp": "", "dir/x": "", "dir/in/kept": "k",
            "dir/in/not": "", "other": "",
        },
        {
            "c/lead": None, "c/cleaned": None, "c/a.tmp": None, "c/s/b.tmp": None, "c/dir/x": None, "c/dir/in/not": None,
            "c/Dockerfile": None, "c/.dockerignore": None,
            "c/keep.tmp": Seen("file"), "c/dir/in/kept": Seen("file", "k"), "c/other": Seen("file"),
        },
    ),
    Case(
        "dockerignore: a literal COPY of an ignored file finds nothing",
        "FROM scratch\nCOPY secret /s\n", {".dockerignore": "secret\n", "secret": ""}, error="copy-source-missing",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", [*COPY, *ADD, *REST], ids=lambda case: case.fact[:50])
def test_fact(case: Case, builder: Builder, root: Path) -> None:
    run_case(builder, root, case)


def test_2_and_3_mtimes_of_sources_reach_steps(builder: Builder, root: Path) -> None:
    text = """FROM busybox
COPY d /new
COPY d /tmp
COPY f /f
RUN stat -c '%n %Y' /new /new/in /new/in/g /tmp /f > /out
"""
    old = {"mtime_s": OLD_S}
    make(root, {
        "Dockerfile": text, "f": file("x", **old), "d": folder(0o700, **old), "d/in": folder(**old),
        "d/in/g": file("", **old),
    }, builder.uid)  # fmt: skip
    seen = result_tree(builder, root).seen("out")
    assert seen is not None
    assert seen.text is not None
    assert {line.split()[1] for line in seen.text.splitlines()} == {str(OLD_S)}


def test_1_attributes_of_files_and_directories(builder: Builder, root: Path) -> None:
    note = {"xattrs": {"user.note": b"hello"}}
    make(
        root,
        {"Dockerfile": "FROM scratch\nCOPY d /d\n", "d/in": folder(**note), "d/f": file("x", **note)},
        builder.uid,
    )
    tree = result_tree(builder, root)
    for path in ("d/in", "d/f"):
        assert tree.members[path].pax_headers["SCHILY.xattr.user.note"] == "hello"


def test_a_zstandard_archive_is_unpacked(builder: Builder, root: Path) -> None:
    data = zstandard.ZstdCompressor().compress(tar_bytes(ARCHIVE))
    make(root, {"Dockerfile": "FROM scratch\nADD a /\n", "a": file(data)}, builder.uid)
    result_tree(builder, root).check({"top": Seen("file", "inside", 0o640, (12, 34))})


def test_add_of_a_url(builder: Builder, root: Path, server: FileSite) -> None:
    """Mode 0600, the server's time; archives stay whole unless told; checksums right and wrong."""
    server.files = {"/name.txt": b"remote", "/a.tar": tar_bytes(ARCHIVE)}
    digest = hashlib.sha256(b"remote").hexdigest()
    text = f"""FROM busybox
ADD {server.url}/name.txt /d/
ADD --checksum=sha256:{digest} --chmod=644 --chown=5:6 {server.url}/name.txt /renamed
ADD {server.url}/a.tar /whole/
ADD --unpack=true {server.url}/a.tar /open/
RUN stat -c %Y /d/name.txt > /mtime
"""
    make(root, {"Dockerfile": text}, builder.uid)
    result_tree(builder, root).check({
        "d/name.txt": Seen("file", "remote", 0o600, (0, 0)), "renamed": Seen("file", "remote", 0o644, (5, 6)),
        "whole/a.tar": Seen("file"), "open/top": Seen("file", "inside", 0o640, (12, 34)),
        "mtime": Seen("file", f"{OLD_S}\n"),
    })  # fmt: skip
    wrong = text.replace(digest, "0" * 64)
    (root / "Dockerfile").write_text(wrong)
    assert "error[checksum-mismatch]" in builder.run("build", str(root), status=1).err
    (root / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/none /x\n")
    assert "error[" in builder.run("build", str(root), status=5).err


CONFIG = [
    ("ENTRYPOINT clears an inherited CMD, not its own stage's",
     'FROM scratch AS a\nCMD ["old"]\nFROM a\nENTRYPOINT ["e"]\n', {"Entrypoint": ["e"], "Cmd": None}),
    ("ENTRYPOINT keeps a CMD of the same stage",
     'FROM scratch\nCMD ["own"]\nENTRYPOINT ["e"]\n', {"Entrypoint": ["e"], "Cmd": ["own"]}),
    ("shell forms use SHELL", 'FROM scratch\nSHELL ["/bin/ash", "-c"]\nCMD a b\n',
     {"Cmd": ["/bin/ash", "-c", "a b"], "Shell": ["/bin/ash", "-c"]}),
    ("HEALTHCHECK", "FROM scratch\nHEALTHCHECK --interval=1m30s --timeout=5s --retries=3 CMD check it\n",
     {"Healthcheck": {"Test": ["CMD-SHELL", "check it"], "Interval": 90 * 10**9, "Timeout": 5 * 10**9, "Retries": 3}}),
    ("HEALTHCHECK NONE", "FROM scratch\nHEALTHCHECK NONE\n", {"Healthcheck": {"Test": ["NONE"]}}),
    ("EXPOSE of ranges and protocols", "FROM scratch\nEXPOSE 80 8000-8002/udp 53/sctp\n",
     {"ExposedPorts": {name: {} for name in ("80/tcp", "8000/udp", "8001/udp", "8002/udp", "53/sctp")}}),
    ("STOPSIGNAL, VOLUME, USER, LABEL", 'FROM scratch\nSTOPSIGNAL SIGINT\nVOLUME /a /b\nUSER me:us\nLABEL a=1 b="2 3"\n',
     {"StopSignal": "SIGINT", "Volumes": {"/a": {}, "/b": {}}, "User": "me:us", "Labels": {"a": "1", "b": "2 3"}}),
    ("ONBUILD is kept in the config", "FROM scratch\nONBUILD RUN make\n", {"OnBuild": ["RUN make"]}),
    ("PATH is there when the base has none", "FROM scratch\nENV A=b\n",
     {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"]}),
    ("WORKDIR is cleaned and joined", "FROM scratch\nWORKDIR /a/../b\nWORKDIR c/\n", {"WorkingDir": "/b/c"}),
    ("HOME is not stored", "FROM scratch\nUSER 1234\n", {"User": "1234"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in CONFIG], ids=[case[0] for case in CONFIG]
)
def test_config(text: str, expected: dict[str, Any], builder: Builder, root: Path) -> None:
    make(root, {"Dockerfile": text}, builder.uid)
    builder.run("build", "-t", "config:1", str(root))
    config = msgspec.json.decode(builder.run("inspect", "config:1").out)["config"]["config"]
    assert {key: config.get(key) for key in expected} == expected
    assert not any(item.startswith("HOME=") for item in config.get("Env") or ())


def test_an_empty_layer_is_no_layer_in_history_and_workdir_is_one(builder: Builder, root: Path) -> None:
    make(
        root, {"Dockerfile": "FROM scratch\nENV A=b\nWORKDIR /\nWORKDIR /w\nWORKDIR /w\nCOPY f /f\n", "f": ""}
    )
    builder.run("build", "-t", "history:1", str(root))
    config = msgspec.json.decode(builder.run("inspect", "history:1").out)["config"]
    layers = [item["created_by"].split()[0] for item in config["history"] if not item.get("empty_layer")]
    assert layers == ["WORKDIR", "WORKDIR", "COPY"]
    assert len(config["rootfs"]["diff_ids"]) == 3


KEYED = """FROM busybox
COPY d /d
ENV A=1 B=2
ARG unused
RUN echo run > /out
"""


@pytest.fixture
def keyed(builder: Builder, root: Path) -> Path:
    """A context that was built once."""
    nodes = {"Dockerfile": KEYED, "d/f": file("x"), "d/g": file("g"), "d/l": link("f"), "d/s/x": "x"}
    make(root, nodes, builder.uid)
    builder.build(root)
    return root


def changed(builder: Builder, root: Path, *args: str) -> set[str]:
    """Which of COPY and RUN were run by one more build."""
    return {name.partition("] ")[2].split()[0] for name in builder.build(root, *args).ran} & {"COPY", "RUN"}


HITS = {
    "touch": "touch -d 2005-05-05 d/f d/s d",
    "chown": "chown 12:34 d/f d/s",
    "hard link to copy": "ln d/f hard",
    "an unrelated file": "echo y > other",
    "label": "sed -i '1a LABEL a=b' Dockerfile",
}
MISSES = {
    "content": "echo y > d/f",
    "mode": "chmod 600 d/f",
    "mode of a directory": "chmod 700 d/s",
    "new empty directory": "mkdir d/new",
    "retargeted link": "ln -sfn g d/l",
    "rename": "mv d/f d/z",
    "attribute": "setfattr -n user.note -v 1 d/f",
    "deletion": "rm d/g",
}


@pytest.mark.parametrize("change", HITS.values(), ids=HITS.keys())
def test_cache_hits(change: str, builder: Builder, keyed: Path) -> None:
    subprocess.run(["sh", "-ec", change], cwd=keyed, check=True)
    assert changed(builder, keyed) == set()


@pytest.mark.parametrize("change", MISSES.values(), ids=MISSES.keys())
def test_cache_misses(change: str, builder: Builder, keyed: Path) -> None:
    subprocess.run(["sh", "-ec", change], cwd=keyed, check=True)
    assert "COPY" in changed(builder, keyed)
    assert changed(builder, keyed) == set()


def test_what_enters_the_key_of_a_step(builder: Builder, keyed: Path) -> None:
    assert changed(builder, keyed, "--build-arg", "unused=1") == {"RUN"}
    assert changed(builder, keyed, "--build-arg", "http_proxy=http://nowhere") == set()
    (keyed / "Dockerfile").write_text(KEYED.replace("A=1 B=2", "B=2 A=1"))
    assert changed(builder, keyed) == {"RUN"}
    (keyed / "Dockerfile").write_text(KEYED.replace("RUN", "USER 0\nRUN"))
    assert changed(builder, keyed) == {"RUN"}
