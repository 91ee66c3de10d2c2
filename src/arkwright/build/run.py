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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from arkwright.build.attesting import Attesting
from arkwright.build.closing import recorded
from arkwright.build.compile import Compiled, compile_request
from arkwright.build.export import Exports, Outcome
from arkwright.build.means import Means, open_means
from arkwright.build.observed import Seen, Told, facts_of, keep_facts, seen
from arkwright.build.request import BuildRequest, Receipt, TargetReceipt
from arkwright.build.scans import make_blobs, need_blobs, scanned
from arkwright.build.session import SessionInputs, key_agents
from arkwright.build.settled import Outcomes
from arkwright.build.upkeep import kept_up
from arkwright.cache.imports import Imports
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, Diagnostic, RemoteError
from arkwright.events.journal import Journal, journal_path
from arkwright.events.stream import EventStream
from arkwright.exporters.base import BuiltImage, ExportReport
from arkwright.exporters.outputs import check_platforms
from arkwright.ops.contexts import ContextReader
from arkwright.ops.result import LayeredResult
from arkwright.ops.source import Pins
from arkwright.solver.dedupe import Claims
from arkwright.solver.result import Resolver, Result
from arkwright.solver.solver import Solver, Totals
from arkwright.solver.state import key_of
from arkwright.store.leases import Lease
from arkwright.store.space import space_needed

_NO_STATUS = {"method": "", "url": "", "status": 0, "remote_code": "", "retryable": False, "attempts": 1}

if TYPE_CHECKING:
    from arkwright.attest.provenance import BuildFacts
    from arkwright.linux.emulation import Emulation
    from arkwright.linux.worker import Worker


Compile = Callable[[BuildRequest, Means], Compiled]


def build(
    request: BuildRequest,
    session: SessionInputs,
    stream: EventStream,
    store_root_path: str,
    compiler: Compile = compile_request,
) -> Receipt:
    """Run one build and say what it made; `compiler` makes its graphs.

    The calling process must have one thread. Raises every `ArkwrightError` there is; what was
    done until then is in the store and counts for the next build.
    """
    with (
        key_agents(session) as ready,
        open_means(store_root_path, ready, stream, scrub=request.scrub) as means,
    ):
        means.imports = Imports(means.layers, means.store.content, request.cache_from)
        with Journal(journal_path(means.store.root_path, stream.build)) as journal:
            stream.subscribe(journal, first=True)
            return recorded(
                request, stream, lambda: kept_up(means, lambda: _build(request, ready, means, compiler))
            )


def _build(request: BuildRequest, session: SessionInputs, means: Means, compiler: Compile) -> Receipt:
    started = time.monotonic()
    for part in request.parts():
        for output in part.outputs:
            check_platforms(output, len(set(part.platforms)))
    line = _Line(request, session, compiler(request, means), started)
    means.stream.subscribe(line.told)
    if line.cached(means):
        return line.finish(means, started)
    if line.runs_nothing(means):
        line.here(means)
        return line.finish(means, started)
    line.check_platforms(means)
    root_path, stream = means.store.root_path, means.stream
    # What was looked up must outlive the moments in which no store is open.
    with Lease(os.path.join(root_path, "lock")) as lease:
        lease.share()
        line.in_worker(means)
        with open_means(root_path, session, stream) as after:
            return line.finish(after, started)


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker hands back: layers by target and platform, tree outputs by target, counts,
    records for each image's config; `trouble` is what fails the build after its outputs."""

    results: tuple[tuple[str, ...], ...]
    reports: tuple[tuple[ExportReport, ...], ...]
    totals: Totals
    tiers: tuple[str, ...]
    inline: tuple[dict[str, int], ...] = ()
    trouble: tuple[Diagnostic, ...] = ()
    seen: Seen = Seen()


class _Line:
    """The line from the compiled request on, across the fork."""

    def __init__(
        self, request: BuildRequest, session: SessionInputs, compiled: Compiled, started: float
    ) -> None:
        self._request = request
        self._started = started
        self._session = session
        self._compiled = compiled
        self._pins = Pins()
        self._readers: dict[str, ContextReader] = {}
        self._solver: Solver | None = None
        self._work: _Work | None = None
        self._emulations: dict[str, Emulation] = {}
        self.told = Told()

    def cached(self, means: Means) -> bool:
        """Whether every target is in the cache, and no output needs the worker."""
        resolver = self._resolver(means)
        claims = Claims(os.path.join(means.store.root_path, "claims"), means.stream.build)
        self._solver = Solver(resolver, means.records, means.stream, means.stream.build, claims)
        results: list[tuple[str, ...]] = []
        for image in self._compiled.images:
            found = self._solver.cached(image.definition)
            if found is None and image.definition.target is not None:
                return False
            results.append(_layers(found))
        inline = self._inline(tuple(results))
        exports = self._exports(tuple(results), inline)
        if any(one.need_worker(means) for one in exports) or self._request.publishes():
            return False
        if need_blobs(means, self._scan_trees(tuple(results)), exports[0].profiles()[0]):
            return False
        none: tuple[tuple[ExportReport, ...], ...] = ((),) * len(exports)
        self._work = _Work(
            results=tuple(results), reports=none, totals=self._solver.totals, tiers=(), inline=inline,
            seen=seen(self._pins, self._readers, self._compiled.contexts),
        )  # fmt: skip
        return True

    def _resolver(self, means: Means) -> Resolver:
        """The resolver of this side; what is settled is not worked out again."""
        means.stamps = self._compiled.stamps
        resolver = means.resolver(self._compiled.contexts, self._pins, self._readers)
        if not self._compiled.settled:
            return resolver
        from arkwright.build.settled import SettledResolver

        return SettledResolver(resolver, self._compiled.settled)

    def runs_nothing(self, means: Means) -> bool:
        """Whether this process can do what is left by itself."""
        from arkwright.build.no_exec import runs_nothing

        assert self._solver is not None
        return runs_nothing([image.definition for image in self._compiled.images], self._solver, means)

    def here(self, means: Means) -> None:
        """Solve in this process, and make what outputs need."""
        from arkwright.build.no_exec import cancellable

        means.stay_alone(self._exports(((),) * len(self._compiled.images), ())[0].profiles()[0])
        with cancellable() as cancelled, self._bounded(means, cancelled):
            self._work = self._solve(means, cancelled)

    @contextmanager
    def _bounded(self, means: Means, cancelled: threading.Event) -> Iterator[None]:
        """Within the space there is, the store's quota, and the build's own limits."""
        from arkwright.build.quota import within_quota

        whole = self._request.limits.whole
        with (
            space_needed(means.store.root_path, "the build"),
            within_quota(means, cancelled),
            ExitStack() as stack,
        ):
            if whole is not None:
                from arkwright.build.bounds import within_bounds

                stack.enter_context(within_bounds(means, cancelled, whole, self._started))
            yield

    def check_platforms(self, means: Means) -> None:
        """Refuse steps for platforms that do not run here, before anything runs."""
        from arkwright.build.emulation import check_platforms

        assert self._solver is not None
        definitions = [image.definition for image in self._compiled.images]
        self._emulations = check_platforms(
            definitions, self._solver, means, may_import=bool(self._request.cache_from)
        )

    def in_worker(self, means: Means) -> None:
        """Solve in the worker process, and make there what outputs need."""
        from arkwright.linux.worker import run_in_worker
        from arkwright.sandbox.choice import plain_worker

        root_path, build_id = means.store.root_path, means.stream.build

        def body(worker: Worker) -> bytes:
            stream = EventStream(build_id)
            stream.subscribe(lambda event: worker.report(msgspec.msgpack.encode(event)))
            with open_means(
                root_path, self._session, stream, worker=worker, scrub=self._request.scrub
            ) as inside:
                inside.door = means.door
                # What earlier builds threw away is deleted beside this one, never on its path.
                threading.Thread(target=inside.store.empty_trash, name="trash", daemon=True).start()
                with self._bounded(inside, worker.cancelled):
                    return msgspec.msgpack.encode(self._solve(inside, worker.cancelled))

        means.suspend()
        own = [found for found in self._emulations.values() if found.emulator_path]
        data = run_in_worker(
            body, store_root_path=root_path, on_report=means.stream.relay, handlers=own,
            plain=plain_worker(self._request.isolation),
        )  # fmt: skip
        self._work = msgspec.msgpack.decode(data, type=_Work)

    def _solve(self, means: Means, cancelled: threading.Event) -> _Work:
        from arkwright.build.remotes import Remotes, attach_imports
        from arkwright.solver.scheduler import Scheduler, Weight

        assert self._solver is not None
        attach_imports(self._request, means, cancelled)
        self._solver.rebind(self._resolver(means), means.records, means.stream)
        means.step_env = self._compiled.step_env
        means.isolation, means.on_error = self._request.isolation, self._request.on_error
        means.emulations, means.limits = self._emulations, self._request.limits
        request, definitions = self._request, [image.definition for image in self._compiled.images]
        weights = {name: Weight(one.cpus, one.memory) for name, one in request.step_weights.items()}
        profile = self._exports(((),) * len(definitions), ())[0].profiles()[0]
        with Remotes(request, means, self._solver, definitions, profile, cancelled) as remotes:
            while True:
                try:
                    with Scheduler(
                        request.jobs, cancelled, memory=request.memory, weights=weights
                    ) as scheduler:
                        found = self._solver.solve(definitions, scheduler, keep_going=request.keep_going)
                    results = tuple(_layers(result) for result in found)
                    inline = self._inline(results)
                    reports = tuple(one.in_worker(means) for one in self._exports(results, inline))
                    make_blobs(means, self._scan_trees(results), profile)
                    break
                except ArkwrightError:
                    if cancelled.is_set() or not means.imports.take_lost():
                        raise
                    self._solver.restart()
            trouble = remotes.finish(results)
            if cancelled.is_set():
                raise Cancelled.of("cancelled", "the build was cancelled")
        return _Work(
            results=results, reports=reports, totals=self._solver.totals, tiers=means.tiers(),
            inline=inline, trouble=trouble,
            seen=seen(self._pins, self._readers, self._compiled.contexts, means.runtime()),
        )  # fmt: skip

    def _inline(self, results: tuple[tuple[str, ...], ...]) -> tuple[dict[str, int], ...]:
        """The records that go into each image's config."""
        assert self._solver is not None
        if not any(spec.type == "inline" for spec in self._request.cache_to):
            return ({},) * len(results)
        from arkwright.build.remotes import prefix_keys

        return tuple(prefix_keys(self._solver, layers) for layers in results)

    def finish(self, means: Means, started: float) -> Receipt:
        """Write the outputs that remain, and sum up."""
        work = self._work
        assert work is not None
        means.adopt(self._pins)
        exports = self._exports(work.results, work.inline)
        outcomes = [
            one.finish(means, done, self._attesting(means, number, one, started))
            for number, (one, done) in enumerate(zip(exports, work.reports, strict=True))
        ]
        assert self._solver is not None
        keys = {digest: key_of(state).digest for digest, state in self._solver.states.items()}
        self._compiled.done(means, Outcomes(keys, work.results, work.seen.sources))
        if work.trouble:
            raise RemoteError(*work.trouble, details=_NO_STATUS)
        if self._tells_facts():
            keep_facts(self._facts(means, outcomes, started), means.store.root_path, means.stream)
        targets = tuple(map(_receipt, self._request.parts(), outcomes))
        return Receipt(
            build=means.stream.build,
            digest=targets[0].digest,
            config_digest=targets[0].config_digest,
            exports=targets[0].exports,
            targets=targets,
            profile=outcomes[0].profile,
            duration_s=time.monotonic() - started,
            steps_run=work.totals.run,
            steps_cached=work.totals.cached,
            tiers=work.tiers,
        )

    def _tells_facts(self) -> bool:
        """Of builds of a Dockerfile, and of working containers when they become images."""
        makes_images = bool(self._compiled.contexts.dockerfile) or self._compiled.sources is not None
        return self._request.provenance != "none" and makes_images

    def _facts(self, means: Means, outcomes: list[Outcome], started: float) -> BuildFacts:
        assert self._work is not None
        return facts_of(
            means.stream.build, self._request, self._session, self._compiled, self._work.seen, self.told, outcomes,
            time.monotonic() - started,
        )  # fmt: skip

    def _attesting(self, means: Means, number: int, exports: Exports, started: float) -> Attesting:
        """What attaches statements to the images of one target."""
        wanted = self._request.attest
        if not self._tells_facts():
            wanted = msgspec.structs.replace(wanted, provenance=False)

        def describe(digests: tuple[str, ...]) -> BuildFacts:
            profile = exports.profiles()[0].name
            others = [Outcome(profile=profile)] * len(self._request.parts())
            others[number] = Outcome(digests=digests, profile=profile)
            return self._facts(means, others, started)

        assert self._work is not None
        first, count = sum(self._compiled.counts[:number]), self._compiled.counts[number]
        found = scanned(
            means, self._compiled.scans, self._scan_trees(self._work.results), exports.profiles()[0], first, count
        )  # fmt: skip
        return Attesting(wanted, means.store, describe, self._compiled.epoch, found)

    def _scan_trees(self, results: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        """What was made for package lists: it stands behind the images of the targets."""
        return results[sum(self._compiled.counts) :]

    def _exports(
        self, results: tuple[tuple[str, ...], ...], inline: tuple[dict[str, int], ...]
    ) -> list[Exports]:
        """The outputs of each target."""
        built = [
            BuiltImage(platform=image.platform, layers=layers, config=image.config, cache=cache)
            for image, layers, cache in zip(
                self._compiled.images, results, inline or ({},) * len(results), strict=True
            )
        ]
        found = []
        for part, count in zip(self._request.parts(), self._compiled.counts, strict=True):
            images, built = tuple(built[:count]), built[count:]
            found.append(
                Exports(
                    part, images, self._compiled.epoch, as_index=self._compiled.as_index,
                    only_trees=self._compiled.only_trees, stamps=self._compiled.stamps,
                )
            )  # fmt: skip
        return found


def _receipt(part: BuildRequest, outcome: Outcome) -> TargetReceipt:
    return TargetReceipt(
        target=part.target,
        names=part.names,
        digest=outcome.digest,
        config_digest=outcome.config_digest,
        exports=tuple(msgspec.Raw(msgspec.json.encode(report)) for report in outcome.reports),
    )


def _layers(result: Result | None) -> tuple[str, ...]:
    return result.layers if isinstance(result, LayeredResult) else ()


def new_build_id() -> str:
    """A name for a build: sortable by time, unique."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(4).hex()
