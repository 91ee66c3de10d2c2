"""Modes of --chmod, compared with chmod(1) itself."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.ops.modes import parse_mode

WHO = st.text("ugoa", max_size=3)
WHAT = st.text("rwxXst", max_size=4) | st.sampled_from(["u", "g", "o"])
CLAUSE = st.tuples(WHO, st.sampled_from("+-="), WHAT).map("".join)


def changed(text: str, mode: int, *, is_dir: bool = False) -> int:
    change = parse_mode(text)
    assert change is not None
    return change(mode, is_dir)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [("755", 0o600, 0o755), ("0644", 0o7777, 0o644), ("u+x", 0o644, 0o744), ("go=", 0o777, 0o700),
     ("a+X", 0o644, 0o644), ("a+X", 0o744, 0o755), ("u=rw,go=r", 0o777, 0o644), ("g=u", 0o740, 0o770),
     ("+t", 0o755, 0o1755), ("u+s", 0o755, 0o4755), ("=r", 0o777, 0o444)],
)  # fmt: skip
def test_files(text: str, before: int, after: int) -> None:
    assert changed(text, before) == after


def test_a_directory_gets_x_from_capital_x_and_keeps_its_set_id_bits() -> None:
    assert changed("a+X", 0o644, is_dir=True) == 0o755
    assert changed("g=rx", 0o2777, is_dir=True) == 0o2757


def test_empty_means_unchanged() -> None:
    assert parse_mode("") is None


@pytest.mark.parametrize("text", ["8", "77777", "u+q", "rw", "u", "u+x,,g+x", "755x"])
def test_wrong_modes(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_mode(text)
    assert caught.value.code == "invalid-mode"


@settings(max_examples=60, deadline=None)
@given(clauses=st.lists(CLAUSE, min_size=1, max_size=3), mode=st.integers(0, 0o7777), is_dir=st.booleans())
def test_agrees_with_chmod(
    clauses: list[str], mode: int, is_dir: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = ",".join(clauses)
    path = str(tmp_path_factory.mktemp("mode") / "f")
    if is_dir:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.chmod(path, mode)
    done = subprocess.run(
        ["sh", "-c", 'umask 0; exec chmod -- "$0" "$1"', text, path], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert oct(changed(text, mode, is_dir=is_dir)) == oct(os.stat(path).st_mode & 0o7777)
