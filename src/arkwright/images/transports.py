"""Stores of other tools: an image goes into docker or podman through their `load`, and comes out of
them through their `save`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, cast

from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported, UserError
from arkwright.images.archives import Images, write_docker_archive
from arkwright.store.content import ContentStore

_ENGINES = ("docker", "podman")
# Without --uncompressed: with it, podman 4 still says of layers that came compressed that they are.
_SAVE = {"docker": ("save",), "podman": ("save", "--quiet", "--format", "oci-archive")}


def find_engine(preferred: str = "") -> str:
    """The engine to load into: `preferred`, $ARKWRIGHT_LOAD_INTO, else docker if its daemon
    answers, else podman, else docker.

    Raises `HostUnsupported` `no-container-engine`.
    """
    wanted = preferred or os.environ.get("ARKWRIGHT_LOAD_INTO", "")
    found = [name for name in ((wanted,) if wanted else _ENGINES) if shutil.which(name) is not None]
    if len(found) > 1 and not _answers(found[0]):
        return found[1]
    if found:
        return found[0]
    raise HostUnsupported.of(
        "no-container-engine",
        f"{wanted} is not installed" if wanted else "neither docker nor podman is installed",
        hint="write an archive instead: --output type=docker,dest=image.tar",
        details={"probe": "docker, podman", "fix": "apt install podman"},
    )


def _answers(name: str) -> bool:
    """Whether an engine's client reaches its daemon."""
    try:
        done = subprocess.run([name, "version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def load_into(content: ContentStore, images: Images, engine: str = "") -> str:
    """Stream images into docker or podman; returns the engine's name.

    Raises `HostUnsupported` `no-container-engine`, `UserError` `load-failed`.
    """
    name = find_engine(engine)
    # What the engine says goes to a file: a pipe that nobody reads could fill up and stall it.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([name, "load"], stdin=subprocess.PIPE, stdout=said, stderr=said)
        assert process.stdin is not None
        try:
            write_docker_archive(content, images, process.stdin.write)
            process.stdin.close()
        except BrokenPipeError:
            pass
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            _close_quietly(process)
        if process.wait():
            said.seek(0)
            raise UserError.of(
                "load-failed",
                f"`{name} load` failed with status {process.returncode}",
                notes=tuple(said.read().decode(errors="replace").splitlines()[-5:]),
                hint=f"check that `{name} info` works for this user",
            )
    return name


@contextmanager
def saved_by(engine: str, name: str) -> Iterator[BinaryIO]:
    """The archive that `podman save` or `docker save` makes of an image, as a stream.

    `name` is passed on as the user wrote it: each engine completes short names in its own way.
    Raises `HostUnsupported` `no-container-engine`, `UserError` `save-failed`, which wins over what
    the body makes of an archive that breaks off.
    """
    program = find_engine(engine)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [program, *_SAVE[engine], "--", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert process.stdout is not None
        stream = cast(BinaryIO, process.stdout)
        try:
            yield stream
            while stream.read(1 << 20):
                pass
        except UserError as error:
            if not stream.read(1) and process.wait():
                raise _save_failed(program, name, process.returncode, said) from error
            process.kill()
            raise
        except BaseException:
            process.kill()
            raise
        finally:
            stream.close()
            process.wait()
        if process.returncode:
            raise _save_failed(program, name, process.returncode, said)


def _save_failed(program: str, name: str, status: int, said: IO[bytes]) -> ArkwrightError:
    said.seek(0)
    return UserError.of(
        "save-failed",
        f"`{program} save {name}` failed with status {status}",
        notes=tuple(said.read().decode(errors="replace").splitlines()[-5:]),
        hint=f"`{program} images` lists what it has",
    )


def _close_quietly(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        # The engine left early; its status tells why.
        return
