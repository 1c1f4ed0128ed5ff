"""Rows that are about one and the same thing more than once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, bits, holding, packed_order
from brokerproof.checkers.view import View
from brokerproof.history import Array


@dataclass(frozen=True, slots=True)
class Repeats:
    """places: rows of the view that share their message and unit with another, by unit, then start, then as they stand.
    first: which of them are the first of their unit.  unit: an ascending number per unit, by row."""

    places: Array
    first: Array
    unit: Array


def repeated_ids(index: Index, view: View) -> Array:
    """Ids with more than one row in the view, as often as they are repeated. Two passes where there are none."""
    ids = view.ids
    if int(np.count_nonzero(index.flags(ids))) == len(ids):
        return ids[:0]
    kind = holding(len(ids))
    place, own = index.scratch(index.size, -1, kind), np.arange(len(ids), dtype=kind)
    place[ids] = own
    again: Array = ids[place[ids] != own]
    return again


def repeats(index: Index, view: View, *units: Array) -> Repeats:
    """What of the view has the same message and the same values in all of ``units`` (columns over the view) as another
    row. O(rows) where no message is repeated, O(k log k) for the k rows of those that are."""
    ids = repeated_ids(index, view) if len(view) else np.empty(0, dtype=np.int64)
    none = np.empty(0, dtype=np.int64)
    if not len(ids):
        return Repeats(none, none.astype(bool), none)
    places = np.flatnonzero(index.flags(ids)[view.ids])
    code, span = view.ids[places], index.size
    for unit in units:
        mine = unit[places]
        labels = Labels([mine])
        if bits(span) + bits(labels.size) > 62:
            dense = Labels([code])
            code, span = dense.codes(code), dense.size
        code, span = code * labels.size + labels.codes(mine), span * labels.size
    order, code = packed_order(code, span)
    same = code[1:] == code[:-1]
    shared = np.zeros(len(code), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    places, code = places[order[shared]], code[shared]
    if not len(code):
        return Repeats(none, none.astype(bool), none)
    first = np.concatenate([[True], code[1:] != code[:-1]])
    unit = np.cumsum(first) - 1
    starts = view["start_ns"][places]
    if ((starts[1:] < starts[:-1]) & ~first[1:]).any():
        # Rows of different processes may stand in the file against their times.
        order = np.lexsort((np.arange(len(places)), starts, unit))
        places = places[order]
    return Repeats(places, first, unit)
