"""What transactions owe each other: who read what whom wrote, and whose write lies behind whose in a log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brokerproof.checkers.index import Index, batch_codes
from brokerproof.checkers.knots import knots
from brokerproof.checkers.numbers import distinct, member
from brokerproof.checkers.positions import positions
from brokerproof.finding import Count
from brokerproof.history import FAIL, INFO, OK, Array

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Edges:
    """From one transaction to another, by their numbers in ``ended``, because of a message (id)."""

    source: Array
    target: Array
    message: Array


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Transactions that were not aborted for certain.

    ended: when the commit of each had ended, the end of time where none is known.
    writes: from the writer of one position of a log to that of the next known one.
    reads: from the transaction that sent a message to the one that received it.
    """

    ended: Array
    writes: Edges
    reads: Edges


def dependencies(index: Index) -> Dependencies:
    """Computed once. A receive belongs to the transaction of its process with the same ``batch``.
    O(sends + receives), and a sort of the positions that transactions wrote to."""
    return index.once("dependencies", lambda: _dependencies(index))


def _dependencies(index: Index) -> Dependencies:
    codes = index.transactions(*((f, o) for f in ("txn_begin", "txn_commit", "txn_abort") for o in (OK, FAIL, INFO)))
    codes = codes[~member(codes, index.aborted)]
    ended = np.full(len(codes), _NEVER)
    commits = index.ok("txn_commit")
    if len(commits):
        mine = batch_codes(commits)
        there = member(mine, codes)
        np.minimum.at(ended, np.searchsorted(codes, mine[there]), commits["end_ns"][there])
    return Dependencies(ended, _writes(index, codes), _reads(index, codes))


def _writes(index: Index, codes: Array) -> Edges:
    where = positions(index)
    view, slots = where.acknowledged, where.acknowledged_slots
    writer = batch_codes(view) if len(view) else slots
    mine = np.flatnonzero((view["batch"] >= 0) & member(writer, codes))
    mine = mine[np.argsort(slots[mine], kind="stable")]
    number, lane, ids = np.searchsorted(codes, writer[mine]), view["lane"][mine], view.ids[mine]
    follows = (lane[1:] == lane[:-1]) & (number[1:] != number[:-1])
    return Edges(number[:-1][follows], number[1:][follows], ids[1:][follows])


def _reads(index: Index, codes: Array) -> Edges:
    # What may have been sent by one and by the other is nobody's.
    sends = index.sends.where(index.sends["outcome"] != FAIL)
    inside = sends.where((sends["batch"] >= 0) & (np.bincount(sends.ids, minlength=1)[sends.ids] == 1))
    inside = inside.where(member(batch_codes(inside), codes))
    writer = np.full(index.size, -1, dtype=np.int64)
    writer[inside.ids] = np.searchsorted(codes, batch_codes(inside))
    view = index.receives
    view = view.where(view["batch"] >= 0)
    view = view.where(member(batch_codes(view), codes))
    source, target = writer[view.ids], np.searchsorted(codes, batch_codes(view))
    between = (source >= 0) & (source != target)
    return Edges(source[between], target[between], view.ids[between])


def knotted(index: Index, *edges: Edges) -> Array:
    """The number of the knot that each transaction lies in by these edges, -1 for those on no cycle."""
    source, target = (np.concatenate([getattr(e, end) for e in edges]) for end in ("source", "target"))
    return knots(dependencies(index).ended, source, target)


def cycles(index: Index, edges: Edges) -> Count:
    """Transactions that lie on a cycle of these edges. ``messages`` are those that hold a cycle together; details:
    ``cycles`` how many knots the transactions form."""
    knot = knotted(index, edges)
    tied = int(np.count_nonzero(knot >= 0))
    if not tied:
        return Count()
    holds = (knot[edges.source] >= 0) & (knot[edges.source] == knot[edges.target])
    messages = index.count(distinct(edges.message[holds])).messages
    return Count(count=tied, messages=messages, details={"cycles": int(knot.max()) + 1})
