"""The two ways to check: an image against a rebuild from its record, and a build against itself."""

from __future__ import annotations

import calendar
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec

from arkwright.attest import provenance, statement
from arkwright.attest.provenance import BuildFacts
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import ArkwrightError, Denied
from arkwright.images.fetch import fetch_entry
from arkwright.images.places import Place
from arkwright.images.references import describe
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.registry.access import Access
from arkwright.store.store import Store
from arkwright.verify import variation
from arkwright.verify.causes import Window, cause
from arkwright.verify.claims import Claim
from arkwright.verify.compare import compare_images, plain_digests
from arkwright.verify.inputs import Given, Inputs, moved, of_request, prepared
from arkwright.verify.rebuild import Built, Rebuilt, World, imported
from arkwright.verify.recorded import Recorded, read_recorded
from arkwright.verify.report import FileDifference, ImageDifference, Report
from arkwright.verify.trace import traced

_DAY_S = 86_400
_PAUSE_S = 1.1


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How to go about it. `user` builds when root verifies; `progress` is how builds show theirs."""

    user: str = ""
    progress: str = "none"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found, and of what."""

    report: Report
    recorded: Recorded
    digest: str


def verify_image(
    store: Store, digest: str, place: Place | None, claim: Claim, given: Given, wishes: Wishes, access: Access
) -> Verified:
    """Build an image again from its record, and compare.

    `digest` is that of its index or manifest; what is in the store or at `place` is looked into if it differs.
    Raises `Denied` `record-of-another`, `input-mismatch`, `weak-digest`, `record-refused`; and what preparing the
    inputs and building raise.
    """
    recorded = read_recorded(claim.data, trusted=claim.trusted)
    wanted = plain_digests(store, described) if (described := describe_if_here(store, digest)) else {digest}
    if not wanted & set(recorded.digests):
        raise Denied.of(
            "record-of-another", f"the provenance is of {recorded.digests[0]}, not of {digest}",
            hint="it was copied from another image, or the image was changed afterwards",
            details={"rule": "record", "evidence": digest},
        )  # fmt: skip
    given = msgspec.structs.replace(given, contexts={**_there(claim.contexts), **given.contexts})
    with scratch() as work_path:
        inputs = prepared(store, recorded, given, work_path, access)
        world, notes = _strange_world(inputs, wishes, work_path)
        with removed(world):
            time.sleep(max(0.0, min(_PAUSE_S, _moment(recorded.finished) + _PAUSE_S - time.time())))
            rebuilt = world.build()
            fitting = [one for one in rebuilt.images if one.root.digest in wanted]
            report = Report(
                identical=bool(fitting), old=digest, new=(fitting or rebuilt.images)[0].root.digest, notes=notes,
                worlds={name: ("as recorded", value) for name, value in world.variation.describe().items()},
                moved_inputs=tuple(moved(recorded.sources, sources_of(rebuilt.facts))),
            )  # fmt: skip
            if not report.identical:
                report = _compared(store, digest, place, rebuilt, report, _window(recorded), access)
                if report.moved_inputs or recorded.gaps:
                    report = _blaming_inputs(report)
    return Verified(report=report, recorded=recorded, digest=digest)


@contextmanager
def record_inputs(
    store: Store, claim: Claim, given: Given, access: Access
) -> Iterator[tuple[Recorded, Inputs]]:
    """What a record says, and its inputs as they are now, checked to be those.

    Raises `Denied` `input-mismatch`, and what `verify.inputs.prepared` raises.
    """
    recorded = read_recorded(claim.data, trusted=claim.trusted)
    given = msgspec.structs.replace(given, contexts={**_there(claim.contexts), **given.contexts})
    with scratch() as work_path:
        inputs = prepared(store, recorded, given, work_path, access, build=False)
        check_contexts(recorded, inputs)
        yield recorded, inputs


def check_contexts(recorded: Recorded, inputs: Inputs) -> None:
    """Raise `Denied` `input-mismatch` when a context is not what the build read."""
    if not inputs.contexts:
        return
    with scratch() as work_path:
        world = World(inputs, variation.plain("copy"), work_path)
        with removed(world):
            found = world.observed()
    here = {one.name: one.digest for one in found.sources}
    for source in recorded.sources:
        if source.name in here and here[source.name] != source.digest:
            raise Denied.of(
                "input-mismatch", f"the {source.name} is not what the build read",
                hint="say where it is as it was: --context DIR", details={"rule": "input", "evidence": source.name},
            )  # fmt: skip


def check_reproducible(
    store: Store, request: BuildRequest, session: SessionInputs, wishes: Wishes, access: Access
) -> Report:
    """Build a request twice, in two worlds, and compare.

    Raises what building raises.
    """
    began = time.time()
    with scratch() as work_path:
        inputs = of_request(store, request, session, work_path, access)
        first = World(inputs, variation.plain(), work_path, wishes.progress)
        second, notes = _strange_world(inputs, wishes, work_path)
        with removed(first), removed(second):
            one = first.build()
            # Whatever tells the time in seconds must tell another one.
            time.sleep(_PAUSE_S)
            other = second.build()
            pairs = list(zip(one.images, other.images, strict=True))
            differing = [pair for pair in pairs if pair[0].root.digest != pair[1].root.digest]
            old, new = (differing or pairs)[0]
            report = Report(
                identical=not differing, old=old.root.digest, new=new.root.digest, notes=notes,
                worlds=_worlds(first, second),
                moved_inputs=tuple(moved(sources_of(one.facts), sources_of(other.facts))),
            )  # fmt: skip
            if report.identical:
                return report
            window = Window(began, time.time())
            report = _side_by_side(store, old, new, report, window)
            report = traced(store, report, (first, second), inputs.stages, window)
            if any(report.files()) and inputs.contexts:
                report = _without_moved_times(store, report, inputs, second.variation, old, work_path, wishes)
    return report


def sources_of(facts: BuildFacts) -> tuple[statement.ResourceDescriptor, ...]:
    """What a build used, as its statement says it."""
    definition = provenance.predicate(facts, "max")["buildDefinition"]
    return msgspec.convert(definition["resolvedDependencies"], type=tuple[statement.ResourceDescriptor, ...])


def describe_if_here(store: Store, digest: str) -> Descriptor | None:
    """What a digest of the store is; None when it is not there."""
    return describe(store.content, digest) if store.content.has(digest) else None


@contextmanager
def scratch() -> Iterator[str]:
    """A directory that other users may pass through, gone afterwards, also when the user wants an end."""
    path = tempfile.mkdtemp(prefix="arkwright-verify-")
    os.chmod(path, 0o711)
    with _interruptible():
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP are like Ctrl-C while the body runs."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def removed(world: World) -> Iterator[None]:
    """Remove a world afterwards."""
    try:
        yield
    finally:
        world.remove()


def _strange_world(inputs: Inputs, wishes: Wishes, work_path: str) -> tuple[World, tuple[str, ...]]:
    """The other world, and what could not be made different there."""
    notes = []
    uid = variation.other_user(wishes.user)
    if not inputs.movable or not variation.reads_the_program(uid):
        uid = os.geteuid()
    if uid == os.geteuid():
        notes.append(
            "the user was the same: another one needs root, subordinate ids, and to read program and inputs"
        )
    if len(os.sched_getaffinity(0)) == 1:
        notes.append("the number of cores was the same: this host has but one")
    return World(inputs, variation.strange(uid), work_path, wishes.progress), tuple(notes)


def _worlds(first: World, second: World) -> dict[str, tuple[str, str]]:
    here, there = first.variation.describe(), second.variation.describe()
    return {name: (here[name], there[name]) for name in here}


def _there(contexts: Mapping[str, str]) -> dict[str, str]:
    """The directories that a journal tells and that are there."""
    return {name: path for name, path in contexts.items() if os.path.isdir(path)}


def _compared(
    store: Store,
    digest: str,
    place: Place | None,
    rebuilt: Rebuilt,
    report: Report,
    window: Window,
    access: Access,
) -> Report:
    """The report with what differs, if the image can be looked into."""
    try:
        if place is not None and place.transport != "store":
            original = plain(fetch_entry(store, place, access=access))
        else:
            found = describe_if_here(store, digest)
            if found is None:
                note = "the image itself is not here, so nothing can be said of how it differs"
                return msgspec.structs.replace(report, notes=(*report.notes, note))
            original = found
    except ArkwrightError as error:
        return msgspec.structs.replace(report, notes=(*report.notes, f"the image cannot be read: {error}"))
    nearest = _nearest(store, original, rebuilt)
    return _differences(store, original, nearest, report, window)


def _nearest(store: Store, original: Descriptor, rebuilt: Rebuilt) -> Built:
    """Of several images, that with the most blobs of the original."""
    from arkwright.images.graph import closure

    known = {blob.digest for blob in closure(store.content, original)}

    def shared(one: Built) -> int:
        return sum(blob.digest in known for blob in closure(store.content, imported(store, one)))

    return max(rebuilt.images, key=shared)


def _side_by_side(store: Store, old: Built, new: Built, report: Report, window: Window) -> Report:
    return _differences(store, imported(store, old), new, report, window)


def _differences(store: Store, old: Descriptor, new: Built, report: Report, window: Window) -> Report:
    root = imported(store, new)
    found = compare_images(store, old, root, window)
    return msgspec.structs.replace(report, new=root.digest, index=found.index, images=found.images)


def _without_moved_times(
    store: Store, report: Report, inputs: Inputs, strange: variation.Variation, old: Built, work_path: str,
    wishes: Wishes,
) -> Report:  # fmt: skip
    """A third build, in the second world but with the times of the first: what is now as in the first depends on them."""
    kept = msgspec.structs.replace(strange, name="times as they are", moved_times=False)
    world = World(inputs, kept, work_path, wishes.progress)
    with removed(world):
        third = next(one for one in world.build().images if one.target == old.target)
        window = Window(time.time() - _DAY_S, time.time())
        again = compare_images(store, imported(store, old), imported(store, third), window)
    still = {file.path for image in again.images for layer in image.layers for file in layer.files}
    # What was added or removed may have a name that is never the same.
    settled = {file.path for file in report.files() if file.kind == "changed"} - still
    if not settled:
        return report

    def told(file: FileDifference) -> FileDifference:
        if file.path not in settled:
            return file
        others = (one for one in file.causes if one.rule != "unknown")
        return msgspec.structs.replace(file, causes=(cause("context-times"), *others))

    return msgspec.structs.replace(
        report,
        times_matter=tuple(sorted(settled)),
        images=tuple(_each_file(one, told) for one in report.images),
    )


def _blaming_inputs(report: Report) -> Report:
    """Where no rule fits, inputs that were others, or that nobody knows, are the likely cause; of what was copied they
    always are when they were others."""

    def told(file: FileDifference) -> FileDifference:
        copied = bool(report.moved_inputs) and file.step.startswith(("COPY", "ADD"))
        if not copied and {one.rule for one in file.causes} - {"unknown"}:
            return file
        return msgspec.structs.replace(file, causes=(cause("other-input"),))

    return msgspec.structs.replace(report, images=tuple(_each_file(one, told) for one in report.images))


def _each_file(image: ImageDifference, change: Callable[[FileDifference], FileDifference]) -> ImageDifference:
    layers = tuple(
        msgspec.structs.replace(layer, files=tuple(map(change, layer.files))) for layer in image.layers
    )
    return msgspec.structs.replace(image, layers=layers)


def _window(recorded: Recorded) -> Window:
    """From the recorded beginning to now; a beginning that is no time is taken for a day ago."""
    now = time.time()
    began = _moment(recorded.started) or now - _DAY_S
    return Window(min(began, now), now)


def _moment(text: str) -> float:
    """Seconds since 1970; 0 for what is no time."""
    with suppress(ValueError):
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    return 0.0
