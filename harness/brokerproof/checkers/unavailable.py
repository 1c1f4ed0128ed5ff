"""How long nothing succeeded, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.fate import fate
from brokerproof.checkers.faulttimes import fault_times
from brokerproof.checkers.index import Index
from brokerproof.checkers.view import View
from brokerproof.finding import Count, Finding
from brokerproof.history import OK, Array

#: A pause between successes that is longer counts as an outage; shorter ones are batches, flushes, garbage collection.
GAP_NS = 1_000_000_000
#: Up to this many successes are simply sorted.
_SORTED_MAX = 1 << 21
#: More are put into this many bins.
_BINS = 1 << 20
#: Injections told apart in the details.
_FAULTS_MAX = 50


@checker(observations=("unavailable",))
def unavailable(index: Index) -> Finding:
    """Pauses of more than a second without a send that succeeded, between the first send and the last; counted are
    pauses. details: for each injection the time until sends succeeded and kept succeeding.

    metrics: ``longest_gap_s``; ``rto_s`` the longest of those times (absent where sends never came back for good
    before the load ended, or nothing was injected); ``rpo_count`` messages acknowledged and lost, ``rpo_s`` the time
    from the first such acknowledgement to the last, or to the injection that followed the first if that is later.
    O(sends), sorting only what lies beside the longest pauses.
    """
    sends = index.sends
    lost, faults = lost_span(index), fault_times(index)
    metrics: dict[str, float] = {"rpo_count": float(lost.count)}
    metrics["rpo_s"] = lost.seconds([at for at, what, _ in faults if what == "inject"])
    if not len(sends):
        return Finding(observations=found(unavailable=Count()), metrics=metrics)
    begun = sends.span("start_ns")
    gaps = pauses(index.acknowledgements, begun[0], max(begun[1], index.acknowledgements.greatest("end_ns")))
    metrics["longest_gap_s"] = round(max(gaps, default=0) / 1e9, 6)
    details: dict[str, Any] = {}
    injections = [(at, text) for at, what, text in faults if what == "inject"]
    if injections:
        outages = _outages(index, injections)
        details["injections"] = outages[:_FAULTS_MAX]
        times = [o["rto_s"] for o in outages]
        known = [t for t in times if t is not None]
        if known and len(known) == len(times):
            metrics["rto_s"] = max(known)
    count = sum(gap > GAP_NS for gap in gaps)
    return Finding(observations=found(unavailable=Count(count=count, details=details)), metrics=metrics)


def pauses(successes: View, first: int, last: int) -> list[int]:
    """Times between the ends of neighbouring successes, and to the borders: all above a second, else the longest.

    Many ends are first put into bins. A pause of two bins or more shows as an empty bin, and only the ends in the bins
    beside an empty one have to be sorted.
    """
    if not len(successes):
        return [max(0, last - first)]
    width = max(1, (last - first) // _BINS)
    if len(successes) > _SORTED_MAX and 2 * width < GAP_NS:
        filled = np.zeros(_BINS + 2, dtype=bool)
        for (ends,) in successes.chunks("end_ns"):
            filled[_bins(ends, first, width)] = True
        used = np.flatnonzero(filled)
        apart = np.flatnonzero(np.diff(used) > 2)
        # Without empty bins there is no pause worth the name: it is shorter than three millionths of the trial.
        return _across(successes, first, last, width, used, apart) if len(apart) else [3 * width]
    ordered = np.sort(np.clip(successes["end_ns"], first, last))
    return _longest(np.diff(np.concatenate([[first], ordered, [last]])))


def _bins(times: Array, first: int, width: int) -> Array:
    bins: Array = times - first
    bins //= width
    np.maximum(bins, 0, out=bins)
    np.minimum(bins, _BINS + 1, out=bins)
    return bins


def _across(successes: View, first: int, last: int, width: int, used: Array, apart: Array) -> list[int]:
    """The pauses over empty bins; ``apart`` are the places in ``used`` that two or more empty ones follow."""
    beside = np.zeros(_BINS + 2, dtype=bool)
    beside[used[apart]] = beside[used[apart + 1]] = True
    beside[used[[0, -1]]] = True
    near = []
    for (ends,) in successes.chunks("end_ns"):
        bins = _bins(ends, first, width)
        near.append(ends[beside[bins]])
    times = np.sort(np.clip(np.concatenate(near), first, last))
    bins = _bins(times, first, width)
    before = times[np.searchsorted(bins, used[apart], side="right") - 1]
    after = times[np.searchsorted(bins, used[apart + 1])]
    return _longest(np.concatenate([after - before, [times[0] - first, last - times[-1]]]))


def _longest(gaps: Array) -> list[int]:
    long = gaps[gaps > GAP_NS]
    return [int(gap) for gap in long] if len(long) else [int(gaps.max())]


def _outages(index: Index, injections: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """For each injection when it was, and how long until sends that were begun after it succeeded and kept on."""
    sends = index.sends
    began = injections[0][0]
    mine = sends.where((sends["start_ns"] >= began) | (sends["outcome"] != OK))
    # Of sends that began in the same instant the failed ones last, whatever the order of the rows.
    order = np.lexsort((mine["outcome"] != OK, mine["start_ns"]))
    start, end = mine["start_ns"][order], mine["end_ns"][order]
    fine = mine["outcome"][order] == OK
    # A pair of injections in the same instant shares the window that follows.
    moments = sorted({at for at, _ in injections})
    following = dict(zip(moments, [*moments[1:], None], strict=True))
    out = []
    for at, text in injections:
        until = following[at]
        low = int(np.searchsorted(start, at))
        high = len(start) if until is None else int(np.searchsorted(start, until))
        out.append(
            {
                "fault": text,
                "at_s": round(at / 1e9, 6),
                "rto_s": back_after(at, start[low:high], end[low:high], fine[low:high]),
            }
        )
    return out


def back_after(at: int, start: Array, end: Array, fine: Array) -> float | None:
    """Seconds until sends of this window (by start) were ok and kept being ok; None if that never came, or if nothing
    was sent. An outage ends with the first success of a send that began after the last one that was not ok, and after
    the last pause of more than a second between successes."""
    if not fine.any():
        return None
    bad = np.flatnonzero(~fine)
    tail = slice(int(bad[-1]) + 1, None) if len(bad) else slice(None)
    if not len(start[tail]):
        return None
    back = int(end[tail].min())
    times = np.sort(end[fine])
    before = np.concatenate([[at], times[:-1]])
    paused = np.flatnonzero(times - before > GAP_NS)
    if len(paused):
        back = max(back, int(times[paused[-1]]))
    return round(max(0, back - at) / 1e9, 6)


@dataclass(frozen=True, slots=True)
class LostSpan:
    """How many messages were lost, and when the first and the last of them were acknowledged, in ns."""

    count: int = 0
    first_ns: int = np.iinfo(np.int64).max
    last_ns: int = np.iinfo(np.int64).min

    def merge(self, other: LostSpan) -> LostSpan:
        return LostSpan(self.count + other.count, min(self.first_ns, other.first_ns), max(self.last_ns, other.last_ns))

    def seconds(self, injections: Sequence[int]) -> float:
        """From the first acknowledgement to the last, or to the injection that followed the first if that is later."""
        if not self.count:
            return 0.0
        after = [at for at in injections if at >= self.first_ns]
        return round((max([self.last_ns, *after[:1]]) - self.first_ns) / 1e9, 6)


def lost_span(index: Index) -> LostSpan:
    """Of all messages that were lost; whoever has judged the parts of a history lays it into ``index.kept``."""
    return index.once("lost span", lambda: _lost_span(index))


def _lost_span(index: Index) -> LostSpan:
    lost, rows = fate(index).lost, index.acknowledgements
    if not len(lost):
        return LostSpan()
    mine = rows["end_ns"][index.flags(lost)[rows.ids]]
    return LostSpan(len(lost), int(mine.min()), int(mine.max()))
