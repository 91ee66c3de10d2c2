"""Git repositories: pinned to a commit, fetched into a bare mirror of the store, checked out plainly.

Nothing of the user's git is used: no configuration, hooks, templates, credential helpers, prompts
or filters (files kept in LFS stay pointers). Files get the modes 0644 and 0755.

With `mtime=commit` all files have the time of the commit, else (`checkout`) that of the checkout.

`keep-git-dir` keeps a `.git` with the one commit, detached: loose objects, an index without file
times, the URL without credentials; no reflog. Submodules never have a `.git`, nor has a `subdir`.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import SourceOp
from arkwright.layer.rooted import Root
from arkwright.sources.base import FileSource, Pinned
from arkwright.sources.git.auth import Access, GitAuth
from arkwright.sources.git.command import GitFailed, local_failure, run_git
from arkwright.sources.git.mirror import Mirror
from arkwright.sources.git_url import Remote, invalid, parse_remote, require_ref
from arkwright.sources.pinning import attributes, checksum_mismatch, pin_key
from arkwright.store.store import Store

_PREFIX = "git://"
_KNOWN = frozenset({"ref", "subdir", "keep-git-dir", "checksum", "submodules", "mtime", "fetch-by-commit"})
# gitformat-signature(5): one for each hash algorithm of the repository.
_SIGNED = (b"gpgsig ", b"gpgsig-sha256 ")
_DEPTH = 8  # of submodules in submodules
_SUBMODULES = 1000


class PinnedCommit(Pinned, frozen=True, kw_only=True):
    """A commit, present in the mirror with its submodules; `signed` says that it has a signature, which
    nobody has checked."""

    commit: str
    signed: bool = False


class GitSource:
    """A `FileSource` for `git`. Thread-safe. `leads_to` is asked before a submodule's repository is; then git
    follows no redirection either."""

    def __init__(
        self, store: Store, auth: GitAuth | None = None, *, leads_to: Callable[[str], None] | None = None
    ) -> None:
        self._store = store
        self._auth = auth or GitAuth()
        self._leads_to = leads_to
        self._base_path = os.path.join(store.root_path, "sources", "git")

    def pin(self, op: SourceOp) -> PinnedCommit:
        """Resolve the ref and fetch the commit, its tree and its submodules.

        A full commit that is in the mirror already needs no network.
        Raises `UserError` `invalid-git-url`, `invalid-git-ref`, `unknown-git-ref`,
        `checksum-mismatch`, `too-many-submodules`; `RemoteError` `git-failed`, `git-auth-failed`;
        `HostUnsupported` `git-missing`.
        """
        attrs = attributes(op, _KNOWN)
        remote = _remote(op)
        ref = require_ref(attrs["ref"]) if attrs.get("ref") else "HEAD"
        mirror = Mirror(self._base_path, remote, self._access(remote, remote))
        checksum = attrs.get("checksum", "")
        # Then nobody asks where the ref leads by now: it is a name only.
        commit = mirror.resolve(checksum if attrs.get("fetch-by-commit") == "true" else ref)
        if checksum and not commit.startswith(checksum):
            raise checksum_mismatch(f"{remote.shown}#{ref}", checksum, commit)
        if _with_submodules(attrs):
            self._fetch_submodules(mirror, commit, remote, [0])
        keep = _keeps_git(attrs)
        algorithm = "sha1" if len(commit) == 40 else "sha256"
        return PinnedCommit(
            op=op,
            key=pin_key(
                "git",
                commit=commit,
                subdir=attrs.get("subdir", ""),
                submodules=str(_with_submodules(attrs)),
                # Only a kept .git says where it came from.
                kept=remote.shown if keep else "",
                **({"mtime": "commit"} if attrs.get("mtime") == "commit" else {}),
            ),
            uri=f"{remote.shown}#{ref}",
            digest=f"{algorithm}:{commit}",
            commit=commit,
            signed=any(line.startswith(_SIGNED) for line in _headers(mirror, commit)),
        )

    def materialise(self, pinned: Pinned, directory: str) -> None:
        """Check the commit out; nothing is fetched.

        Raises `UserError` `git-subdir-missing`, `git-checkout-failed`.
        """
        assert isinstance(pinned, PinnedCommit)
        attrs = dict(pinned.op.attrs)
        mirror = Mirror(self._base_path, _remote(pinned.op))
        claim = self._store.claim_work()
        try:
            subdir = attrs.get("subdir", "").strip("/")
            target = os.path.join(claim.path, "tree") if subdir else directory
            os.makedirs(target, mode=0o755, exist_ok=True)
            if _keeps_git(attrs):
                _keep_git(mirror, pinned.commit, target)
            else:
                self._checkout(mirror, pinned.commit, target, os.path.join(claim.path, "index"))
            if _with_submodules(attrs):
                self._checkout_submodules(mirror, pinned.commit, target, os.path.join(claim.path, "index"))
            if subdir:
                _move_up(target, subdir, directory, _remote(pinned.op))
            if attrs.get("mtime") == "commit":
                _set_times(directory, self.epoch(pinned))
        finally:
            self._store.trash(claim.path)
            claim.close()

    def epoch(self, pinned: Pinned) -> int:
        """The committer's time of the pinned commit, in seconds since 1970."""
        assert isinstance(pinned, PinnedCommit)
        lines = _headers(Mirror(self._base_path, _remote(pinned.op)), pinned.commit)
        committer = next(line for line in lines if line.startswith(b"committer "))
        return int(committer.split()[-2])

    def time(self, pinned: Pinned) -> int | None:
        """As `epoch`: a commit always has a time."""
        return self.epoch(pinned)

    def _access(self, remote: Remote, asked: Remote) -> Access:
        found = self._auth.access(remote, asked)
        return found if self._leads_to is None else msgspec.structs.replace(found, redirects=False)

    def _fetch_submodules(
        self, mirror: Mirror, commit: str, asked: Remote, count: list[int], depth: int = 0
    ) -> None:
        for submodule in mirror.submodules(commit):
            count[0] += 1
            if count[0] > _SUBMODULES or depth >= _DEPTH:
                raise UserError.of(
                    "too-many-submodules",
                    f"{mirror.remote.shown} has more than {_SUBMODULES} submodules, or more than {_DEPTH} levels",
                )
            remote = _submodule_remote(mirror.remote, submodule.url)
            if self._leads_to is not None:
                self._leads_to(remote.url)
            inner = Mirror(self._base_path, remote, self._access(remote, asked))
            inner.resolve(submodule.commit)
            self._fetch_submodules(inner, submodule.commit, asked, count, depth + 1)

    def _checkout_submodules(self, mirror: Mirror, commit: str, target: str, index_path: str) -> None:
        for submodule in mirror.submodules(commit):
            inner = Mirror(self._base_path, _submodule_remote(mirror.remote, submodule.url))
            with Root(target) as root:
                place = root.resolve(submodule.path)
            if place != submodule.path:
                raise UserError.of(
                    "git-checkout-failed", f"the submodule {submodule.path} lies behind a link"
                )
            below = os.path.join(target, place)
            self._checkout(inner, submodule.commit, below, index_path)
            self._checkout_submodules(inner, submodule.commit, below, index_path)

    def _checkout(self, mirror: Mirror, commit: str, target: str, index_path: str) -> None:
        if os.path.exists(index_path):
            os.unlink(index_path)
        _populate(mirror.path(commit), commit, target, {"GIT_INDEX_FILE": index_path})


def commit_epoch(source: FileSource, pinned: Pinned) -> int | None:
    """The time of a pinned commit in seconds since 1970; None for anything but a commit."""
    if isinstance(source, GitSource) and isinstance(pinned, PinnedCommit):
        return source.epoch(pinned)
    return None


def _headers(mirror: Mirror, commit: str) -> list[bytes]:
    """The lines of a commit's header."""
    raw = mirror.git(commit, "cat-file", "commit", commit)
    return raw.partition(b"\n\n")[0].split(b"\n")


def _remote(op: SourceOp) -> Remote:
    if not op.identifier.startswith(_PREFIX):
        raise invalid(op.identifier, f"it does not begin with {_PREFIX}")
    return parse_remote(op.identifier.removeprefix(_PREFIX))


def _with_submodules(attrs: dict[str, str]) -> bool:
    return attrs.get("submodules", "true") != "false"


def _keeps_git(attrs: dict[str, str]) -> bool:
    return attrs.get("keep-git-dir") == "true" and not attrs.get("subdir", "").strip("/")


def _submodule_remote(parent: Remote, url: str) -> Remote:
    """The submodule's repository. Raises `UserError` `invalid-git-url`."""
    if url.startswith(("./", "../")):
        url = _relative(parent.url, url)
    remote = parse_remote(url)
    if remote.scheme == "file" and parent.scheme != "file":
        raise invalid(url, "a submodule of a remote repository must not name a path of this host")
    return remote


def _relative(base: str, url: str) -> str:
    """A URL relative to its superproject's (gitmodules(5), "submodule.<name>.url")."""
    base = base.rstrip("/")
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            head, separator, _ = base.rpartition("/")
            if not separator:
                head, separator, _ = base.rpartition(":")
            if not head or head.endswith(("/", ":")):
                raise invalid(url, "it leads above the host")
            base = head + (":" if separator == ":" else "")
            url = url[3:]
        else:
            url = url[2:]
    return base + ("" if base.endswith(":") else "/") + url


def _set_times(directory: str, epoch: int) -> None:
    times = (epoch * 1_000_000_000,) * 2
    for here, directories, files in os.walk(directory):
        for name in (*directories, *files):
            os.utime(os.path.join(here, name), ns=times, follow_symlinks=False)
    os.utime(directory, ns=times)


def _populate(git_dir: str, commit: str, target: str, env: dict[str, str]) -> None:
    try:
        run_git("read-tree", commit, git_dir=git_dir, env=env)
        run_git("checkout-index", "--all", "--force", "--quiet", git_dir=git_dir, work_tree=target, env=env)
    except GitFailed as error:
        raise local_failure(error, f"check {commit} out") from error


def _keep_git(mirror: Mirror, commit: str, target: str) -> None:
    git_dir = os.path.join(target, ".git")
    object_format = "sha1" if len(commit) == 40 else "sha256"
    try:
        run_git("init", "--quiet", f"--object-format={object_format}", target)
        # Loose objects have one form each; how a pack is cut depends on where it came from.
        run_git(
            "-c", "fetch.unpackLimit=2000000000", "fetch", "--quiet", "--no-tags", "--depth=1",
            "--no-write-fetch-head", "--", f"file://{mirror.path(commit)}", commit,
            git_dir=git_dir, protocols=("file",),
        )  # fmt: skip
        run_git("update-ref", "--no-deref", "HEAD", commit, git_dir=git_dir)
        config_path = os.path.join(git_dir, "config")
        run_git("config", "--file", config_path, "remote.origin.url", mirror.remote.shown)
        fetch = "+refs/heads/*:refs/remotes/origin/*"
        run_git("config", "--file", config_path, "remote.origin.fetch", fetch)
    except GitFailed as error:
        raise local_failure(error, f"copy {commit}") from error
    # `read-tree` leaves the times in the index at zero, and `checkout-index` does not fill them.
    _populate(git_dir, commit, target, {})


def _move_up(tree_path: str, subdir: str, directory: str, remote: Remote) -> None:
    with Root(tree_path) as root:
        place = root.resolve(subdir)
        status = root.lstat(place)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise UserError.of("git-subdir-missing", f"{remote.shown} has no directory {subdir}")
    source = os.path.join(tree_path, place)
    for name in sorted(os.listdir(source)):
        # Trees of the snapshotter may lie on another file system: then this copies.
        shutil.move(os.path.join(source, name), os.path.join(directory, name))
