"""Wildcards of COPY and ADD, expanded in a tree: what they name, resolved beneath its root."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from typing import Protocol

from arkwright.diagnostics.errors import UserError
from arkwright.layer import files
from arkwright.layer.rooted import DirStack, Root
from arkwright.sources.patterns import BadPattern, has_wildcard, match_component, match_path


class Visibility(Protocol):
    """What hides paths of a tree: `sources.ignore.Matcher`."""

    def excluded(self, path: str, is_dir: bool = False) -> bool: ...

    def may_prune(self, directory: str) -> bool: ...


def expand(
    root: Root, pattern: str, matcher: Visibility | None = None, *, globstar: bool = False
) -> list[str]:
    """The paths that a pattern names, in the order of a directory walk.

    `..` and a leading `/` stop at the root. Links are followed in the components before the first
    wildcard, and not after it; the last component is never followed. `*` stays within a name;
    with `globstar` (`--parents`) `**` crosses directories. A pattern without wildcards gives its
    path if it is there. Paths that `matcher` hides are left out.
    Raises `UserError` `invalid-wildcard`.
    """
    clean = posixpath.normpath("/" + pattern).lstrip("/")
    parts = clean.split("/") if clean else []
    plain = next((n for n, part in enumerate(parts) if has_wildcard(part)), len(parts))
    try:
        if plain == len(parts):
            found = [] if root.lstat(clean) is None else [clean]
        else:
            found = list(_search(root, parts[:plain], parts[plain:], globstar, matcher))
    except BadPattern as error:
        raise UserError.of("invalid-wildcard", f"{pattern!r} is not a pattern: {error}") from error
    except OSError as error:
        raise UserError.of("unreadable-path", f"cannot look for {pattern}: {error.strerror}") from error
    return found if matcher is None else [path for path in found if shown(root, path, matcher)]


def shown(root: Root, path: str, matcher: Visibility) -> bool:
    """Whether a path of the tree is there for a build: not ignored, or with something below it
    that is not. Links in the parents are followed before the rules are asked."""
    parent, _, name = path.rpartition("/")
    real = posixpath.join(root.resolve(parent), name) if parent else path
    if not real or not matcher.excluded(real):
        return True
    status = root.lstat(real)
    if status is None or not stat.S_ISDIR(status.st_mode) or matcher.may_prune(real):
        return False
    below = _walk(
        root.open_dir(real, follow=False),
        lambda inner: not matcher.may_prune(f"{real}/{inner}"),
        widen=root.widen,
    )
    return any(not matcher.excluded(f"{real}/{inner}", is_dir) for inner, is_dir in below)


class _Descend(Protocol):
    def __call__(self, path: str, /) -> bool: ...


def _search(
    root: Root, plain: list[str], wild: list[str], globstar: bool, matcher: Visibility | None
) -> Iterator[str]:
    for part in wild:
        match_component(part, "")  # a malformed pattern is wrong even where there is nothing to match
    try:
        fd = root.open_dir("/".join(plain))
        base = root.resolve("/".join(plain)) if matcher is not None else ""
    except (FileNotFoundError, NotADirectoryError):
        return
    crossing = globstar and any("**" in part for part in wild)
    pattern = "/".join(wild)
    matched: set[str] = set()

    def descend(path: str) -> bool:
        if path in matched:
            return False
        if matcher is not None and matcher.may_prune(f"{base}/{path}".lstrip("/")):
            # What is ignored with all below it is not even opened: it may be huge, or forbidden.
            return False
        if crossing:
            return True
        names = path.split("/")
        return len(names) < len(wild) and all(map(match_component, wild, names))

    for path, _ in _walk(fd, descend, widen=root.widen):
        names = path.split("/")
        if match_path(pattern, path) if crossing else (
            len(names) == len(wild) and all(map(match_component, wild, names))
        ):  # fmt: skip
            matched.add(path)
            yield "/".join((*plain, path))


def _walk(fd: int, descend: _Descend, *, widen: bool) -> Iterator[tuple[str, bool]]:
    """All paths below a directory, sorted within each, and whether they are directories.

    Takes `fd` over. `descend(path)` is asked after the directory `path` was given out.
    """
    stack = DirStack(fd, widen=widen)
    try:
        listings = [_listing(stack.fd)]
        names: list[str] = []
        while listings:
            if not listings[-1]:
                listings.pop()
                if listings:
                    stack.pop()
                    names.pop()
                continue
            name, is_dir = listings[-1].pop()
            path = "/".join((*names, name))
            yield path, is_dir
            if is_dir and descend(path):
                stack.push(name)
                names.append(name)
                listings.append(_listing(stack.fd))
    finally:
        stack.close()


def _listing(fd: int) -> list[tuple[str, bool]]:
    """Names in reverse order of their bytes."""
    with files.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    return sorted(found, key=lambda item: os.fsencode(item[0]), reverse=True)
