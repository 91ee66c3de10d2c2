"""The append-only record of one build: one JSON object per line, one `write` per event.

The file is opened with `O_APPEND` and its descriptor is carried over `fork`, so that every process
of a build writes to the same record. Nothing secret is ever in an event (see `events.types`), so
nothing secret is here. The lines are the events of `events.types` as msgspec encodes them: the
key `event` comes first and names the kind; bytes are base64.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from types import TracebackType

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.events.types import AnyEvent

# Inside a JSON string a quote is escaped, so this can only be the beginning of a line that was
# written after a torn one.
_BEGINNING = b'{"event":"'


def journal_path(store_root_path: str, build: str) -> str:
    """Where the journal of a build is kept in a store."""
    return os.path.join(store_root_path, "history", build, "journal.jsonl")


class Journal:
    """A subscriber that records each event; the first subscriber of every build's stream.

    A full or failing disk must not hide the build's own error: the first failed write is kept in
    `error`, and nothing is recorded after it.
    """

    def __init__(self, path: str) -> None:
        """Create the file and its parents, readable by the owner only.

        Raises `UserError` `unwritable-journal`.
        """
        self.path = path
        self.error: OSError | None = None
        self._encoder = msgspec.json.Encoder()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._fd = os.open(path, flags, 0o600)
            # Held until the last process of the build is gone: a build without an end that
            # nobody holds was killed.
            fcntl.flock(self._fd, fcntl.LOCK_SH)
        except OSError as error:
            raise UserError.of(
                "unwritable-journal",
                f"cannot write the build's journal {path}: {error.strerror}",
                hint="choose a store that you can write to with --root or ARKWRIGHT_ROOT",
            ) from error

    def __call__(self, event: AnyEvent) -> None:
        if self.error is not None or self._fd < 0:
            return
        line = self._encoder.encode(event) + b"\n"
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close this process' descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_written(path: str) -> bool:
    """Whether a build still writes this journal."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_journal(path: str) -> Iterator[AnyEvent]:
    """The events of a journal, in the order in which they were written.

    A line that a killed process left unfinished is left out, at the end or before the lines that
    another process wrote after it; so are events of kinds that a later version added.
    Raises `UserError` `missing-journal`, or `corrupt-journal` naming the line.
    """
    decoder = msgspec.json.Decoder(AnyEvent)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError.of("missing-journal", f"cannot read the journal {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            event = _decode(decoder, line, f"{path}, line {number}")
            if event is not None:
                yield event


def _decode(decoder: msgspec.json.Decoder[AnyEvent], line: bytes, place: str) -> AnyEvent | None:
    try:
        return decoder.decode(line)
    except msgspec.MsgspecError as error:
        resumed = line.rfind(_BEGINNING)
        if resumed > 0:
            return _decode(decoder, line[resumed:], place)
        if _is_unknown_kind(line):
            return None
        raise UserError.of("corrupt-journal", f"{place} is not an event: {error}") from error


class _Kind(msgspec.Struct):
    event: str


def _is_unknown_kind(line: bytes) -> bool:
    try:
        kind = msgspec.json.decode(line, type=_Kind).event
    except msgspec.MsgspecError:
        return False
    return kind not in {cls.__struct_config__.tag for cls in AnyEvent.__args__}
