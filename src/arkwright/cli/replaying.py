"""`python -m arkwright.cli.replaying`: a build in a world that another process has made (`verify.rebuild`).

What to build comes on standard input, what became of it goes to a file; progress goes to standard error.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

import msgspec

from arkwright.attest import kept
from arkwright.build.run import build, new_build_id
from arkwright.build.session import SecretSpec, SessionInputs
from arkwright.cli.invocation import Invocation
from arkwright.cli.progress import progress_view
from arkwright.cli.report import report
from arkwright.diagnostics.errors import ArkwrightError
from arkwright.events.stream import EventStream
from arkwright.images.load import load_layout
from arkwright.linux import syscalls
from arkwright.store.store import Store
from arkwright.verify.rebuild import Task, TaskResult


def main() -> int:
    """Do the task; the exit status is that of `arkwright build`."""
    # Whoever started this may be killed, and nothing must go on then.
    syscalls.set_parent_death_signal(signal.SIGTERM)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    if task.request is None:
        return _remove(task)
    try:
        result, status = _built(task), 0
    except BaseException as error:
        code = error.code if isinstance(error, ArkwrightError) else "internal-error"
        result, status = TaskResult(code=code, message=str(error)), report(error, Invocation())
    with open(task.result_path, "wb") as file:
        file.write(msgspec.json.encode(result))
    return status


def _built(task: Task) -> TaskResult:
    assert task.request is not None
    if task.cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cpus])
    if task.bases_path:
        with Store.open(task.store_path) as store:
            load_layout(store, task.bases_path)
    session = SessionInputs(
        secrets={name: SecretSpec(env=variable) for name, variable in task.secrets.items()},
        ssh=task.agents,
        tls_verify=task.tls_verify,
    )
    stream = EventStream(new_build_id())
    view = progress_view(task.progress)
    stream.subscribe(view)
    try:
        receipt = build(task.request, session, stream, task.store_path)
    finally:
        view.finish()
    return TaskResult(facts=kept.read(task.store_path, receipt.build))


def _remove(task: Task) -> int:
    from arkwright.build.store_work import on_store

    def remove() -> bytes:
        # What stays is the user's own, and removed by who asked for this.
        shutil.rmtree(task.store_path, ignore_errors=True)
        return b""

    on_store(remove, task.store_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
