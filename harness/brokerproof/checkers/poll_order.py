"""Readers of a log that jump."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, distinct
from brokerproof.checkers.positions import known, positions, readable
from brokerproof.checkers.running import GROUPS_MAX, steps
from brokerproof.checkers.view import CHUNK, View
from brokerproof.finding import Count, Finding
from brokerproof.history import OK, Array


@checker(anomalies=("poll_skip", "poll_nonmonotonic"))
def poll_order(index: Index) -> Finding:
    """*poll_skip*: a process's next ``ok`` receive in a log lane lies beyond a position that is known to hold a message
    (counted are the messages that were jumped over). *poll_nonmonotonic*: it lies before the one it had last (counted
    are the messages it went back to). A rebalance in between (an ``assign`` or ``revoke`` row of the process) exempts.
    Positions may have holes: judged on what is known.

    details: ``inside_poll`` and ``between_polls``, in jumps. O(receives of log lanes), in chunks.
    """
    where = positions(index)
    nothing = Finding(anomalies=found(poll_skip=Count(), poll_nonmonotonic=Count()))
    view, slots = where.received, where.received_slots
    if not len(view):
        return nothing
    progress = view.equal("outcome", OK)
    if progress is not view:
        slots = slots[view["outcome"] == OK]
    columns = [name for name in ("process", "lane") if not progress.is_one(name)]
    labels = [Labels([progress[name]]) for name in columns]
    found_steps = list(steps(*_groups(progress, columns, labels, slots)))
    if not found_steps:
        return nothing
    right, left, here, before = (np.concatenate(parts) for parts in zip(*found_steps, strict=True))
    there = known(index)
    rank = np.zeros(where.size + 1, dtype=np.int64)
    np.cumsum(there, out=rank[1:])
    # Known positions strictly between the two.
    forth = (here > before) & (rank[here] > rank[np.minimum(before + 1, where.size)])
    jumps = np.flatnonzero(forth | (here < before))
    if len(jumps):
        rows = progress["row"]
        by = progress["process"][left[jumps]]
        jumps = jumps[~_rebalanced(index, by, rows[left[jumps]], rows[right[jumps]])]
    if not len(jumps):
        return nothing
    left, right, here, before, forth = left[jumps], right[jumps], here[jumps], before[jumps], forth[jumps]
    batch = progress["batch"]
    inside = (batch[left] == batch[right]) & (batch[left] >= 0)
    skipped = np.zeros(where.size + 1, dtype=np.int64)
    np.add.at(skipped, before[forth] + 1, 1)
    np.add.at(skipped, here[forth], -1)
    passed = (np.cumsum(skipped)[:-1] > 0) & there
    gone_back = progress["msg"][right[~forth]]
    return Finding(
        anomalies=found(
            poll_skip=_count(index, _held(index, passed), inside[forth]),
            poll_nonmonotonic=_count(index, index.numbers.ids(distinct(gone_back[gone_back >= 0])), inside[~forth]),
        )
    )


def _groups(
    view: View, columns: list[str], labels: list[Labels], slots: Array
) -> tuple[Iterator[tuple[Array, Array]], int]:
    """(process and lane as one number, slot) of some receives at a time; how many numbers there may be."""
    span = math.prod(each.size for each in labels)

    def chunks() -> Iterator[tuple[Array, Array]]:
        for low in range(0, len(view), CHUNK):
            here = slice(low, low + CHUNK)
            code = np.zeros(len(slots[here]), dtype=np.int64)
            for name, each in zip(columns, labels, strict=True):
                code = code * each.size + each.codes(view[name][here])
            yield code, slots[here]

    if span <= GROUPS_MAX:
        return chunks(), span
    few = Labels([np.concatenate([code for code, _ in chunks()])])
    return ((few.codes(code), here) for code, here in chunks()), few.size


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
    for view, told in ((where.acknowledged, where.acknowledged_slots), (where.received, where.received_slots)):
        for here, ids in readable(index, view, told):
            held[ids[slots[here]]] = True
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
