"""`.dockerignore`: which paths of a context a build does not see.

The rules are those of moby's `ignorefile` and `patternmatcher`: one pattern per line; a `#` in the
first column is a comment; blanks around, a leading `/` and a trailing `/` do not count; `!` turns
a match around; the last line that matches a path or one of its parents decides.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.sources.patterns import BadPattern, has_wildcard, match_component, match_path, translate

__all__ = ["Matcher", "has_wildcard", "match_component", "match_path", "read_ignore_file"]

_LIMIT = 8 << 20  # bytes of an ignore file


class _Rule(msgspec.Struct, frozen=True):
    number: int
    text: str
    pattern: str
    includes: bool
    regex: str


class Matcher:
    """The lines of one ignore file, compiled. Paths are relative, with `/`, `""` for the root.

    Raises `UserError` `invalid-ignore-pattern` (with line number and text) when made.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        rules = [_read_rule(number, line, comments=True) for number, line in enumerate(lines, 1)]
        self._compile([rule for rule in rules if rule is not None])

    @classmethod
    def of_patterns(cls, patterns: Iterable[str]) -> Matcher:
        """A matcher for patterns that are no lines of a file (`--exclude`): `#` is no comment."""
        matcher = cls(())
        rules = [_read_rule(number, text, comments=False) for number, text in enumerate(patterns, 1)]
        matcher._compile([rule for rule in rules if rule is not None])
        return matcher

    def _compile(self, rules: list[_Rule]) -> None:
        self._rules = rules
        # Runs of lines with one outcome become one expression; the last run that matches decides.
        self._runs = [
            (
                re.compile(f"(?:{'|'.join(rule.regex for rule in run)})(?:/|\\Z)", re.DOTALL).match,
                not includes,
            )
            for includes, run in groupby(rules, key=lambda rule: rule.includes)
        ][::-1]
        self._has_includes = any(rule.includes for rule in rules)

    def excluded(self, path: str, is_dir: bool = False) -> bool:
        """Whether the path is ignored by itself. A directory that is may still be there for the
        sake of paths that are not (see `may_prune`). The root never is."""
        for match, outcome in self._runs:
            if match(path):
                return outcome and path != ""
        return False

    def may_prune(self, directory: str) -> bool:
        """Whether the directory is ignored together with everything that it could hold."""
        if not self.excluded(directory, True):
            return False
        if not self._has_includes:
            return True
        deciding = self._deciding(directory)
        assert deciding is not None
        later = (rule for rule in self._rules if rule.includes and rule.number > deciding.number)
        return not any(_reaches_below(rule.pattern, directory) for rule in later)

    def deciding_line(self, path: str) -> tuple[int, str] | None:
        """The line that decides about a path: its number from 1, and its text; None: no line."""
        rule = self._deciding(path)
        return None if rule is None else (rule.number, rule.text)

    def _deciding(self, path: str) -> _Rule | None:
        for rule in reversed(self._rules):
            if path and re.match(f"(?:{rule.regex})(?:/|\\Z)", path, re.DOTALL):
                return rule
        return None


def read_ignore_file(context_root: str, dockerfile_path: str = "") -> tuple[list[str], str]:
    """The lines that apply to a context, and the file that they came from (`""`: there is none).

    `<Dockerfile>.dockerignore` beats `.dockerignore` of the context. `dockerfile_path` is relative
    to the working directory, or to the context. Neither file need be a part of the context.
    Raises `UserError` `unreadable-ignore-file`, `invalid-ignore-pattern`.
    """
    for path in _candidates(context_root, dockerfile_path):
        try:
            with open(path, "rb") as file:
                data = file.read(_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError.of("unreadable-ignore-file", f"cannot read {path}: {error.strerror}") from error
        if len(data) > _LIMIT:
            raise UserError.of("unreadable-ignore-file", f"{path} is larger than {_LIMIT >> 20} MiB")
        # Lines end as Go's bufio.ScanLines has it; other separators are parts of a name.
        lines = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
        lines = [line.removesuffix("\r") for line in lines]
        Matcher(lines)
        return lines, path
    return [], ""


def _candidates(context_root: str, dockerfile_path: str) -> Sequence[str]:
    named = f"{dockerfile_path}.dockerignore" if dockerfile_path else ""
    places = [named, os.path.join(context_root, named)] if named else []
    return [*places, os.path.join(context_root, ".dockerignore")]


def _read_rule(number: int, line: str, *, comments: bool) -> _Rule | None:
    text = line.strip()
    if not text or (comments and line.startswith("#")):
        return None
    includes = text.startswith("!")
    pattern = text[1:].strip() if includes else text
    if not pattern:
        raise _invalid(number, text, "a ! needs a pattern behind it")
    pattern = posixpath.normpath(pattern)
    if len(pattern) > 1:
        # POSIX keeps two leading slashes apart from one; filepath.Clean does not.
        pattern = pattern.lstrip("/") or "/"
    try:
        return _Rule(number, text, pattern, includes, translate(pattern, globstar=True))
    except BadPattern as error:
        raise _invalid(number, text, str(error)) from error


def _invalid(number: int, text: str, why: str) -> UserError:
    error = UserError.of(
        "invalid-ignore-pattern",
        f"line {number} of the ignore patterns, {text!r}, is not a pattern: {why}",
        details={"line": number, "text": text},
    )
    assert isinstance(error, UserError)
    return error


def _reaches_below(pattern: str, directory: str) -> bool:
    """Whether the pattern, which does not match the directory, may match a path below it."""
    rest = directory
    parts = pattern.split("/")
    for position, part in enumerate(parts):
        if "**" in part or "[" in part or "\\" in part:
            # These may cross directories: only the plain beginning says anything.
            plain = re.split(r"[*?\[\\]", "/".join(parts[position:]), maxsplit=1)[0]
            return (rest + "/").startswith(plain) or plain.startswith(rest + "/")
        if not rest:
            return True
        name, _, rest = rest.partition("/")
        if not match_component(part, name):
            return False
    return False
