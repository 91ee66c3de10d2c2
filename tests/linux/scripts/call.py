"""Runs the function NAME of this file in a worker and prints what it returns, or the error's code."""

import fcntl
import json
import os
import sys
import threading

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.linux import mounts
from arkwright.linux.worker import Worker, run_in_worker

PATH = {"PATH": os.environ["PATH"]}


def facts(worker: Worker) -> object:
    status = {}
    with open("/proc/self/status") as lines:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    return {
        "rootless": worker.rootless,
        "single": worker.single_id,
        "uid": os.getuid(),
        "maps": [worker.maps_uid(0), worker.maps_uid(5)],
        "threads": status["Threads"],
        "group": os.getpgrp() == os.getpid(),
        "mode": oct(os.stat(worker.runtime_path).st_mode & 0o7777),
    }


def output(worker: Worker, command: str, **options: object) -> str:
    reader, writer = os.pipe()
    child = worker.spawn(["sh", "-c", command], env={**PATH, "X": "a b"}, fds={1: writer}, **options)
    os.close(writer)
    with os.fdopen(reader) as source:
        text = source.read()
    return f"{text.strip()}|{child.wait()}"


def spawn(worker: Worker) -> object:
    return [
        output(worker, "echo $X; exit 3"),
        output(worker, "pwd", cwd="/usr"),
        output(worker, "kill -9 $$"),
        output(worker, "readlink /proc/self/fd/0"),
        output(worker, "ls /proc | grep -c '^1$'"),
        output(worker, "grep -E 'SigIgn|SigBlk' /proc/self/status | cut -c1-40 | tr -d '\\t\\n'"),
    ]


def leaks(worker: Worker) -> object:
    """Descriptors that the supervisor inherited must not reach steps."""
    descriptor = os.open("/", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    return output(worker, "ls /proc/self/fd | tr '\\n' ' '")


def refusals(worker: Worker) -> object:
    found = []
    for argv, cwd in ((["/nope"], "/"), (["true"], "/nope")):
        try:
            worker.spawn(argv, env=PATH, cwd=cwd)
        except OSError as error:
            found.append(error.errno)
    return found


def many(worker: Worker) -> object:
    """Spawns from many threads at once; each gets its own status."""
    statuses: dict[int, int] = {}

    def one(number: int) -> None:
        statuses[number] = worker.spawn(["sh", "-c", f"exit {number}"], env=PATH).wait()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses == {number: number for number in range(60)}


def large(worker: Worker) -> object:
    """Arguments beyond any socket's packet size."""
    words = ["x" * 100_000] * 8
    return worker.spawn(["sh", "-c", 'test "${#8}" = 100000', "sh", *words], env=PATH).wait()


def kill(worker: Worker) -> object:
    reader, writer = os.pipe()
    child = worker.spawn(["sh", "-c", "sleep 1000 & echo up; wait"], env=PATH, fds={1: writer})
    os.close(writer)
    with os.fdopen(reader) as source:
        source.readline()
        child.kill(9)
        rest = source.read()  # ends when the background process is dead too
    return [rest, child.wait(10)]


def daemons(worker: Worker) -> object:
    """Orphans are reaped by init, also those of a session of their own."""
    worker.spawn(["sh", "-c", "setsid sh -c 'sleep 0.01' & exit 0"], env=PATH).wait()
    return output(worker, "until ! grep -ls '^State:.Z' /proc/[0-9]*/status; do :; done; echo clean")


def propagation(worker: Worker) -> object:
    """A mount that the worker makes later is seen by steps."""
    path = os.path.join(worker.runtime_path, "mounted")
    os.mkdir(path)
    mounts.tmpfs(path)
    with open(os.path.join(path, "file"), "w") as target:
        target.write("seen")
    return output(worker, f"cat '{path}/file'")


def locks(worker: Worker) -> object:
    """Init holds no lock of the worker's."""
    path = os.path.join(worker.runtime_path, "lock")
    first = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX)
    os.close(first)
    second = os.open(path, os.O_RDWR)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def many_layers(worker: Worker) -> object:
    """400 lower directories with awkward names, whiteouts, and a copied-up directory."""
    base = os.path.join(worker.runtime_path, "over,lay: \\x")
    lowers = []
    for number in range(400):
        path = os.path.join(base, f"l,{number}:" + "x" * (240 if number % 50 == 0 else 0))
        os.makedirs(os.path.join(path, "d"))
        with open(os.path.join(path, "d", f"f{number}"), "w") as target:
            target.write(str(number))
        lowers.append(path)
    upper, work, merged = (os.path.join(base, name) for name in ("u", "w", "m"))
    for path in (upper, work, merged):
        os.mkdir(path)
    mounts.overlay(lowers, upper, work, merged)
    count = len(os.listdir(os.path.join(merged, "d")))
    os.unlink(os.path.join(merged, "d", "f7"))
    left = len(os.listdir(os.path.join(merged, "d")))
    whiteout = os.lstat(os.path.join(upper, "d", "f7"))
    mounts.unmount(merged)
    mounts.overlay(lowers[:1], None, None, merged)
    try:
        os.mkdir(os.path.join(merged, "new"))
        writable = True
    except OSError:
        writable = False
    return [count, left, whiteout.st_rdev, writable]


def overlay_refused(worker: Worker) -> object:
    """proc is no upper file system."""
    merged = os.path.join(worker.runtime_path, "m")
    os.mkdir(merged)
    mounts.overlay(["/usr"], "/proc/self", "/proc/self/attr", merged)
    return None


def user_error(worker: Worker) -> object:
    raise UserError.of("some-code", "some message", details={"n": 1})


def bug(worker: Worker) -> object:
    raise ZeroDivisionError


def exits(worker: Worker) -> object:
    os._exit(9)


def big(worker: Worker) -> object:
    return "x" * 5_000_000


store, name = sys.argv[1:3]
try:
    found = run_in_worker(lambda worker: json.dumps(globals()[name](worker)).encode(), store_root_path=store)
    print(found.decode())
except ArkwrightError as error:
    print(json.dumps({"code": error.code, "details": error.details, "exit": error.exit_code}))
