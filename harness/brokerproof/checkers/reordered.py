"""Seen by a receiver in another order than sent."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index, Labels, View
from brokerproof.checkers.numbers import bits, packed_order, running_max
from brokerproof.checkers.streams import streams
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(observations=("reordered",))
def reordered(index: Index) -> Finding:
    """Within (receiving process, lane, sending process, key), by the first ``ok`` receive of each message: it comes
    after one that was sent later. An observation, since each of several consumers may see a tidy sequence while the
    world does not: order is decided by *effect_out_of_order*.

    details, in messages: ``redelivery`` it had been received before or is flagged so, ``resend`` the application had
    sent it again, ``new`` neither. O(n log n) in receives with a key: an integer sort.
    """
    stream, count = streams(index, by="process")
    view = index.receives
    if not len(view) or not count:
        return Finding(observations=found(reordered=Count()))
    mine = stream[view.ids]
    keyed = view.where(mine >= 0)
    if keyed is not view:
        mine = stream[keyed.ids]
    group, span = _groups(keyed, mine, count)
    order, ordered = packed_order(group, span)
    ids = keyed.ids[order]
    if bits(span) + bits(index.size) > 62:
        labels = Labels([ordered])
        ordered = labels.codes(ordered)
    behind = np.flatnonzero(ids < running_max(ids, ordered, index.size))
    if not len(behind):
        return Finding(observations=found(reordered=Count()))
    # Only the first receive of a message within its group counts.
    suspect = index.flags(ids[behind])[ids]
    place = np.flatnonzero(suspect)
    ids, ordered = ids[place], ordered[place]
    first = np.lexsort((place, ordered, ids))
    fresh = np.concatenate([[True], (ids[first][1:] != ids[first][:-1]) | (ordered[first][1:] != ordered[first][:-1])])
    firsts = first[fresh]
    hit = firsts[np.isin(place[firsts], behind)]
    rows = order[place[hit]]
    late = index.flags(keyed.ids[rows])
    # Received before by anybody: then its place here is the redelivery's doing.
    before = _received_before(index, view, keyed, rows)
    redelivery = index.flags(keyed.ids[rows[before]])
    resend = late & index.resent & ~redelivery
    return Finding(
        observations=found(
            reordered=index.count(
                np.flatnonzero(late),
                new=int(np.count_nonzero(late & ~redelivery & ~resend)),
                redelivery=int(np.count_nonzero(redelivery)),
                resend=int(np.count_nonzero(resend)),
            )
        )
    )


def _groups(view: View, stream: Array, count: int) -> tuple[Array, int]:
    """(receiving process, lane, stream) as one integer, and how many there may be."""
    span = 1
    group = np.zeros(len(view), dtype=np.int64)
    for column in (view["process"], view["lane"]):
        labels = Labels([column])
        if labels.size > 1:
            if bits(span) + bits(labels.size) > 60:
                dense = Labels([group])
                group, span = dense.codes(group), dense.size
            group, span = group * labels.size + labels.codes(column), span * labels.size
    if bits(span) + bits(count) > 60:
        dense = Labels([group])
        group, span = dense.codes(group), dense.size
    return group * count + stream, span * count


def _received_before(index: Index, view: View, keyed: View, rows: Array) -> Array:
    """Which of the receives are redeliveries: flagged, or not the earliest ``ok`` receive of their message."""
    earliest = np.full(index.size, np.iinfo(np.int64).max)
    suspect = index.flags(keyed.ids[rows])
    mine = np.flatnonzero(suspect[view.ids])
    np.minimum.at(earliest, view.ids[mine], view["end_ns"][mine])
    ids = keyed.ids[rows]
    out: Array = (keyed["attempt"][rows] > 0) | (keyed["end_ns"][rows] > earliest[ids])
    return out
