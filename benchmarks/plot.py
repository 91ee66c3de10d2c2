"""Ratios as an SVG picture, written by hand: the same results give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.sax.saxutils import escape

from benchmarks.goals import goal_of
from benchmarks.results import CANNOT, CaseResult, Results, Spread, number

WIDTH, LEFT, RIGHT, TOP = 860.0, 160.0, 790.0, 92.0
LANE, GAP, FOOT = 14.0, 8.0, 78.0
INK, FAINT, UNITY, GRID = "#222222", "#666666", "#888888", "#dddddd"
# Told apart by form as well as by colour; the colours are told apart by the colour-blind.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
FORMS = (
    "M{x} {y} m-4.5 0 a4.5 4.5 0 1 0 9 0 a4.5 4.5 0 1 0 -9 0 z",
    "M{x} {y} m-4 -4 h8 v8 h-8 z",
    "M{x} {y} m0 -5.5 l5.5 5.5 l-5.5 5.5 l-5.5 -5.5 z",
    "M{x} {y} m0 -5 l5 9 h-10 z",
)
# A ratio of nothing has no place on a logarithmic axis.
SMALLEST = 1e-4


def picture(results: Results) -> str:
    """An SVG document: for each case and peer the median ratio with its range, and the goal."""
    axis = _Axis(results)
    tall = LANE * max(1, len(results.peers))
    bottom = TOP + (tall + GAP) * len(results.cases)
    height = bottom + FOOT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" width="{WIDTH:g}"'
        f' height="{height:g}" font-family="sans-serif" font-size="12" fill="{INK}" role="img">',
        "<title>Wall time of Arkwright by that of each peer</title>",
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="#ffffff"/>',
        _text(20, 28, "Wall time: Arkwright / peer", size=17),
        *_legend(results),
        *axis.lines(bottom),
    ]
    for row, case in enumerate(results.cases):
        top = TOP + row * (tall + GAP)
        if row:
            lines.append(_line(20, top - GAP / 2, WIDTH - 20, top - GAP / 2, GRID))
        lines.append(_text(LEFT - 12, top + tall / 2 + 4, case.id, anchor="end"))
        lines += _case(case, results.peers, axis, top)
    lines += [
        _text((LEFT + RIGHT) / 2, bottom + 36, "ratio, logarithmic; left of 1: Arkwright is faster", anchor="middle"),
        _text(20, bottom + 62, _about(results), size=11, colour=FAINT),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


class _Axis:
    """A logarithmic axis over all that is drawn, from one of 1, 2, 5 × 10ⁿ to another."""

    def __init__(self, results: Results) -> None:
        values = [0.5, 2.0]
        for case in results.cases:
            for peer in case.peers:
                if ratio := _drawn(case, peer):
                    values += ratio
                    values += [goal_of(case.id).peers.get(peer, 1.0)]
        low, high = max(SMALLEST, min(values)), max(values)
        steps = [m * 10.0**n for n in range(-5, 7) for m in (1, 2, 5)]
        first = max(step for step in steps if step <= low * 1.000001)
        last = min((step for step in steps if step >= high * 0.999999), default=steps[-1])
        self.ticks = [step for step in steps if first <= step <= last]
        self.first, self.last = math.log10(first), math.log10(last)

    def x(self, value: float) -> float:
        part = (math.log10(max(value, SMALLEST)) - self.first) / (self.last - self.first)
        return LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, part))

    def lines(self, bottom: float) -> Iterator[str]:
        for tick in self.ticks:
            x, one = self.x(tick), abs(tick - 1) < 1e-9
            yield _line(x, TOP - 6, x, bottom, UNITY if one else GRID, 1.5 if one else 1)
            yield _text(x, bottom + 16, f"{tick:g}", size=11, anchor="middle")


def _drawn(case: CaseResult, peer: str) -> Spread | None:
    measured = case.contestants.get(peer)
    if measured is None or measured.failure or case.ours.failure:
        return None
    return case.wall_ratio(peer)


def _case(case: CaseResult, peers: list[str], axis: _Axis, top: float) -> Iterator[str]:
    for lane, peer in enumerate(peers):
        y, colour = top + LANE * (lane + 0.5), COLOURS[lane % len(COLOURS)]
        ratio = _drawn(case, peer)
        if ratio is None:
            yield _text(WIDTH - 20, y + 3.5, _why(case, peer), size=10, colour=FAINT, anchor="end")
            continue
        low, middle, high = ratio
        goal = goal_of(case.id).peers.get(peer)
        yield _line(axis.x(low), y, axis.x(high), y, colour, 1.5)
        for end in (low, high):
            yield _line(axis.x(end), y - 3, axis.x(end), y + 3, colour, 1.5)
        if goal is not None:
            yield _line(axis.x(goal), y - 6, axis.x(goal), y + 6, INK, 2.5)
        missed = goal is not None and middle > goal and case.scale == 1
        yield _mark(lane, axis.x(middle), y, colour, hollow=missed)
        yield _text(WIDTH - 20, y + 3.5, number(middle), size=10, colour=colour, anchor="end")
    if not peers:
        yield _text(LEFT + 8, top + LANE / 2 + 4, "no peer", size=10, colour=FAINT)


def _why(case: CaseResult, peer: str) -> str:
    if case.skipped:
        return "skipped"
    failure = case.contestants[peer].failure if peer in case.contestants else ""
    if failure or case.ours.failure:
        return "cannot" if failure == CANNOT else "failed"
    return "not measured"


def _legend(results: Results) -> Iterator[str]:
    x = 24.0
    for lane, peer in enumerate(results.peers):
        yield _mark(lane, x, 52, COLOURS[lane % len(COLOURS)])
        label = " ".join((peer, *results.versions.get(peer, ())[-1:]))
        yield _text(x + 10, 56, label)
        x += 40 + 6.6 * len(label)
    yield _line(24, 67, 24, 79, INK, 2.5)
    yield _text(34, 77, "goal; a hollow mark misses it. Mark: median of paired runs; whisker: least to most",
                size=11, colour=FAINT)  # fmt: skip


def _about(results: Results) -> str:
    about = results.machine
    where = (
        f"{about['cpus']} × {about['cpu']}, Linux {about['kernel']}, {about['file_system']}, {about['user']}"
    )
    scales = sorted({case.scale for case in results.cases} - {1})
    small = f"; sizes scaled by {', '.join(f'{scale:g}' for scale in scales)}" if scales else ""
    return f"{where}; {' and '.join(results.dates)}{small}"


def _mark(lane: int, x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    path = FORMS[lane % len(FORMS)].format(x=f"{x:.1f}", y=f"{y:.1f}")
    return f'<path d="{path}" fill="{"#ffffff" if hollow else colour}" stroke="{colour}" stroke-width="1.5"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}"/>'


def _text(
    x: float, y: float, text: str, *, size: float = 12, colour: str = INK, anchor: str = "start"
) -> str:
    how = f'font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {how}>{escape(text)}</text>'
