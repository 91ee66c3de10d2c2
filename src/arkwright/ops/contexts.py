"""What ops read of the session's contexts: which paths match, and what their content is."""

from __future__ import annotations

from collections.abc import Callable

from arkwright.cache.checksum import TreeDigester
from arkwright.cache.keys import KeyBuilder
from arkwright.cache.stat_cache import StatCache
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import CopyAction
from arkwright.layer.rooted import Root
from arkwright.ops.file_copy import Excluded
from arkwright.sources.base import HostTree
from arkwright.sources.ignore import Matcher, expand, has_wildcard


class ContextReader:
    """One context during one build; digests are remembered, files' digests in the stat cache."""

    def __init__(self, tree: HostTree, stat_cache: StatCache | None) -> None:
        self.tree = tree
        self.matcher = Matcher(tree.exclude) if tree.exclude else None
        self._stat_cache = stat_cache
        self._digests: dict[tuple[object, ...], str] = {}

    @property
    def excluded(self) -> Excluded | None:
        return self.matcher.excluded if self.matcher else None

    def matches(self, action: CopyAction) -> list[str]:
        """The context paths that a copy names. Raises `UserError` `copy-source-missing`."""
        with Root(self.tree.root) as root:
            return source_matches(root, action, self.matcher)

    def selection(self, action: CopyAction) -> str:
        """The content digest of what a copy would take, remembered for the build."""
        wanted = (action.src, action.parents, action.exclude_patterns, action.include_patterns)
        if wanted not in self._digests:
            self._digests[wanted] = self.fresh_selection(action)
        return self._digests[wanted]

    def fresh_selection(self, action: CopyAction) -> str:
        """The same, from the files as they are now."""
        with Root(self.tree.root) as root:
            hidden = hidden_by(action.exclude_patterns)
            builder = KeyBuilder("selection")
            for match in source_matches(root, action, self.matcher):
                digester = TreeDigester(
                    root,
                    ownership=False,
                    excluded=_both(self.excluded, hidden, match),
                    stat_cache=self._stat_cache,
                )
                builder.field(match, digester.digest(match))
            return builder.digest()

    def tree_selection(self, path: str) -> str:
        """The content digest of one path as a bind mount shows it."""
        return self.selection(_whole(path))

    def fresh_tree_selection(self, path: str) -> str:
        """The same, from the files as they are now."""
        return self.fresh_selection(_whole(path))


def _whole(path: str) -> CopyAction:
    return CopyAction(input=-1, secondary_input=0, src=path, dest="/")


def source_matches(root: Root, action: CopyAction, matcher: Matcher | None) -> list[str]:
    """The paths in a source tree that a copy action names, sorted.

    A wildcard may match nothing; a literal path must exist and not be ignored. Raises `UserError`
    `copy-source-missing` with the nearest name, or the ignore rule that hides the path.
    """
    pattern = action.src.replace("/./", "/") if action.parents else action.src
    if action.allow_wildcard and has_wildcard(pattern):
        found = expand(root, pattern)
        if matcher is not None:
            found = [path for path in found if not _hidden(root, matcher, path)]
        if not found and not action.allow_empty_wildcard:
            raise _missing(root, pattern, matcher)
        return found
    path = "/".join(part for part in pattern.split("/") if part and part != ".")
    clean = _clamp(path)
    status = root.lstat(root.resolve(clean))
    if status is None or (matcher is not None and clean and _hidden(root, matcher, clean)):
        raise _missing(root, clean, matcher)
    return [clean]


def hidden_by(patterns: tuple[str, ...]) -> Excluded | None:
    """A predicate for `--exclude` patterns, on paths relative to the copied directory."""
    return Matcher(patterns).excluded if patterns else None


def _both(first: Excluded | None, second: Excluded | None, base: str) -> Excluded | None:
    if second is None:
        return first
    inner = second

    def excluded(path: str, is_dir: bool) -> bool:
        relative = path[len(base) :].lstrip("/") if base else path
        return bool(first and first(path, is_dir)) or bool(relative and inner(relative, is_dir))

    return excluded


def _hidden(root: Root, matcher: Matcher, path: str) -> bool:
    status = root.lstat(root.resolve(path))
    is_dir = status is not None and (status.st_mode & 0o170000) == 0o040000
    # A directory that an exception line can reach into is not hidden as a whole.
    return matcher.excluded(path, is_dir) and (not is_dir or matcher.may_prune(path))


def _clamp(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part:
            parts.append(part)
    return "/".join(parts)


def _missing(root: Root, path: str, matcher: Matcher | None) -> UserError:
    rule = matcher.deciding_line(path) if matcher is not None else None
    hint: str | None = None
    if rule is not None and root.lstat(root.resolve(path)) is not None:
        number, text = rule
        message = f"{path} is in the context, but line {number} of the ignore file hides it: {text}"
        hint = f"add the line !{path} after it, or copy another path"
    else:
        message = f"{path} does not exist"
        parent, _, name = path.rpartition("/")
        close = nearest(name, _names(root, parent))
        if close is not None:
            hint = f"did you mean {parent + '/' if parent else ''}{close}?"
    error = UserError.of("copy-source-missing", message, hint=hint)
    assert isinstance(error, UserError)
    return error


def _names(root: Root, path: str) -> list[str]:
    import os

    try:
        directory_fd = root.open_dir(root.resolve(path))
    except OSError:
        return []
    try:
        return sorted(os.listdir(directory_fd))
    finally:
        os.close(directory_fd)


ReaderOf = Callable[[str], ContextReader | None]
