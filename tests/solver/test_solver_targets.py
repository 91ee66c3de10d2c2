"""Several targets in one build, failures that do not stop the rest, and weights of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from building import Builder, Context

DOCKERFILE = """\
FROM busybox AS base
RUN echo base > /base
FROM base AS a
RUN echo a > /a
FROM base AS b
RUN echo b > /b
FROM base AS never
RUN exit 9
FROM base AS broken
RUN echo one; exit 3
FROM base AS broken-too
RUN exit 4
FROM a AS top
COPY --from=broken /base /x
COPY --from=b /b /y
COPY --from=broken-too /base /z
"""


@pytest.fixture
def root(context: Context) -> Path:
    return context({"Dockerfile": DOCKERFILE})


def test_several_targets_are_one_graph(builder: Builder, root: Path, scratch: Path) -> None:
    metadata, out = builder.home / "all.json", builder.home / "out"
    done = builder.run(
        "build", "--progress", "quiet", "--target", "a", "--target", "b", "-t", "a=app:a", "-t", "b=app:b",
        "-o", "type=image", "-o", f"type=local,dest={out},target=a", "--metadata-file", str(metadata), str(root),
    )  # fmt: skip
    told = json.loads(metadata.read_text())
    assert list(told) == ["a", "b"]
    assert told["a"]["arkwright.steps"] == {"run": 3, "cached": 0}
    digests = [told[name]["containerimage.digest"] for name in told]
    assert done.out.split() == digests
    assert digests == [builder.build(root, "--target", name).digest for name in told]
    assert [told[name]["image.name"] for name in told] == [
        "docker.io/library/app:a",
        "docker.io/library/app:b",
    ]
    assert (out / "a").read_text() == "a\n"
    assert not (out / "b").exists()
    assert "app" in builder.run("images").out


def test_a_failing_target_fails_the_build(builder: Builder, root: Path) -> None:
    done = builder.run(
        "build", "--progress", "plain", "--target", "a", "--target", "broken", str(root), status=1
    )
    assert "error[step-failed]" in done.err
    assert "exit 3" in done.err


def test_keep_going_reports_every_failure(builder: Builder, root: Path) -> None:
    done = builder.run("build", "--progress", "plain", "-k", "--target", "top", str(root), status=1)
    shown = done.err[done.err.index("error[step-failed]") :]
    assert shown.count("error[step-failed]") == 2
    assert {"exit 3", "exit 4"} <= {
        line.strip().removeprefix("status:").strip() for line in shown.splitlines()
    }
    assert "2 steps failed; 3 that need what failed did not run" in shown
    assert "RUN exit 9" not in done.err
    # What did not fail is in the cache.
    for name in ("a", "b"):
        assert builder.build(root, "--target", name).ran == []


def test_without_it_one_failure_is_the_first_cause(builder: Builder, root: Path) -> None:
    done = builder.run("build", "--progress", "none", "--jobs", "1", "--target", "top", str(root), status=1)
    assert done.err.count("error[step-failed]") == 1


def test_weights_keep_steps_apart(builder: Builder, context: Context) -> None:
    """Each step finds the other's mark in the shared directory if both run at once."""
    step = (
        "RUN --mount=type=cache,id=w,target=/w"
        " test ! -e /w/busy && touch /w/busy && sleep 0.3 && rm /w/busy && echo {0} > /{0}"
    )
    text = "\n".join(f"FROM busybox AS s{number}\n{step.format(number)}" for number in range(2))
    root = context({"Dockerfile": f"{text}\nFROM busybox\nCOPY --from=s0 /0 /\nCOPY --from=s1 /1 /\n"})
    more = ["--jobs", "4", "--step-weight", "s0=4", "--step-weight", "S1=1:1k"]
    assert len(builder.build(root, *more).ran) == 4
    memory = ["--jobs", "4", "--jobs-memory", "1g", "--step-weight", "0.5:600m", "--no-cache"]
    assert len(builder.build(root, *memory).ran) == 4
