"""Coverage-guided fuzzing with atheris: `python fuzz_targets.py TARGET CORPUS… [libFuzzer options]`.

A target fails by any exception but an `ArkwrightError`, by a time limit, or by memory. Run by
`test_fuzz_targets.py` for seconds, and for minutes by `./dev soak`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["arkwright.frontends", "arkwright.sources", "arkwright.oci"]):
    from arkwright.diagnostics.errors import ArkwrightError, UserError
    from arkwright.frontends.base import FrontendRequest
    from arkwright.frontends.dockerfile.build import build
    from arkwright.frontends.dockerfile.gitref import parse_git_ref
    from arkwright.frontends.dockerfile.parser import decode
    from arkwright.frontends.dockerfile.words import Rules, WordError, expand
    from arkwright.oci.platform import Platform
    from arkwright.oci.reference import parse_reference
    from arkwright.sources.git_url import parse_git_url
    from arkwright.sources.ignore import Matcher


class Nothing:
    """A bridge to no image and no file."""

    def resolve_image_config(self, name: str, platform: Platform, *, span: object = None) -> object:
        raise UserError.of("unknown-image", "none")

    def read_file(self, reference: str, path: str) -> bytes | None:
        return None

    def stat(self, reference: str, path: str) -> tuple[int, int] | None:
        return None

    def read_dir(self, reference: str, path: str) -> list[str]:
        return []

    def inputs(self) -> dict[str, str]:
        return {}

    def prepare(self, images: object) -> None: ...

    def source_time(self, *given: object, **more: object) -> int | None:
        return None

    def warn(self, diagnostic: object) -> None: ...


def dockerfile(data: bytes) -> None:
    file, _ = decode(data, "Dockerfile")
    request = FrontendRequest(source=file.text or " ", build_platform=Platform("linux", "amd64"))
    try:
        build(Nothing(), request)  # type: ignore[arg-type]
    except UserError as error:
        for label in (label for found in error.diagnostics for label in found.labels):
            assert 0 <= label.span.start <= label.span.end <= len(label.span.file.text)


def words(data: bytes) -> None:
    flags, text = data[:1].ljust(1, b"\0")[0], data[1:].decode(errors="replace")
    rules = Rules(
        escape="`" if flags & 1 else "\\", raw_quotes=bool(flags & 2), raw_escapes=bool(flags & 4),
        literal_quotes=bool(flags & 8), keep_unset=bool(flags & 16),
    )  # fmt: skip
    try:
        found = expand(text, {"A": "value", "B": "", "C": "a*b/c"}, rules)
    except WordError as error:
        assert 0 <= error.offset <= len(text)
    else:
        assert all(found.words)


def ignore(data: bytes) -> None:
    text, _, path = data.decode(errors="replace").partition("\0")
    matcher = Matcher(text.split("\n"))
    for name in (path or "a/b", "a", "a/b/c"):
        if matcher.may_prune(name):
            assert matcher.excluded(f"{name}/below")


def reference(data: bytes) -> None:
    found = parse_reference(data.decode(errors="replace"))
    assert parse_reference(str(found)) == found


def git(data: bytes) -> None:
    text = data.decode(errors="replace")
    with contextlib.suppress(ArkwrightError):
        parse_git_url(text)
    with contextlib.suppress(ValueError):
        parse_git_ref(text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dockerfile": dockerfile, "words": words, "ignore": ignore, "reference": reference, "git": git,
}  # fmt: skip


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        try:
            target(data)
        except ArkwrightError as error:
            assert error.exit_code != 70, error

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
