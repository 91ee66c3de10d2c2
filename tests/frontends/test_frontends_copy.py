"""COPY, ADD and WORKDIR: file ops, their sources and destinations."""

from __future__ import annotations

import pytest
from frontend_data import image_config

from arkwright.frontends.dockerfile.draft import clean, literal_prefix, minimal
from arkwright.frontends.dockerfile.gitref import is_git, is_url, parse_git_ref
from arkwright.graph.ops import CopyAction, FileOp, MergeOp, MkDirAction, MkFileAction, Owner


def copies(built):
    return [a for op in built.ops(FileOp) for a in op.actions if isinstance(a, CopyAction)]


def test_several_sources_are_one_op_in_order(compile_file):
    built = compile_file("FROM debian\nCOPY a b/ ./c*/d /x/\n")
    op = built.op(FileOp)
    assert [a.src for a in op.actions] == ["/a", "/b", "/c*/d"]
    assert [(a.input, a.secondary_input, a.output) for a in op.actions] == [(0, 1, -1), (2, 1, -1), (3, 1, 0)]
    assert {a.dest for a in op.actions} == {"/x/"}
    first = op.actions[0]
    assert first.follow_symlink and first.dir_copy_contents and first.create_dest_path
    assert first.allow_wildcard and first.allow_empty_wildcard and not first.attempt_unpack


def test_onto_scratch(compile_file):
    (action,) = compile_file("FROM scratch\nCOPY a /\n").op(FileOp).actions
    assert (action.input, action.secondary_input, action.output) == (-1, 0, 0)


@pytest.mark.parametrize(
    ("workdir", "written", "dest"),
    [
        ("/", "x", "/x"), ("/", "x/", "/x/"), ("/w", "x", "/w/x"), ("/w", ".", "/w/"), ("/w", "./", "/w/"),
        ("/w", "./x", "/w/x"), ("/w", "..", "/"), ("/w/v", "../x", "/w/x"), ("/w", "/", "/"), ("/w", "/a//b", "/a/b"),
        ("/w", "/a/.", "/a/"), ("/w", "../../../x", "/x"), ("/w", "$E", "/w/"),
    ],
)  # fmt: skip
def test_destinations(compile_file, workdir, written, dest):
    text = f"FROM debian\nARG E=\nWORKDIR {workdir}\nCOPY a {written}\n"
    assert copies(compile_file(text))[0].dest == dest


@pytest.mark.parametrize(
    ("written", "src"),
    [
        ("../../x", "/x"),
        ("/x", "/x"),
        (".", "/"),
        ("a/../b", "/b"),
        ("a\\[b", "/a[b"),
        ("**/x", "/**/x"),
        ("//x", "/x"),
    ],
)
def test_sources_stay_in_the_context(compile_file, written, src):
    assert copies(compile_file(f"FROM debian\nCOPY {written} /d\n"))[0].src == src


@pytest.mark.parametrize(
    ("chown", "owner"),
    [
        ("1:2", Owner("1", "2")),
        ("7", Owner("7")),
        ("www:staff", Owner("www", "staff")),
        (":g", Owner("0", "g")),
        ("$U", Owner("x")),
    ],
)
def test_chown(compile_file, chown, owner):
    built = compile_file(f"FROM debian\nARG U=x\nUSER other\nCOPY --chown={chown} a b\n")
    assert copies(built)[0].owner == owner
    assert built.history()[-1][0].startswith("COPY --chown=")


def test_user_does_not_own_copies(compile_file):
    assert copies(compile_file("FROM debian\nUSER 1000\nCOPY a b\n"))[0].owner is None


@pytest.mark.parametrize(
    ("chmod", "mode"),
    [
        ("755", "0755"),
        ("0644", "0644"),
        ("4755", "4755"),
        ("u=rwX,go=rX", "u=rwX,go=rX"),
        ("+x", "+x"),
        ("$M", "0600"),
    ],
)
def test_chmod(compile_file, chmod, mode):
    assert copies(compile_file(f"FROM debian\nARG M=600\nCOPY --chmod={chmod} a b\n"))[0].mode == mode


@pytest.mark.parametrize(
    ("line", "code", "place"),
    [
        ("COPY --chmod=888 a b", "invalid-chmod", "888"),
        ("COPY --chmod=17777 a b", "invalid-chmod", "17777"),
        ("COPY --chmod=z+x a b", "invalid-chmod", "z+x"),
        ("COPY --chown=a:b:c a b", "invalid-chown", "a:b:c"),
        ("COPY https://h/f /", "invalid-source", "https://h/f"),
        ("COPY git@h:r.git /", "invalid-source", "git@h:r.git"),
        ("ADD --checksum=sha256:1 https://h/f /", "invalid-checksum", "sha256:1"),
        ("ADD --checksum=sha256:1 local /", "invalid-checksum", "sha256:1"),
        ("ADD --checksum=sha256:1 https://h/f https://h/g /", "invalid-checksum", "sha256:1"),
        ("ADD https://h/r.git?x=1 /", "invalid-source", "https://h/r.git?x=1"),
        (
            "ADD --keep-git-dir=false https://h/r.git?keep-git-dir=1 /",
            "invalid-source",
            "https://h/r.git?keep-git-dir=1",
        ),
        ("ADD --checksum=ab https://h/r.git?checksum=cd /", "invalid-source", "https://h/r.git?checksum=cd"),
        ("COPY 'a b' /", "invalid-expansion", "'a"),
    ],
)
def test_what_is_refused(fails, line, code, place):
    assert fails(code, f"FROM debian\n{line}\n").labels[0].span.text == place


def test_exclude_and_parents(compile_file):
    built = compile_file("FROM debian\nCOPY --exclude=*.o --exclude=$X --parents src/./lib/../a/*.c b /x\n")
    first, second = copies(built)
    assert first.exclude_patterns == ("*.o",)
    assert (first.src, first.parents, second.src) == ("/src/./a/*.c", True, "/b")
    assert built.paths() == ["b", "src/a"]
    assert built.history()[-1] == ("COPY --parents src/./lib/../a/*.c b /x", False)


def test_link_is_a_layer_of_its_own(compile_file):
    built = compile_file("FROM debian\nCOPY --link a /b/\n")
    assert isinstance(built.target(), MergeOp)
    (action,) = built.op(FileOp).actions
    assert (action.input, action.secondary_input) == (-1, 0)
    assert built.names()[-1] == "[2/2] LINK COPY --link a /b/"
    assert built.ops(MergeOp) and compile_file("FROM scratch\nCOPY --link a b\n").ops(MergeOp) == []


def test_link_does_not_go_with_chmod(compile_file):
    assert compile_file("FROM debian\nCOPY --link --chmod=755 a b\n").ops(MergeOp) == []
    assert compile_file("FROM debian\nCOPY --link=false a b\n").ops(MergeOp) == []


def test_link_does_not_depend_on_its_base(compile_file):
    one = compile_file("FROM debian\nRUN x\nCOPY --link a /b\n")
    two = compile_file("FROM debian\nRUN y\nCOPY --link a /b\n")
    assert one.ops(FileOp) == two.ops(FileOp)
    assert one.definition.target != two.definition.target


def test_from_an_image_and_from_scratch(compile_file):
    built = compile_file("FROM debian\nCOPY --from=busybox /bin/sh /sh\nCOPY --from=scratch / /x\n")
    assert built.source("docker-image://docker.io/library/busybox")
    assert copies(built)[1].secondary_input == -1
    assert not [name for name in built.names() if "context" in name]


def test_heredocs(compile_file):
    text = "FROM debian\nARG V=1\nCOPY <<A <<-'B' f /x/\n$V \"it's\" \\$V a\\b\nA\n\t$V\nB\n"
    built = compile_file(text)
    made = [a for op in built.ops(FileOp) for a in op.actions if isinstance(a, MkFileAction)]
    assert [(a.path, a.data, a.mode) for a in made] == [
        ("/A", b"1 \"it's\" $V ab\n", 0o644), ("/B", b"$V\n", 0o644),
    ]  # fmt: skip
    assert [a.src for a in copies(built)] == ["/f", "/A", "/B"]
    assert built.history()[-1] == ("COPY f <<A <<B /x/", False)


def test_two_heredocs_of_one_name_are_two_files(compile_file):
    built = compile_file("FROM debian\nCOPY <<A <<A /x/\none\nA\ntwo\nA\n")
    made = [a.data for op in built.ops(FileOp) for a in op.actions if isinstance(a, MkFileAction)]
    assert made == [b"one\n", b"two\n"]


def test_add_unpacks_local_archives_only(compile_file):
    digest = "sha256:" + "a" * 64
    built = compile_file(
        f"FROM debian\nADD a.tar /x\nADD --unpack=false a.tar /y\nADD --checksum={digest} https://h/d/f.tgz?q /z\nADD --unpack https://h/ /q\n"
    )
    assert [a.attempt_unpack for a in copies(built)] == [True, False, False, True]
    assert copies(built)[2].src == "/f.tgz"
    assert dict(built.source("https://h/d").attrs) == {"checksum": digest, "filename": "f.tgz"}
    assert copies(built)[3].src == "/__unnamed__"


def test_add_from_git(compile_file):
    built = compile_file("FROM debian\nADD --keep-git-dir https://h/r.git?submodules=false#v1:sub /src\n")
    assert built.source("git://").identifier == "git://https://h/r.git"
    assert dict(built.source("git://").attrs) == {
        "keep-git-dir": "true", "ref": "v1", "subdir": "sub", "submodules": "false",
    }  # fmt: skip
    (action,) = copies(built)
    assert (action.src, action.dest, action.dir_copy_contents) == ("/", "/src", True)


def test_git_references():
    assert parse_git_ref("git@h:a/b.git?branch=x").ref == "refs/heads/x"
    assert parse_git_ref("https://h/r.git?tag=v1").ref == "refs/tags/v1"
    assert parse_git_ref("https://h/r.git?commit=abc") == parse_git_ref("https://h/r.git?checksum=abc#abc")
    assert parse_git_ref("ssh://git@h/r?subdir=x&keep-git-dir").keep_git_dir is True
    for wrong in (
        "https://h/r.git?tag=a&branch=b",
        "https://h/r.git?ref=a#b",
        "https://h/r.git?ref=",
        "https://h/r.git?submodules=x",
    ):
        with pytest.raises(ValueError):
            parse_git_ref(wrong)
    assert [is_git(text) for text in ("https://h/r", "github.com/a/b", "git://h/r", "./git@h:x", "a/b")] == [
        False, False, True, False, False,
    ]  # fmt: skip
    assert is_url("http://h/f") and not is_url("ftp://h/f")


def test_workdir(compile_file):
    built = compile_file("FROM debian\nWORKDIR /a\nWORKDIR b/../c\nWORKDIR /\nWORKDIR $X\n")
    actions = [op.actions[0] for op in built.ops(FileOp)]
    assert [(a.path, a.mode, a.make_parents, a.owner) for a in actions] == [
        ("/a", 0o755, True, None), ("/a/c", 0o755, True, None),
    ]  # fmt: skip
    assert built.history() == [
        ("WORKDIR /a", False),
        ("WORKDIR /a/c", False),
        ("WORKDIR /", True),
        ("WORKDIR /", True),
    ]
    assert built.config.config.working_dir == "/"


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("app", Owner("app")),
        ("1:2", Owner("1", "2")),
        ("root", None),
        ("0:0", None),
        ("0:5", Owner("0", "5")),
    ],
)
def test_workdir_belongs_to_the_user(compile_file, user, owner):
    built = compile_file("FROM base\nWORKDIR /w\n", images={"base": image_config(user=user)})
    (action,) = built.op(FileOp).actions
    assert isinstance(action, MkDirAction)
    assert action.owner == owner


def test_workdir_of_the_base_counts_and_is_not_made(compile_file):
    built = compile_file("FROM base\nCOPY a b\n", images={"base": image_config(working_dir="/srv")})
    assert copies(built)[0].dest == "/srv/b"
    assert len(built.ops(FileOp)) == 1


def test_paths():
    assert [clean(path) for path in ("", "/", "a//b", "../..", "/a/./b/")] == ["/", "/", "/a/b", "/", "/a/b"]
    assert [literal_prefix(path) for path in ("/a/b*/c", "a/\\*", "*", "a/b")] == ["a", "a", "", "a/b"]
    assert minimal({"a/b", "a", "a-b", "c/d"}) == ["a", "a-b", "c/d"]
    assert minimal(set()) == []
