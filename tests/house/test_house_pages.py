"""Every error code has its page, and every page its code."""

from __future__ import annotations

import re

import pytest
from house_codes import REPOSITORY, error_codes

PAGES = REPOSITORY / "docs" / "reference" / "errors"
CODES = error_codes()


def test_codes_are_found() -> None:
    known = {
        "unknown-stage",  # UserError.of
        "duplicate-flag",  # by a function that takes the code first
        "host-notice",  # Diagnostic(code=…)
        "dockerfile-syntax",  # the default of a parameter
        "symlink-loop",  # out of a table
        "registry-rate-limited",  # returned in a tuple
        "git-auth-failed",  # one side of a condition
        "unwritable-context",  # assigned together with a message
    }
    assert known <= set(CODES)


def test_codes_are_kebab_case() -> None:
    assert [code for code in CODES if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)] == []


def test_every_code_has_a_page() -> None:
    missing = {code: places for code, places in CODES.items() if not (PAGES / f"{code}.md").is_file()}
    assert missing == {}


def test_every_page_has_a_code() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages - set(CODES) == set()


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"^\| \[([a-z0-9-]+)\]\(\1\.md\) \|", (PAGES / "README.md").read_text(), re.M)
    assert listed == sorted(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_page_says_what_it_must(code: str) -> None:
    path = PAGES / f"{code}.md"
    if not path.is_file():
        pytest.fail(f"no page for {code}: {CODES[code]}")
    text = path.read_text()
    assert text.startswith(f"# {code}\n")
    assert re.search(rf"^(error|warning)\[{code}\]: \S", text, re.M)
    assert re.search(r"^## What to do\n\n\S", text, re.M)
