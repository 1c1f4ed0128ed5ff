"""Sequences in which something may not go back, group by group, in passes that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from brokerproof.checkers.numbers import packed_order
from brokerproof.history import Array

#: Groups whose state is carried from chunk to chunk in a table; more the caller makes dense first.
GROUPS_MAX = 1 << 22


def behind(chunks: Iterable[tuple[Array, Array]], groups: int, values: int) -> Array:
    """Places of the rows whose value is less than that of an earlier row of the same group.

    chunks: (group, value) of consecutive rows; groups: 0 … groups - 1; values: 0 … values - 1. O(n log chunk), O(n) for
    chunks that are in order as a whole.
    """
    greatest = np.full(groups, -1, dtype=np.int64)
    top = -1  # of all groups
    out = []
    offset = 0
    for group, value in chunks:
        if not len(value):
            continue
        if top <= value[0] and (value[1:] >= value[:-1]).all():
            # No group goes back where all of them together do not. Of several values of a group the last stays.
            greatest[group] = value
            top = int(value[-1])
            hit = value[:0]
        elif groups == 1:
            most = np.maximum.accumulate(value)
            if greatest[0] > most[0]:
                np.maximum(most, greatest[0], out=most)
            greatest[0] = top = int(most[-1])
            hit = np.flatnonzero(value < most)
        else:
            top = max(top, int(value.max()))
            order, ordered = packed_order(group, groups)
            mine = value[order]
            fresh = np.empty(len(mine), dtype=bool)
            fresh[0] = True
            np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
            # Each run lies above the one before as a whole, so the running maximum starts afresh with it, from what
            # earlier chunks had.
            lift = np.cumsum(fresh)
            lift *= values + 1
            head = np.flatnonzero(fresh)
            lifted = lift + mine
            lifted[head] = np.maximum(lifted[head], lift[head] + greatest[ordered[head]])
            np.maximum.accumulate(lifted, out=lifted)
            lifted -= lift
            tail = np.append(head[1:], len(mine)) - 1
            greatest[ordered[tail]] = lifted[tail]
            hit = order[mine < lifted]
            hit.sort()
        if len(hit):
            out.append(hit + offset)
        offset += len(value)
    return np.concatenate(out) if out else np.empty(0, dtype=np.int64)


def steps(chunks: Iterable[tuple[Array, Array]], groups: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """For every chunk (place, previous place, value, previous value) of the rows that have a previous row of their group
    and whose value is not the one that follows it (previous + 1)."""
    last_value = np.full(groups, -1, dtype=np.int64)
    last_place = np.full(groups, -1, dtype=np.int64)
    offset = 0
    for group, value in chunks:
        n = len(value)
        if not n:
            continue
        if groups == 1:
            order, ordered, mine = np.arange(n), np.zeros(n, dtype=np.int64), value
        else:
            order, ordered = packed_order(group, groups)
            mine = value[order]
        before, place = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
        before[1:], place[1:] = mine[:-1], order[:-1] + offset
        fresh = np.empty(n, dtype=bool)
        fresh[0] = True
        np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
        head = np.flatnonzero(fresh)
        before[head], place[head] = last_value[ordered[head]], last_place[ordered[head]]
        tail = np.append(head[1:], n) - 1
        last_value[ordered[tail]], last_place[ordered[tail]] = mine[tail], order[tail] + offset
        odd = np.flatnonzero((place >= 0) & (mine != before + 1))
        if len(odd):
            yield order[odd] + offset, place[odd], mine[odd], before[odd]
        offset += n
