"""WORKDIR: the one instruction that makes a directory and changes the config."""

from __future__ import annotations

from arkwright.frontends.dockerfile import syntax
from arkwright.frontends.dockerfile.draft import Inputs, join
from arkwright.frontends.dockerfile.lint_stage import relative_workdir
from arkwright.frontends.dockerfile.state import Step
from arkwright.graph.ops import FileOp, MkDirAction, Owner

_ROOT = ("", "0", "root")


def convert_workdir(step: Step, instruction: syntax.Workdir) -> None:
    """Go to a directory, made with its parents for the current user; `/` makes nothing."""
    path = step.expand(instruction.path).text
    if not step.state.workdir_given and (found := relative_workdir(path, instruction.path)) is not None:
        step.build.warn(found)
    step.state.workdir_given = True
    directory = join(step.state.workdir, path)
    step.state.configure(working_dir=directory)
    if directory == "/":
        step.record("WORKDIR /")
        return
    inputs = Inputs()
    action = MkDirAction(
        input=inputs.index(step.state.tree),
        output=0,
        path=directory,
        mode=0o755,
        make_parents=True,
        owner=_current_user(step.state.config.user),
    )
    op = FileOp(actions=(action,))
    step.state.tree = step.build.draft.add(op, inputs.refs, metadata=step.metadata())
    step.record(f"WORKDIR {directory}", layer=True)


def _current_user(user: str) -> Owner | None:
    name, _, group = user.partition(":")
    if name in _ROOT and group in _ROOT:
        return None
    return Owner(name or "0", group)
