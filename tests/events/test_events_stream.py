"""The stream: order, stamps, coalescing, and events of another process."""

import threading

import msgspec
import pytest

from arkwright.events.stream import EventStream
from arkwright.events.types import AnyEvent, Declared, Log, Progress


def recorded() -> tuple[EventStream, list[AnyEvent]]:
    stream, seen = EventStream("b1"), []
    stream.subscribe(seen.append)
    return stream, seen


def test_events_are_stamped_and_numbered() -> None:
    stream, seen = recorded()
    stream.emit(Declared(vertex="v", name="n"))
    stream.emit(Log(vertex="v", fd=1, data=b"x"))
    assert [event.seq for event in seen] == [1, 2]
    assert {event.build for event in seen} == {"b1"}
    assert seen[0].at > 0
    assert seen[0].mono <= seen[1].mono


def test_the_first_subscriber_sees_an_event_before_the_others() -> None:
    stream = EventStream("b")
    order: list[str] = []
    stream.subscribe(lambda event: order.append("view"))
    stream.subscribe(lambda event: order.append("journal"), first=True)
    stream.emit(Declared(vertex="v", name="n"))
    assert order == ["journal", "view"]


def test_progress_is_coalesced_and_its_end_is_told() -> None:
    stream, seen = recorded()
    for done in range(1000):
        stream.emit(Progress(vertex="v", item="blob", done=done, total=1000))
    stream.emit(Progress(vertex="v", item="blob", done=1000, total=1000))
    stream.emit(Progress(vertex="v", item="other", done=1, total=1000))
    blob = [event.done for event in seen if isinstance(event, Progress) and event.item == "blob"]
    assert blob[0] == 0
    assert blob[-1] == 1000
    assert len(blob) < 1000
    assert any(isinstance(event, Progress) and event.item == "other" for event in seen)


def test_logs_are_never_dropped_and_never_interleave() -> None:
    stream, seen = recorded()

    def produce(name: str) -> None:
        for number in range(500):
            stream.emit(Log(vertex=name, fd=1, data=str(number).encode()))

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in seen] == list(range(1, 2001))
    for name in "abcd":
        own = [event.data for event in seen if isinstance(event, Log) and event.vertex == name]
        assert own == [str(number).encode() for number in range(500)]


def test_events_of_the_worker_keep_their_times_and_get_numbers_here() -> None:
    stream, seen = recorded()
    stream.emit(Declared(vertex="v", name="n"))
    stream.relay(msgspec.msgpack.encode(Log(vertex="v", fd=2, data=b"y", at=5, mono=6, seq=99)))
    event = seen[1]
    assert (event.seq, event.at, event.mono, event.build) == (2, 5, 6, "b1")
    with pytest.raises(msgspec.DecodeError):
        stream.relay(b"not an event")
