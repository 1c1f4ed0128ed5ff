"""Senders whose messages lie in a log in another order than they were sent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, holding
from brokerproof.checkers.positions import known, placed, positions
from brokerproof.checkers.running import GROUPS_MAX, behind
from brokerproof.checkers.streams import streams
from brokerproof.checkers.view import CHUNK
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(anomalies=("send_nonmonotonic",), observations=("send_skip",))
def send_order(index: Index) -> Finding:
    """*send_nonmonotonic*: within (sending process, key, log lane) a later-sent message lies before an earlier one, by
    the lowest position that is known of each. Messages that the application sent again are exempt: it sent them late.
    *send_skip*: between two neighbouring messages of one transaction in a lane lies somebody else's.
    O(messages), in chunks."""
    where = positions(index)
    nothing = Finding(anomalies=found(send_nonmonotonic=Count()), observations=found(send_skip=Count()))
    if not where.size or not len(index.sends):
        return nothing
    slot = _lowest(index)
    return Finding(
        anomalies=found(send_nonmonotonic=_nonmonotonic(index, slot)), observations=found(send_skip=_skips(index))
    )


def _lowest(index: Index) -> Array:
    """Over messages the lowest slot that is known of those that somebody may have sent; beyond them all where none is."""
    where = positions(index)
    view = where.acknowledged
    if len(view) == len(index.sends) and placed(index).single and (each := placed(index).slot).min() >= 0:
        return each  # all were acknowledged with their position, and none has another
    slot = index.scratch(index.size, where.size, holding(where.size))
    if len(view):
        # Mostly one position each; only where several rows tell of one message the lowest has to be looked for.
        slot[view.ids] = where.acknowledged_slots
        if len(index.resends):
            np.minimum.at(slot, view.ids, where.acknowledged_slots)
    rest = _of_unknown(index)
    if len(rest[0]):
        np.minimum.at(slot, *rest)
    return slot


def _of_unknown(index: Index) -> tuple[Array, Array]:
    """(id, slot) of messages that were not acknowledged, but seen."""
    where = positions(index)
    view = where.received
    if not len(view) or index.acknowledgements is index.sends or not index.maybe.any():
        return view["msg"][:0].astype(np.int64), where.received_slots[:0]
    sound = np.flatnonzero(view["msg"] >= 0)
    ids = index.numbers.ids(view["msg"][sound])
    mine = index.maybe[ids]
    return ids[mine], where.received_slots[sound[mine]]


def _nonmonotonic(index: Index, slot: Array) -> Count:
    stream, count = streams(index, by="process")
    if not count:
        return Count()
    where = positions(index)
    lanes = where.lanes.size
    lane_of = where.lane_of_slots() if lanes > 1 else None
    judged = None
    if len(index.resends) or int(slot.max()) == where.size or int(stream.min()) < 0:
        judged = np.flatnonzero((slot < where.size) & (stream >= 0) & ~index.resent)
        if not len(judged):
            return Count()

    def chunks() -> Iterator[tuple[Array, Array]]:
        for low in range(0, index.size if judged is None else len(judged), CHUNK):
            here = slice(low, low + CHUNK) if judged is None else judged[low : low + CHUNK]
            group, at = stream[here].astype(np.int64), slot[here]
            yield (group if lane_of is None else group * lanes + lane_of(at)), at

    groups, rows = count * lanes, chunks()
    if groups > GROUPS_MAX:
        few = Labels([np.concatenate([group for group, _ in chunks()])])
        groups, rows = few.size, ((few.codes(group), at) for group, at in chunks())
    places = behind(rows, groups, where.size)
    return index.count(places if judged is None else judged[places])


def _skips(index: Index) -> Count:
    where = positions(index)
    view = where.acknowledged
    if view.greatest("batch") < 0 or not index.has_transactions:
        return Count()
    rows = np.flatnonzero(view["batch"] >= 0)
    slots = where.acknowledged_slots[rows]
    lane, process, batch = view["lane"][rows], view["process"][rows], view["batch"][rows]
    order = np.lexsort((slots, batch, process, lane))
    slots, ids = slots[order], view.ids[rows[order]]
    same = np.ones(len(order) - 1, dtype=bool)
    for column in (lane, process, batch):
        same &= column[order][1:] == column[order][:-1]
    rank = np.concatenate([[0], np.cumsum(known(index))])
    between = same & (slots[1:] > slots[:-1]) & (rank[slots[1:]] > rank[np.minimum(slots[:-1] + 1, where.size)])
    return index.count(np.unique(ids[1:][between]))
