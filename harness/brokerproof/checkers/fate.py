"""What became of acknowledged messages that nobody received where they had to be received."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import by_value
from brokerproof.checkers.view import View
from brokerproof.history import Array


@dataclass(frozen=True, slots=True)
class Fate:
    """Acknowledged messages that were not found, as ids, each message in one of the three.

    by_group: consumer group -> how many it lost (only where there are several).
    """

    lost: Array
    undrained: Array
    definition_lost: Array
    by_group: Mapping[str, int]


def fate(index: Index) -> Fate:
    """Judged by what was received. Computed once."""
    return index.once("fate", lambda: absent(index, index.arrivals))


def absent(index: Index, view: View, only: frozenset[int] | None = None) -> Fate:
    """Acknowledged messages that have no row in ``view`` though their lane (each of them that must, and each group
    that takes part in it) had to get one. O(messages), and the number of distinct lanes for what is missing.

    only: lanes in which it can be judged at all; None: all. A lane of -1 among them stands for any.
    """
    if not index.groups and not index.has_musts and not (index.acknowledged & ~_had(index, view)).any():
        nothing = np.empty(0, dtype=np.int64)
        return Fate(nothing, nothing, nothing, {})
    lost = np.zeros(index.size, dtype=bool)
    gone, waiting = lost.copy(), lost.copy()
    by_group: dict[str, int] = {}
    single = len(index.meta.lanes) == 1 and only is None
    for group, mine, lanes in index.per_group(view):
        got = _had(index, mine)
        own = np.zeros(index.size, dtype=bool) if group else lost
        for ids, reach in _missing(index, mine, got):
            if only is not None and -1 not in only and not (only & reach):
                continue
            if group and not (lanes & reach) and not (single and not lanes):
                continue  # no sign that this group takes part in the lane
            described = [index.lane(n) for n in reach]
            if any(lane.gone for lane in described):
                gone[ids] = True
            elif any(not lane.drained for lane in described):
                waiting[ids] = True
            else:
                own[ids] = True
        if group:
            by_group[group] = int(np.count_nonzero(own))
            lost |= own
    return Fate(np.flatnonzero(lost), np.flatnonzero(waiting & ~lost & ~gone), np.flatnonzero(gone & ~lost), by_group)


def _had(index: Index, view: View) -> Array:
    return index.got if view is index.arrivals else index.flags(view.ids)


def _missing(index: Index, view: View, got: Array) -> Iterable[tuple[Array, frozenset[int]]]:
    """(ids that are missing, the lanes they were to be found in), lane by lane."""
    missing = np.flatnonzero(index.acknowledged & ~got)
    if index.has_musts:
        missing = np.flatnonzero(index.acknowledged)
    if not len(missing):
        return
    lanes = index.of_message("lane")[missing]
    for number, places in by_value(lanes):
        ids = missing[places]
        lane = index.lane(number)
        if not lane.musts:
            yield ids[~got[ids]], lane.closure
        for must in sorted(lane.musts):
            there = index.flags(view.ids[view["lane"] == must])
            yield ids[~there[ids]], frozenset((must,))
