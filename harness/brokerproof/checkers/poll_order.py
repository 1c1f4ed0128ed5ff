"""Readers of a log that jump."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index, Labels
from brokerproof.checkers.numbers import distinct, packed_order
from brokerproof.checkers.positions import known, positions
from brokerproof.finding import Count, Finding
from brokerproof.history import OK, Array


@checker(anomalies=("poll_skip", "poll_nonmonotonic"))
def poll_order(index: Index) -> Finding:
    """*poll_skip*: a process's next ``ok`` receive in a log lane lies beyond a position that is known to hold a message
    (counted are the messages that were jumped over). *poll_nonmonotonic*: it lies before the one it had last (counted
    are the messages it went back to). A rebalance in between (an ``assign`` or ``revoke`` row of the process) exempts.
    Positions may have holes: judged on what is known.

    details: ``inside_poll`` and ``between_polls``, in jumps. O(receives of log lanes) and an integer sort where there
    is more than one reader or lane.
    """
    where = positions(index)
    slots = where.received_slots
    progress = np.flatnonzero(where.received["outcome"] == OK) if len(where.received) else slots
    if not len(progress):
        return Finding(anomalies=found(poll_skip=Count(), poll_nonmonotonic=Count()))
    view = where.received if len(progress) == len(where.received) else where.received.take(progress)
    slots = slots if view is where.received else slots[progress]
    processes, lanes = Labels([view["process"]]), Labels([view["lane"]])
    if processes.size > 1 or lanes.size > 1:
        group = processes.codes(view["process"]) * lanes.size + lanes.codes(view["lane"])
        order, ordered = packed_order(group, processes.size * lanes.size)
        same = ordered[1:] == ordered[:-1]
        slots = slots[order]
    else:
        order, same = np.arange(len(slots)), np.ones(len(slots) - 1, dtype=bool)
    there = known(index)
    rank = np.zeros(where.size + 1, dtype=np.int64)
    np.cumsum(there, out=rank[1:])
    back = same & (slots[1:] < slots[:-1])
    # Known positions strictly between the two.
    over = same & (slots[1:] > slots[:-1]) & (rank[slots[1:]] > rank[np.minimum(slots[:-1] + 1, where.size)])
    jumps = np.flatnonzero(back | over)
    if not len(jumps):
        return Finding(anomalies=found(poll_skip=Count(), poll_nonmonotonic=Count()))
    left, right = order[jumps], order[jumps + 1]
    jumps = jumps[~_rebalanced(index, view["process"][left], view["row"][left], view["row"][right])]
    inside = view["batch"][order[jumps]] == view["batch"][order[jumps + 1]]
    inside &= view["batch"][order[jumps]] >= 0
    forth = over[jumps]
    skipped = np.zeros(where.size + 1, dtype=np.int64)
    np.add.at(skipped, slots[jumps[forth]] + 1, 1)
    np.add.at(skipped, slots[jumps[forth] + 1], -1)
    passed = (np.cumsum(skipped)[:-1] > 0) & there
    gone_back = view["msg"][order[jumps[~forth] + 1]]
    return Finding(
        anomalies=found(
            poll_skip=_count(index, _held(index, passed), inside[forth]),
            poll_nonmonotonic=_count(index, index.numbers.ids(distinct(gone_back[gone_back >= 0])), inside[~forth]),
        )
    )


def _count(index: Index, ids: Array, inside: Array) -> Count:
    if not len(inside):
        return Count()
    within = int(np.count_nonzero(inside))
    made = index.count(ids, inside_poll=within, between_polls=len(inside) - within)
    # Jumps to what cannot be read are jumps all the same.
    return made if made.count else Count(count=len(inside), details=made.details)


def _held(index: Index, slots: Array) -> Array:
    """Ids of the messages that are known to lie in these slots (a mask)."""
    where = positions(index)
    held = np.zeros(index.size, dtype=bool)
    held[where.acknowledged.ids[slots[where.acknowledged_slots]]] = True
    if len(where.received):
        rows = slots[where.received_slots] & (where.received["msg"] >= 0)
        held[index.numbers.ids(where.received["msg"][rows])] = True
    return np.flatnonzero(held)


def _rebalanced(index: Index, process: Array, left: Array, right: Array) -> Array:
    """Whether the process was given or lost a lane between two rows of the file; rows of one process are in order."""
    views = [index.view(f) for f in ("assign", "revoke") if len(index.view(f))]
    if not views:
        return np.zeros(len(process), dtype=bool)
    owner = np.concatenate([v["process"] for v in views])
    row = np.concatenate([v["row"] for v in views])
    labels = Labels([owner, process])
    rows = index.rows + 1
    events = np.sort(labels.codes(owner) * rows + row)
    lifted = labels.codes(process) * rows
    out: Array = np.searchsorted(events, lifted + left, side="right") < np.searchsorted(events, lifted + right)
    return out
