"""What each injection cost those who were sending and receiving: when they noticed, how long it took, what was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from brokerproof.checkers.fate import fate
from brokerproof.checkers.faulttimes import fault_times
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import by_value
from brokerproof.checkers.unavailable import LostSpan, back_after, pauses
from brokerproof.checkers.view import View
from brokerproof.history import OK, Array

#: Injections that are told apart; a plan has a handful, a long random schedule some dozens.
INJECTIONS_MAX = 100
#: Clients and lanes that have a recovery time of their own.
PARTS_MAX = 1000
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


def recovery(index: Index) -> tuple[Mapping[str, Any], ...]:
    """One entry per injection, by time; empty where nothing was injected. Times are seconds, None where there is none.

    fault, targets; injected_s, healed_s (of the trial)
    detection_s     until an operation of some client first ended in anything but ``ok``
    gap_s           the longest time without a send that succeeded, until the next injection
    rto_s           until sends succeeded and kept succeeding, as ``unavailable`` has it
    clients, lanes  ``{"n", "first_s", "median_s", "last_s"}`` of that time for each sender, for each lane; "never" is
                    how many did not come back before the next injection or the end
    rpo             ``{"messages", "seconds"}``: acknowledged before or during it, and lost
    latency_ms      ``before``, ``during``, ``after``: ``{"n", "p50", "p95", "p99", "p999"}`` of the sends that began then and
                    succeeded, from due (or start) to end; before begins, and after ends, with the neighbouring injection
    duplicates      ``{"messages", "twice", "ratio"}``: of the messages sent from it on, how many came more than once to
                    the consumers of one group (or, where there are none, to the final reader)

    O(rows) for each injection.
    """
    times = fault_times(index)
    injected = [(at, text) for at, what, text in times if what == "inject"][:INJECTIONS_MAX]
    sends = index.sends
    if not injected or not len(sends):
        return ()
    healed = _heals(injected, [(at, text) for at, what, text in times if what == "heal"])
    moments = sorted({at for at, _ in injected})
    following = dict(zip(moments, [*moments[1:], np.iinfo(np.int64).max], strict=True))
    first = sends.span("start_ns")[0]
    out = []
    for n, (at, text) in enumerate(injected):
        name, _, targets = text.partition(" ")
        earlier = [healed[m] or injected[m][0] for m in range(n) if injected[m][0] < at]
        out.append(
            {"fault": name, "targets": targets, "injected_s": _s(at), "healed_s": _s(healed[n])}
            | _cost(index, sends, at, healed[n], following[at], max([first, *earlier]))
        )
    return tuple(out)


def _s(ns: int | None) -> float | None:
    return None if ns is None else round(ns / 1e9, 6)


def _heals(injected: Sequence[tuple[int, str]], heals: Sequence[tuple[int, str]]) -> list[int | None]:
    """When each injection was healed: the first heal of that name after it that is not another's."""
    left = list(heals)
    out: list[int | None] = []
    for at, text in injected:
        mine = next((h for h in left if h[0] >= at and h[1] == text.partition(" ")[0]), None)
        if mine is not None:
            left.remove(mine)
        out.append(mine[0] if mine else None)
    return out


def _cost(index: Index, sends: View, at: int, heal: int | None, until: int, since: int) -> dict[str, Any]:
    start, end, fine = sends["start_ns"], sends["end_ns"], sends["outcome"] == OK
    over = until if heal is None else min(heal, until)
    # What was open at the injection lived through it, as what began after it did; what had ended did not.
    mine = (start < until) & ((end >= at) | (end < 0)) & ((start >= at) | ~fine)
    after = (start >= at) & (start < until)
    windows = {"before": (since, at), "during": (at, over), "after": (over, until)}
    good = sends.where(fine & (end >= at) & (start < until))
    last = int(end[fine & (start < until)].max(initial=at))
    return {
        "detection_s": _detection(index, at, until),
        "gap_s": round(max(pauses(good, at, max(at, last))) / 1e9, 6) if after.any() else None,
        "rto_s": _back(at, start[mine], end[mine], fine[mine]),
        "clients": _spread(_each(at, sends, mine, index.slot(sends["process"]))),
        "lanes": _spread(_each(at, sends, mine & (sends["lane"] >= 0), sends["lane"])),
        "rpo": _lost(index, at, until, since),
        "latency_ms": {name: _latency(sends, fine, *window) for name, window in windows.items()},
        "duplicates": _twice(index, sends.ids[after]),
    }  # fmt: skip


def _detection(index: Index, at: int, until: int) -> float | None:
    ends: list[int] = []
    for f in ("send", "receive", "settle", "commit"):
        view = index.view(f)
        if len(view) and index.exercised[f]["ok"] < len(view):
            told = (view["outcome"] != OK) & (view["end_ns"] >= at) & (view["end_ns"] < until)
            ends.extend(view["end_ns"][told].min(keepdims=True).tolist() if told.any() else [])
    return _s(min(ends) - at) if ends else None


def _back(at: int, start: Array, end: Array, fine: Array) -> float | None:
    # Of sends that began in the same instant the failed ones last, whatever the order of the rows.
    order = np.lexsort((~fine, start))
    return back_after(at, start[order], end[order], fine[order])


def _each(at: int, sends: View, mine: Array, part: Array) -> Iterator[float | None]:
    """The recovery time of every client, or lane, that sent something from the injection on."""
    rows = np.flatnonzero(mine)
    start, end, fine = sends["start_ns"][rows], sends["end_ns"][rows], sends["outcome"][rows] == OK
    for n, (_, places) in enumerate(by_value(part[rows])):
        if n == PARTS_MAX:
            return
        yield _back(at, start[places], end[places], fine[places])


def _spread(times: Iterator[float | None]) -> dict[str, Any]:
    every = list(times)
    known = sorted(t for t in every if t is not None)
    if not known:
        return {"n": len(every), "never": len(every), "first_s": None, "median_s": None, "last_s": None}
    return {
        "n": len(every), "never": len(every) - len(known), "first_s": known[0],
        "median_s": round(float(np.median(known)), 6), "last_s": known[-1],
    }  # fmt: skip


def _lost(index: Index, at: int, until: int, since: int) -> dict[str, Any]:
    """Losses among what was acknowledged between the neighbouring injections: they cannot be told apart more closely."""
    rows = index.acknowledgements
    lost = index.flags(fate(index).lost)[rows.ids]
    ends = rows["end_ns"][lost & (rows["end_ns"] >= since) & (rows["end_ns"] < until)]
    ids = rows.ids[lost & (rows["end_ns"] >= since) & (rows["end_ns"] < until)]
    if not len(ends):
        return {"messages": 0, "seconds": 0.0}
    span = LostSpan(len(np.unique(ids)), int(ends.min()), int(ends.max()))
    return {"messages": span.count, "seconds": span.seconds([at])}


def _latency(sends: View, fine: Array, low: int, high: int) -> dict[str, Any]:
    start, due = sends["start_ns"], sends["due_ns"]
    mine = fine & (start >= low) & (start < high)
    n = int(np.count_nonzero(mine))
    if not n:
        return {"n": 0, **dict.fromkeys(QUANTILES)}
    begun = np.where(due[mine] >= 0, due[mine], start[mine])
    values = np.quantile((sends["end_ns"][mine] - begun) / 1e6, list(QUANTILES.values()))
    return {"n": n, **{name: round(float(v), 3) for name, v in zip(QUANTILES, values, strict=True)}}


def _twice(index: Index, ids: Array) -> dict[str, Any]:
    sent = index.flags(ids)
    n = int(np.count_nonzero(sent))
    view = index.receives
    consumers = ~index.by_role(view, "reader")
    chosen = sent[view.ids] & (consumers if (consumers & sent[view.ids]).any() else ~consumers)
    group = index.named_group(view["process"][chosen]) + 1
    groups = int(group.max(initial=0)) + 1
    _, times = np.unique(view.ids[chosen] * groups + group, return_counts=True)
    twice = int(np.count_nonzero(times > 1))
    return {"messages": n, "twice": twice, "ratio": round(twice / n, 6) if n else 0.0}
