"""Bare copies of repositories in the store, filled by shallow fetches of single commits."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.sources.git.auth import NO_ACCESS, Access
from arkwright.sources.git.command import GitFailed, credential_free, local_failure, remote_failure, run_git
from arkwright.sources.git_url import Remote

_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{7,64}")
_FETCH = ("--force", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")


class Submodule(msgspec.Struct, frozen=True):
    """A submodule of one commit: where it lies, which commit, and its URL as `.gitmodules` has it."""

    path: str
    commit: str
    url: str


class Mirror:
    """The copy of one remote repository, below the directory `base_path`."""

    def __init__(self, base_path: str, remote: Remote, access: Access = NO_ACCESS) -> None:
        self.remote = remote
        self._access = access
        self._url = credential_free(remote)
        self._stem = os.path.join(base_path, hashlib.sha256(self._url.encode()).hexdigest()[:32])
        protocols = {remote.scheme, "https"} if remote.scheme == "http" else {remote.scheme}
        self._protocols = sorted(protocols)

    def path(self, commit: str) -> str:
        """The repository that holds a commit: one for each object format (sha1, sha256)."""
        return self._stem if len(commit) == 40 else self._stem + "-sha256"

    def has(self, commit: str) -> bool:
        """Whether the commit, with all that it needs, is here."""
        # The ref is made after the objects are all there.
        return os.path.exists(os.path.join(self.path(commit), "refs", "arkwright", commit))

    def git(self, commit: str, command: str, *args: str) -> bytes:
        """Run a local git command. Raises `UserError` `git-checkout-failed`."""
        try:
            return run_git(command, *args, git_dir=self.path(commit))
        except GitFailed as error:
            raise local_failure(error, f"read {self.remote.shown}") from error

    def resolve(self, ref: str) -> str:
        """The commit that a branch, tag, full ref or commit stands for, fetched.

        A branch beats a tag of the same name, as with `git checkout`.
        Raises `UserError` `unknown-git-ref`; `RemoteError` `git-failed`, `git-auth-failed`.
        """
        if _FULL.fullmatch(ref):
            self._require(ref, "")
            return ref
        names = self._ls_remote(ref)
        for name in _candidates(ref):
            if name in names:
                commit = names[name]
                self._require(commit, name.removesuffix("^{}"))
                return commit
        if _SHORT.fullmatch(ref):
            return self._abbreviated(ref)
        raise self._unknown(ref)

    def submodules(self, commit: str) -> list[Submodule]:
        """The submodules of a commit that have a URL, sorted by path."""
        if not self.git(commit, "ls-tree", "-z", "--full-tree", commit, "--", ".gitmodules"):
            return []
        listed = self.git(commit, "config", "--blob", f"{commit}:.gitmodules", "-z", "--list")
        fields: dict[str, dict[str, str]] = {}
        for item in os.fsdecode(listed).split("\0"):
            key, _, value = item.partition("\n")
            section, _, name = key.rpartition(".")
            if section.startswith("submodule."):
                fields.setdefault(section, {})[name] = value
        urls = {one["path"]: one["url"] for one in fields.values() if one.get("path") and one.get("url")}
        tree = os.fsdecode(self.git(commit, "ls-tree", "-r", "-z", "--full-tree", commit))
        links = (item.split("\t", 1) for item in tree.split("\0") if item.startswith("160000 "))
        return [Submodule(path, head.split(" ")[2], urls[path]) for head, path in links if path in urls]

    def _ls_remote(self, ref: str) -> dict[str, str]:
        patterns = [ref] if ref == "HEAD" else [ref, ref + "^{}"]
        listed = self._remote_git("", "ls-remote", "--quiet", "--", self._url, *patterns)
        lines = (line.split("\t", 1) for line in os.fsdecode(listed).splitlines() if "\t" in line)
        return {name: commit for commit, name in lines if _FULL.fullmatch(commit)}

    def _require(self, commit: str, ref: str) -> None:
        if self.has(commit):
            # When it was last asked for is what clean-up goes by.
            with suppress(OSError):
                os.utime(self.path(commit))
            return
        with self._locked(commit) as lock_fd:
            if not self.has(commit):
                self._prepare(commit)
                self._fetch(commit, ref, lock_fd)

    def _fetch(self, commit: str, ref: str, lock_fd: int) -> None:
        """One commit without its history; else, for servers that cannot do that, everything."""
        for wanted in [commit, *([ref] if ref else [])]:
            with suppress(GitFailed):
                self._run_fetch(commit, lock_fd, "--depth=1", "--", self._url, wanted)
                if self._adopt(commit):
                    return
        try:
            self._fetch_all(commit, lock_fd)
        except GitFailed as error:
            raise remote_failure(error, self.remote) from error
        if not self._adopt(commit):
            raise self._unknown(ref or commit)

    def _fetch_all(self, commit: str, lock_fd: int) -> None:
        deepen = ["--unshallow"] if os.path.exists(os.path.join(self.path(commit), "shallow")) else []
        heads, tags = "+refs/heads/*:refs/remote/heads/*", "+refs/tags/*:refs/remote/tags/*"
        self._run_fetch(commit, lock_fd, *deepen, "--", self._url, heads, tags)

    def _run_fetch(self, commit: str, lock_fd: int, *args: str) -> None:
        run_git(
            "fetch", *_FETCH, *args,
            git_dir=self.path(commit), remote=self.remote, access=self._access, protocols=self._protocols,
            held_fd=lock_fd,
        )  # fmt: skip

    def _adopt(self, commit: str) -> bool:
        """Make the commit ours for good, if it is there."""
        path = self.path(commit)
        try:
            run_git("cat-file", "-e", f"{commit}^{{commit}}", git_dir=path)
            run_git("update-ref", f"refs/arkwright/{commit}", f"{commit}^{{commit}}", git_dir=path)
        except GitFailed:
            return False
        return self.has(commit)

    def _abbreviated(self, ref: str) -> str:
        """A server cannot be asked for an abbreviated commit: fetch all, then look."""
        probe = "0" * 40
        with self._locked(probe) as lock_fd:
            self._prepare(probe)
            try:
                self._fetch_all(probe, lock_fd)
            except GitFailed as error:
                raise remote_failure(error, self.remote) from error
            try:
                found = run_git(
                    "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", git_dir=self.path(probe)
                )
            except GitFailed as error:
                raise self._unknown(ref) from error
            commit = found.decode().strip()
            if not self._adopt(commit):
                raise self._unknown(ref)
            return commit

    def _remote_git(self, commit: str, command: str, *args: str) -> bytes:
        try:
            return run_git(command, *args, remote=self.remote, access=self._access, protocols=self._protocols)
        except GitFailed as error:
            raise remote_failure(error, self.remote) from error

    def _unknown(self, ref: str) -> UserError:
        listed = os.fsdecode(
            self._remote_git("", "ls-remote", "--quiet", "--heads", "--tags", "--", self._url)
        )
        names = [line.rpartition("\t")[2].split("/", 2)[-1] for line in listed.splitlines()]
        near = nearest(ref.split("/", 2)[-1] if ref.startswith("refs/") else ref, names)
        error = UserError.of(
            "unknown-git-ref",
            f"{self.remote.shown} has no branch, tag or commit {ref!r}",
            hint=f"did you mean {near!r}?" if near else None,
        )
        assert isinstance(error, UserError)
        return error

    def _prepare(self, commit: str) -> None:
        path = self.path(commit)
        if not os.path.exists(os.path.join(path, "HEAD")):
            object_format = "sha1" if len(commit) == 40 else "sha256"
            try:
                run_git("init", "--quiet", "--bare", f"--object-format={object_format}", path)
            except GitFailed as error:
                raise local_failure(error, "make a repository in the store") from error
        # We hold the lock, which a git that outlived its build would hold too: these are stale.
        for directory, _, names in os.walk(path):
            for name in names:
                if name.endswith(".lock"):
                    os.unlink(os.path.join(directory, name))

    @contextmanager
    def _locked(self, commit: str) -> Iterator[int]:
        os.makedirs(os.path.dirname(self._stem), mode=0o700, exist_ok=True)
        fd = os.open(self.path(commit) + ".flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _candidates(ref: str) -> list[str]:
    names = [ref, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/{ref}"]
    # The commit of an annotated tag is the one that the server shows as peeled.
    return [form for name in names for form in (name + "^{}", name)]
