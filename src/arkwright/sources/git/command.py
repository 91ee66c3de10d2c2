"""Running the git command line, cut off from the user's configuration, hooks and prompts."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

from arkwright.diagnostics.errors import HostUnsupported, RemoteError, UserError
from arkwright.sources.git.auth import NO_ACCESS, Access
from arkwright.sources.git_url import Remote

# What a child may see of our environment: where programs and servers are, and how to reach an agent.
_PASSED = (
    "PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
)  # fmt: skip

# git-config(1). Nothing here comes from, or is written to, a file.
_SETTINGS = (
    ("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false"), ("core.askPass", ""),
    ("core.autocrlf", "false"), ("core.fileMode", "true"), ("core.symlinks", "true"),
    ("core.logAllRefUpdates", "false"), ("core.attributesFile", "/dev/null"),
    ("core.sshCommand", "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none"),
    ("credential.helper", ""), ("init.templateDir", ""), ("init.defaultBranch", "main"),
    ("gc.auto", "0"), ("maintenance.auto", "false"), ("advice.detachedHead", "false"),
    ("submodule.recurse", "false"), ("fetch.recurseSubmodules", "false"), ("safe.directory", "*"),
    ("http.lowSpeedLimit", "1"), ("http.lowSpeedTime", "60"),
    ("user.name", "arkwright"), ("user.email", "arkwright@localhost"),
)  # fmt: skip
_TAIL = 8  # lines of git's complaint that are shown


class GitFailed(Exception):
    """git ended with a status other than 0; `complaint` is what it said, without credentials."""

    def __init__(self, command: str, complaint: str) -> None:
        self.command = command
        self.complaint = complaint
        super().__init__(f"git {command}: {complaint}")


def run_git(
    command: str,
    *args: str,
    git_dir: str = "",
    work_tree: str = "",
    remote: Remote | None = None,
    access: Access = NO_ACCESS,
    protocols: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    held_fd: int = -1,
) -> bytes:
    """Run a git command and return what it wrote.

    With `remote`, the credentials of its URL, or those of `access`, travel in the environment,
    never in arguments.
    `protocols` are the only transports that git may use. `held_fd`, a lock, stays open as long as
    git runs, even if we are killed. Raises `GitFailed`; `HostUnsupported` `git-missing`.
    """
    import subprocess

    places = [f"--git-dir={git_dir}"] * bool(git_dir) + [f"--work-tree={work_tree}"] * bool(work_tree)
    try:
        done = subprocess.run(
            ["git", *places, command, *args],
            env={**_environment(remote, access, protocols), **(env or {})},
            cwd="/",
            umask=0o022,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            pass_fds=(held_fd,) if held_fd >= 0 else (),
        )
    except FileNotFoundError as error:
        raise HostUnsupported.of(
            "git-missing", "git sources need the program git", hint="install git",
            details={"probe": "git", "fix": "install git"},
        ) from error  # fmt: skip
    if done.returncode:
        raise GitFailed(command, _complaint(done.stderr))
    return done.stdout


def _environment(remote: Remote | None, access: Access, protocols: Sequence[str]) -> dict[str, str]:
    settings = [*_SETTINGS, *_authorization(remote, access)]
    settings += [("http.followRedirects", "false")] * (not access.redirects)
    agent = {"SSH_AUTH_SOCK": access.ssh_socket} if access.ssh_socket else {}
    return {
        **{name: os.environ[name] for name in _PASSED if name in os.environ},
        **agent,
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols) or "none",
        "GIT_CONFIG_COUNT": str(len(settings)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, (key, _) in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(settings)},
    }


def credential_free(remote: Remote) -> str:
    """The URL for git's arguments: HTTP credentials taken out (they go through `run_git`)."""
    if remote.scheme not in ("http", "https"):
        return remote.url
    parts = urlsplit(remote.url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def remote_failure(error: GitFailed, remote: Remote) -> RemoteError:
    """The error for a repository that could not be read: `git-auth-failed`, or `git-failed`."""
    refused = re.search(
        r"Authentication failed|could not read (Username|Password)|Permission denied|returned error: 40[13]",
        error.complaint,
    )
    wrapped = RemoteError.of(
        "git-auth-failed" if refused else "git-failed",
        f"git cannot read {remote.shown}: {error.complaint.splitlines()[-1] if error.complaint else 'no reason given'}",
        notes=(error.complaint,) if "\n" in error.complaint else (),
        hint="give --secret id=GIT_AUTH_TOKEN,env=NAME, or an agent with --ssh default" if refused else None,
        details={
            "method": error.command,
            "url": remote.shown,
            "status": 0,
            "remote_code": "",
            "retryable": not refused,
            "attempts": 1,
        },
    )
    assert isinstance(wrapped, RemoteError)
    return wrapped


def local_failure(error: GitFailed, what: str) -> UserError:
    """`git-checkout-failed`: a repository that was fetched cannot be used."""
    wrapped = UserError.of("git-checkout-failed", f"git cannot {what}: {error.complaint}")
    assert isinstance(wrapped, UserError)
    return wrapped


def _authorization(remote: Remote | None, access: Access) -> list[tuple[str, str]]:
    if remote is None or remote.scheme not in ("http", "https"):
        return []
    parts = urlsplit(remote.url)
    value = access.authorization
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        value = "Basic " + base64.b64encode(pair).decode()
    if not value:
        return []
    origin = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "/", "", ""))
    return [(f"http.{origin}.extraHeader", f"Authorization: {value}")]


def _complaint(stderr: bytes) -> str:
    text = re.sub(r"(?<=://)[^/@\s]*@", "", stderr.decode("utf-8", "replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL:])
