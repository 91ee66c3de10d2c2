"""The nearest name."""

from __future__ import annotations

import pytest

from arkwright.diagnostics.suggest import nearest


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("bulder", ["base", "builder", "final"], "builder"),
        ("RUUN", ["RUN", "USER"], "RUN"),
        ("copy", ["ADD", "COPY"], "COPY"),
        ("form", ["FROM", "FORMAT"], "FROM"),
        ("entrypiont", ["EXPOSE", "ENTRYPOINT"], "ENTRYPOINT"),
        ("xyz", ["builder", "base"], None),
        ("a", ["b"], None),
        ("ab", ["b"], "b"),
        ("", ["", "x"], ""),
        ("stage1", ["stage2", "stage3"], "stage2"),
        ("anything", [], None),
        ("package.jsn", ["package.json", "package-lock.json"], "package.json"),
    ],
)
def test_nearest(word: str, candidates: list[str], expected: str | None) -> None:
    assert nearest(word, candidates) == expected


def test_the_closest_wins_over_the_first() -> None:
    assert nearest("builder", ["bulders", "build3r", "builder"]) == "builder"
