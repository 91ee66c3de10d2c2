"""Files of every nasty shape take time in proportion to their length: parser, checks, conversion.

What stays out: steps and stages that each repeat a growing environment. A RUN carries every variable
that is set before it, in its own record and in the image's history, so there the output is quadratic.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from types import FrameType

import pytest
from frontend_data import AMD64, DataBridge, image_config

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.build import build

F = "FROM scratch\n"
SHAPES: dict[str, Callable[[int], str]] = {
    "continuation": lambda n: "FROM busybox\nRUN echo" + " \\\n  word" * n,
    "cont_comments": lambda n: "FROM busybox\nRUN echo" + " \\\n# note\n  word" * n,
    "cont_empty": lambda n: "FROM busybox\nRUN echo \\\n" + "\n" * n + " x",
    "heredocs": lambda n: "FROM busybox\n" + "".join(f"RUN <<E{i}\necho {i}\nE{i}\n" for i in range(n)),
    "heredocs_one": lambda n: (
        "FROM busybox\nRUN cat "
        + " ".join(f"<<E{i}" for i in range(n))
        + "\n"
        + "".join(f"x\nE{i}\n" for i in range(n))
    ),
    "copy_heredocs": lambda n: (
        F
        + "COPY "
        + " ".join(f"<<E{i}" for i in range(n))
        + " /d/\n"
        + "".join(f"x\nE{i}\n" for i in range(n))
    ),
    "heredoc_long": lambda n: "FROM busybox\nRUN <<E\n" + "echo\n" * n + "E\n",
    "unterminated": lambda n: "FROM busybox\n" + "RUN <<E\n" * n,
    "env": lambda n: (
        F + "".join(f"ENV A{i}=${{A{i - 1}:-x}}{i % 7}\n" if i % 50 else f"ENV A{i}=x\n" for i in range(n))
    ),
    "env_same": lambda n: F + "ENV A=1\n" + "ENV A=2$B\n" * n,
    "env_one": lambda n: F + "ENV " + " ".join(f"A{i}=b" for i in range(n)),
    "env_grow": lambda n: F + "ENV " + "A=$A " * n,
    "env_undefined": lambda n: F + "".join(f"ENV A{i}=$UNDEF{i}\n" for i in range(n)),
    "arg": lambda n: F + "".join(f"ARG A{i}=${{A{i - 1}:-v}}\n" for i in range(n)),
    "global_arg": lambda n: "".join(f"ARG A{i}=$A{i - 1}\n" for i in range(n)) + F,
    "label": lambda n: F + "".join(f"LABEL a{i}=b\n" for i in range(n)),
    "label_one": lambda n: F + "LABEL " + " ".join(f"A{i}=b" for i in range(n)),
    "expose": lambda n: F + "".join(f"EXPOSE {i % 60000 + 1}\n" for i in range(n)),
    "expose_range": lambda n: F + "EXPOSE " + " ".join(f"{i % 60000 + 1}/udp" for i in range(n)),
    "volume": lambda n: F + "".join(f"VOLUME /v{i}\n" for i in range(n)),
    "onbuild": lambda n: F + "".join(f"ONBUILD RUN x{i}\n" for i in range(n)),
    "onbuild_stage": lambda n: (
        "FROM busybox AS a\n" + "".join(f"ONBUILD COPY x{i} /\n" for i in range(n)) + "FROM a\n"
    ),
    "nested": lambda n: F + "ENV A=" + "${A:-" * n + "}" * n,
    "nested60": lambda n: F + "".join("ENV A=" + "${A:-" * 30 + "}" * 30 + "\n" for i in range(n // 30)),
    "vars": lambda n: F + "ENV A=1\nENV B=" + "$A" * n,
    "vars_unset": lambda n: F + "ENV B=" + "".join(f"$U{i}." for i in range(n)),
    "replace": lambda n: F + "ENV A=" + "ab" * n + "\nENV B=${A//a*b/x}\nENV C=${A%%*a}${A##*c}${A//b?/zz}\n",
    "quotes": lambda n: F + "ENV A=" + "'a'\"b\"" * n,
    "badquote": lambda n: F + "ENV A=" + '"\\$' * n,
    "stages": lambda n: "".join(f"FROM scratch AS s{i}\n" for i in range(n)),
    "stage_chain": lambda n: "FROM scratch AS s0\n" + "".join(f"FROM s{i} AS s{i + 1}\n" for i in range(n)),
    "stage_copy": lambda n: (
        "FROM scratch AS s0\nCOPY a /\n"
        + "".join(f"FROM scratch AS s{i + 1}\nCOPY --from=s{i} /a /\n" for i in range(n))
    ),
    "stage_from_all": lambda n: (
        "".join(f"FROM scratch AS s{i}\nCOPY a{i} /\n" for i in range(n))
        + F
        + "".join(f"COPY --from=s{i} /a /\n" for i in range(n))
    ),
    "flags": lambda n: F + "COPY " + "".join(f"--exclude=a{i} " for i in range(n)) + "a /b\n",
    "mounts": lambda n: (
        "FROM busybox\nRUN " + "".join(f"--mount=type=tmpfs,target=/t{i} " for i in range(n)) + "x\n"
    ),
    "mounts_from": lambda n: (
        "".join(f"FROM scratch AS s{i}\nCOPY a{i} /\n" for i in range(n))
        + "FROM busybox\nRUN "
        + "".join(f"--mount=from=s{i},target=/t{i} " for i in range(n))
        + "x\n"
    ),
    "badflags": lambda n: F + "COPY " + "--bogus=1 " * n + "a /b\n",
    "comments": lambda n: "# a comment line\n" * n + F + "# more\n" * n,
    "blank": lambda n: F + "\n" * n + "ENV a=b",
    "json": lambda n: F + "CMD [" + ",".join('"word"' for i in range(n)) + "]\n",
    "badjson": lambda n: F + "CMD [" + ",".join('"word' for i in range(n)) + "\n",
    "jsonbrackets": lambda n: F + "CMD " + "[" * n + "\n",
    "copy_sources": lambda n: F + "COPY " + " ".join(f"s{i}" for i in range(n)) + " /d/\n",
    "copies": lambda n: F + "".join(f"COPY s{i} /d{i}\n" for i in range(n)),
    "runs": lambda n: "FROM busybox\n" + "".join(f"RUN echo {i}\n" for i in range(n)),
    "workdir_abs": lambda n: F + "".join(f"WORKDIR /a{i}\n" for i in range(n)),
    "unknown": lambda n: F + "".join(f"FOOO{i} x\n" for i in range(n)),
    "users": lambda n: F + "USER a\nSTOPSIGNAL 9\nCMD x\nENTRYPOINT y\n" * n,
    "long_line": lambda n: F + "LABEL a=" + "x" * n * 5,
    "backslashes": lambda n: F + "RUN " + "\\" * n + "\n",
    "spaces": lambda n: F + "ENV a=" + " " * n + "b\n",
    "spaces_cont": lambda n: F + "ENV a=b" + " " * n + "\\\n c=d\n",
    "healthcheck": lambda n: F + "HEALTHCHECK " + "--interval=1s " * n + "CMD x\n",
    "secret": lambda n: F + "".join(f"ENV PASSWORD{i}=x\n" for i in range(n)),
    "directives": lambda n: "# syntax=a\n" + "# check=skip=all\n" * n + F,
    "add_url": lambda n: F + "".join(f"ADD http://a.test/{i} /\n" for i in range(n)),
    "add_git": lambda n: F + "".join(f"ADD https://a.test/{i}.git /g{i}\n" for i in range(n)),
    "crlf": lambda n: F + "ENV a=b\r\n" * n,
    "chown": lambda n: F + "".join(f"COPY --chown=1:2 --chmod=755 a{i} /b\n" for i in range(n)),
}


def compile_text(text: str) -> str:
    """The code of the refusal, or nothing."""
    bridge = DataBridge({"Dockerfile": text.encode()}, {"busybox": image_config()}, {}, None)
    try:
        build(bridge, FrontendRequest(build_platform=AMD64))
    except UserError as error:
        return error.code
    return ""


def calls(text: str) -> int:
    """How many calls, of Python and of C functions, a compilation makes."""
    count = 0

    def tick(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tick)
    try:
        compile_text(text)
    finally:
        sys.setprofile(None)
    return count


def seconds(text: str) -> float:
    gc.collect()
    start = time.process_time()
    compile_text(text)
    return time.process_time() - start


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_grow_with_the_length(shape: str) -> None:
    make = SHAPES[shape]
    calls(make(10))
    small, double, large = (calls(make(size)) for size in (250, 500, 1000))
    # Per unit of length the second half may cost what the first half did, and some.
    assert large - double <= 2.3 * (double - small) + 2000, (small, double, large)


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
def test_a_megabyte_takes_time_in_proportion(shape: str) -> None:
    """What happens inside single calls, such as copies of tables, shows in the time alone."""
    if not os.environ.get("ARKWRIGHT_SOAK"):
        pytest.skip("soak: calls are counted instead")
    unit = len(SHAPES[shape](1000)) / 1000
    ratio_of(shape, int((1 << 20) / unit / 6), 6)


def ratio_of(shape: str, size: int, factor: int) -> None:
    small, large = SHAPES[shape](size), SHAPES[shape](size * factor)
    ratios = []
    # Other processes disturb a measure: one good one of a few is enough. 0.05 s are noise.
    for _ in range(4):
        ratios.append((seconds(large) - 0.05) / max(seconds(small), 0.003))
        if ratios[-1] < factor * 2:
            return
    raise AssertionError(ratios)
