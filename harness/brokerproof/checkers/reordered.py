"""Seen by a receiver in another order than sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, member
from brokerproof.checkers.running import GROUPS_MAX, behind
from brokerproof.checkers.streams import streams
from brokerproof.checkers.view import View
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(observations=("reordered",))
def reordered(index: Index) -> Finding:
    """Within (receiving process, lane, sending process, key), by the first ``ok`` receive of each message: it comes
    after one that was sent later. An observation, since each of several consumers may see a tidy sequence while the
    world does not: order is decided by *effect_out_of_order*.

    details, in messages: ``redelivery`` it had been received before or is flagged so, ``resend`` the application had
    sent it again, ``new`` neither. O(receives), in passes over chunks that are sorted by group.
    """
    stream, count = streams(index, by="process")
    view = index.receives
    if not len(view) or not count:
        return Finding(observations=found(reordered=Count()))
    keyed = view
    if index.sends.least("key") < 0 or len(index.first_sends) < index.size:
        keyed = view.where(stream[view.ids] >= 0)
    if not len(keyed):
        return Finding(observations=found(reordered=Count()))
    group_of = _Groups(keyed, stream, count)
    suspects = behind(group_of.chunks(), group_of.size, index.size)
    if not len(suspects):
        return Finding(observations=found(reordered=Count()))
    # Only the first receive of a message within its group counts: look at all receives of the suspicious ones.
    rows = np.flatnonzero(index.flags(keyed.ids[suspects])[keyed.ids])
    ids, group = keyed.ids[rows], group_of.of(rows)
    order = np.lexsort((rows, group, ids))
    ids, group, rows = ids[order], group[order], rows[order]
    first = np.concatenate([[True], (ids[1:] != ids[:-1]) | (group[1:] != group[:-1])])
    rows = rows[first & member(rows, suspects)]
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


class _Groups:
    """(receiving process, lane, stream) of each receive as one dense number."""

    def __init__(self, view: View, stream: Array, count: int) -> None:
        self._view, self._stream = view, stream
        self._columns = [name for name in ("process", "lane") if not view.is_one(name)]
        self._labels = [Labels([view[name]]) for name in self._columns]
        self._count = count
        span = count
        for labels in self._labels:
            span *= labels.size
        self._few: Labels | None = None
        self.size = span
        if span > GROUPS_MAX:
            self._few = Labels([np.concatenate([group for group, _ in self._raw()])])
            self.size = self._few.size

    def chunks(self) -> Iterator[tuple[Array, Array]]:
        """(group, id) of some receives at a time, in their order."""
        for group, ids in self._raw():
            yield (group if self._few is None else self._few.codes(group)), ids

    def of(self, rows: Array) -> Array:
        return self._code([self._view[name][rows] for name in self._columns], self._view.ids[rows])

    def _raw(self) -> Iterator[tuple[Array, Array]]:
        for ids, *columns in self._view.chunks("ids", *self._columns):
            yield self._code(columns, ids), ids

    def _code(self, columns: Sequence[Array], ids: Array) -> Array:
        code = np.zeros(len(ids), dtype=np.int64)
        for column, labels in zip(columns, self._labels, strict=True):
            code = code * labels.size + labels.codes(column)
        code *= self._count
        code += self._stream[ids]
        return code


def _received_before(index: Index, view: View, keyed: View, rows: Array) -> Array:
    """Which of the receives are redeliveries: flagged, or not the earliest ``ok`` receive of their message."""
    earliest = np.full(index.size, np.iinfo(np.int64).max)
    suspect = index.flags(keyed.ids[rows])
    mine = np.flatnonzero(suspect[view.ids])
    np.minimum.at(earliest, view.ids[mine], view["end_ns"][mine])
    ids = keyed.ids[rows]
    out: Array = (keyed["attempt"][rows] > 0) | (keyed["end_ns"][rows] > earliest[ids])
    return out
