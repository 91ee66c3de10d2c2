"""Git repositories as sources."""

from arkwright.sources.git.auth import GitAuth
from arkwright.sources.git.source import GitSource, commit_epoch
from arkwright.sources.git_url import parse_git_url

__all__ = ["GitAuth", "GitSource", "commit_epoch", "parse_git_url"]
