"""One build as a straight line: request, contexts, front end, solver, exporters, receipt.

P0, the process that the user started, compiles, computes keys and answers what is cached. The
first miss forks the worker (see `linux.worker`), which solves and makes blobs; P0 stays to show
progress, keep the journal and pass signals on, and writes the outputs. A fully cached build never
leaves P0.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from arkwright.build.compile import Compiled, compile_request
from arkwright.build.export import Exports
from arkwright.build.means import Means, open_means
from arkwright.build.request import BuildRequest, Receipt
from arkwright.build.session import SessionInputs
from arkwright.events.journal import Journal, journal_path
from arkwright.events.stream import EventStream
from arkwright.exporters.base import BuiltImage, ExportReport
from arkwright.ops.contexts import ContextReader
from arkwright.ops.result import LayeredResult
from arkwright.ops.source import Pins
from arkwright.solver.dedupe import Claims
from arkwright.solver.result import Result
from arkwright.solver.solver import Solver, Totals
from arkwright.store.leases import Lease
from arkwright.store.space import space_needed

if TYPE_CHECKING:
    from arkwright.linux.worker import Worker


def build(
    request: BuildRequest, session: SessionInputs, stream: EventStream, store_root_path: str
) -> Receipt:
    """Run one build and say what it made.

    The calling process must have one thread. Raises every `ArkwrightError` there is; what was
    done until then is in the store and counts for the next build.
    """
    started = time.monotonic()
    with open_means(store_root_path, session, stream, scrub=request.scrub) as means:
        with Journal(journal_path(means.store.root_path, stream.build)) as journal:
            stream.subscribe(journal, first=True)
            line = _Line(request, session, compile_request(request, means))
            if line.cached(means):
                return line.finish(means, started)
            # What was looked up must outlive the moments in which no store is open.
            with Lease(os.path.join(means.store.root_path, "lock")) as lease:
                lease.share()
                line.in_worker(means)
                with open_means(store_root_path, session, stream) as after:
                    return line.finish(after, started)


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker hands back: layers by platform, tree outputs, counts."""

    results: tuple[tuple[str, ...], ...]
    reports: tuple[ExportReport, ...]
    totals: Totals
    tiers: tuple[str, ...]


class _Line:
    """The line from the compiled request on, across the fork."""

    def __init__(self, request: BuildRequest, session: SessionInputs, compiled: Compiled) -> None:
        self._request = request
        self._session = session
        self._compiled = compiled
        self._pins = Pins()
        self._readers: dict[str, ContextReader] = {}
        self._solver: Solver | None = None
        self._work: _Work | None = None

    def cached(self, means: Means) -> bool:
        """Whether every target is in the cache, and no output needs the worker."""
        resolver = means.resolver(self._compiled.contexts, self._pins, self._readers)
        claims = Claims(os.path.join(means.store.root_path, "claims"), means.stream.build)
        self._solver = Solver(resolver, means.records, means.stream, means.stream.build, claims)
        results: list[tuple[str, ...]] = []
        for image in self._compiled.images:
            found = self._solver.cached(image.definition)
            if found is None and image.definition.target is not None:
                return False
            results.append(_layers(found))
        if self._exports(tuple(results)).need_worker(means):
            return False
        self._work = _Work(results=tuple(results), reports=(), totals=self._solver.totals, tiers=())
        return True

    def in_worker(self, means: Means) -> None:
        """Solve in the worker process, and make there what outputs need."""
        from arkwright.linux.worker import run_in_worker

        root_path, build_id = means.store.root_path, means.stream.build

        def body(worker: Worker) -> bytes:
            stream = EventStream(build_id)
            stream.subscribe(lambda event: worker.report(msgspec.msgpack.encode(event)))
            with open_means(
                root_path, self._session, stream, worker=worker, scrub=self._request.scrub
            ) as inside:
                # What earlier builds threw away is deleted beside this one, never on its path.
                threading.Thread(target=inside.store.empty_trash, name="trash", daemon=True).start()
                with space_needed(root_path, "the build"):
                    return msgspec.msgpack.encode(self._solve(inside, worker))

        means.suspend()
        data = run_in_worker(body, store_root_path=root_path, on_report=means.stream.relay)
        self._work = msgspec.msgpack.decode(data, type=_Work)

    def _solve(self, means: Means, worker: Worker) -> _Work:
        from arkwright.solver.scheduler import Scheduler

        assert self._solver is not None
        self._solver.rebind(
            means.resolver(self._compiled.contexts, self._pins, self._readers), means.records, means.stream
        )
        means.step_env = self._compiled.step_env
        means.isolation = self._request.isolation
        with Scheduler(self._request.jobs, worker.cancelled) as scheduler:
            found = self._solver.solve([image.definition for image in self._compiled.images], scheduler)
        results = tuple(_layers(result) for result in found)
        reports = self._exports(results).in_worker(means)
        return _Work(results=results, reports=reports, totals=self._solver.totals, tiers=means.tiers())

    def finish(self, means: Means, started: float) -> Receipt:
        """Write the outputs that remain, and sum up."""
        work = self._work
        assert work is not None
        means.adopt(self._pins)
        outcome = self._exports(work.results).finish(means, work.reports)
        return Receipt(
            build=means.stream.build,
            digest=outcome.digest,
            config_digest=outcome.config_digest,
            exports=tuple(msgspec.Raw(msgspec.json.encode(report)) for report in outcome.reports),
            profile=outcome.profile,
            duration_s=time.monotonic() - started,
            steps_run=work.totals.run,
            steps_cached=work.totals.cached,
            tiers=work.tiers,
        )

    def _exports(self, results: tuple[tuple[str, ...], ...]) -> Exports:
        built = tuple(
            BuiltImage(platform=image.platform, layers=layers, config=image.config)
            for image, layers in zip(self._compiled.images, results, strict=True)
        )
        return Exports(self._request, built, self._compiled.epoch)


def _layers(result: Result | None) -> tuple[str, ...]:
    return result.layers if isinstance(result, LayeredResult) else ()


def new_build_id() -> str:
    """A name for a build: sortable by time, unique."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(4).hex()
