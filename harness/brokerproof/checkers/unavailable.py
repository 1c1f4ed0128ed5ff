"""How long nothing succeeded, and what that cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.faulttimes import fault_times
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding
from brokerproof.history import OK, Array

#: A pause between successes that is longer counts as an outage; shorter ones are batches, flushes, garbage collection.
GAP_NS = 1_000_000_000
#: Up to this many successes are simply sorted.
_SORTED_MAX = 1 << 21
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
    metrics: dict[str, float] = {"rpo_count": float(len(index.fate.lost))}
    faults = fault_times(index)
    metrics["rpo_s"] = _lost_time(index, [at for at, what, _ in faults if what == "inject"])
    if not len(sends):
        return Finding(observations=found(unavailable=Count()), metrics=metrics)
    ends = index.acknowledgements["end_ns"]
    first, last = int(sends["start_ns"].min()), max(int(sends["start_ns"].max()), int(ends.max(initial=0)))
    gaps = pauses(ends, first, last)
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


def pauses(times: Array, first: int, last: int) -> list[int]:
    """Times between neighbouring successes, and to the borders: all above a second, and in any case the longest.

    Many times are first put into bins. A pause of two bins or more shows as an empty bin, and only the times in the
    bins beside an empty one have to be sorted.
    """
    if not len(times):
        return [max(0, last - first)]
    if len(times) > _SORTED_MAX and last > first:
        width = max(1, (last - first) // (1 << 20))
        bins = (times - first) // width
        np.clip(bins, 0, (1 << 20) + 1, out=bins)
        filled = np.bincount(bins, minlength=(1 << 20) + 2) > 0
        beside = np.zeros(len(filled), dtype=bool)
        beside[:-1] |= ~filled[1:]
        beside[1:] |= ~filled[:-1]
        beside[[0, -1]] = True
        used = np.flatnonzero(filled)
        beside[used[[0, -1]]] = True
        if 2 * width < GAP_NS and (np.diff(used) > 2).any():
            times = times[beside[bins]]
    ordered = np.sort(np.clip(times, first, last))
    gaps = np.diff(np.concatenate([[first], ordered, [last]]))
    long = gaps[gaps > GAP_NS]
    return [int(g) for g in long] if len(long) else [int(gaps.max())]


def _outages(index: Index, injections: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """For each injection when it was, and how long until sends that were begun after it succeeded and kept on."""
    sends = index.sends
    began = injections[0][0]
    mine = sends.where((sends["start_ns"] >= began) | (sends["outcome"] != OK))
    order = np.argsort(mine["start_ns"], kind="stable")
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
                "rto_s": _recovery(at, start[low:high], end[low:high], fine[low:high]),
            }
        )
    return out


def _recovery(at: int, start: Array, end: Array, fine: Array) -> float | None:
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


def _lost_time(index: Index, injections: list[int]) -> float:
    lost = index.fate.lost
    if not len(lost):
        return 0.0
    rows = index.acknowledgements
    mine = rows["end_ns"][index.flags(lost)[rows.ids]]
    low, high = int(mine.min()), int(mine.max())
    after = [at for at in injections if at >= low]
    return round((max([high, *after[:1]]) - low) / 1e9, 6)
