"""Positions of log lanes as dense slots, and what is known to lie in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, Numbers, bits, holding
from brokerproof.checkers.view import CHUNK, View
from brokerproof.history import Array

#: Positions may begin this many times the rows above zero before it pays to count from the least.
_FROM_ZERO = 2


@dataclass(frozen=True, slots=True)
class Positions:
    """A slot is a (lane, position) that somebody told of; slots of a lane ascend with the position.

    acknowledged, received: the ``ok`` sends and the receives (of any outcome) that tell a position, and their slots.
    size: number of slots, those that nobody told of included.
    """

    acknowledged: View
    acknowledged_slots: Array
    received: View
    received_slots: Array
    size: int
    lanes: Labels
    span: int
    base: int
    _packed: Numbers | None
    _by_position: Numbers | None

    def slot(self, lanes: Array, positions: Array) -> Array:
        """Slots of known places."""
        if self._by_position is not None:
            positions = self._by_position.ids(positions)
        elif self.base:
            positions = positions - self.base
        slot = self.lanes.codes(lanes) * self.span + positions if self.lanes.size > 1 else positions
        return self._packed.ids(slot) if self._packed is not None else slot

    def lane_of_slots(self) -> Callable[[Array], Array]:
        """A function from slots to the codes of their lanes in ``lanes``."""
        if self._packed is None:
            return lambda slots: slots // self.span
        table = np.zeros(self.size, dtype=np.int64)
        for view, slots in ((self.received, self.received_slots), (self.acknowledged, self.acknowledged_slots)):
            table[slots] = self.lanes.codes(view["lane"])
        return lambda slots: table[slots]


def positions(index: Index) -> Positions:
    """Computed once; O(rows of log lanes) where positions are compact, else a sort."""
    return index.once("positions", lambda: _positions(index))


def _positions(index: Index) -> Positions:
    acknowledged = _told(index.on(index.acknowledgements, logs=True))
    received = _told(index.on(index.view("receive"), logs=True))
    views = [v for v in (acknowledged, received) if len(v)]
    nothing = np.empty(0, dtype=np.int64)
    if not views:
        return Positions(acknowledged, nothing, received, nothing, 0, Labels([]), 1, 0, None, None)
    single = all(v.is_one("lane") and v.span("lane") == views[0].span("lane") for v in views)
    lanes = Labels([] if single else [v["lane"] for v in views])
    low = min(v.least("pos") for v in views)
    high = max(v.greatest("pos") for v in views)
    if high < _FROM_ZERO * max(len(v) for v in views):
        low = 0  # then a position is its slot as it stands
    span, by_position, packed = high - low + 1, None, None
    if bits(span) + bits(lanes.size) > 62:
        by_position = Numbers([v["pos"] for v in views])
        span, low = by_position.size, 0
    made = Positions(acknowledged, nothing, received, nothing, lanes.size * span, lanes, span, low, None, by_position)
    slots = [_slots(made, v) for v in (acknowledged, received)]
    if made.size > max(4 * max(len(s) for s in slots), 1 << 16):
        packed = Numbers(slots)
        slots = [packed.ids(s) for s in slots]
    size = packed.size if packed is not None else made.size
    return Positions(acknowledged, slots[0], received, slots[1], size, lanes, span, low, packed, by_position)


def _slots(places: Positions, view: View) -> Array:
    if places.lanes.size == 1 and not places.base and view["pos"].dtype == np.int64 and places._by_position is None:
        return view["pos"]
    out = np.empty(len(view), dtype=holding(places.size))
    at = 0
    for lane, pos in view.chunks("lane", "pos"):
        out[at : at + len(pos)] = places.slot(lane, pos)
        at += len(pos)
    return out


def _told(view: View) -> View:
    return view.where(view["pos"] >= 0) if view.least("pos") < 0 else view


def readable(index: Index, view: View, slots: Array) -> Iterator[tuple[Array, Array]]:
    """(slots, ids) of the rows that are about a message, some at a time."""
    sound = view.least("msg") >= 0
    for low in range(0, len(view), CHUNK):
        msg, here = view["msg"][low : low + CHUNK], slots[low : low + CHUNK]
        if not sound:
            mask = msg >= 0
            msg, here = msg[mask], here[mask]
        yield here, index.numbers.ids(msg)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each message lies by what anybody said: acknowledgements, and receives of any outcome.

    slot: over messages, the last that was told; -1 where nobody told one.  single: no message lies in two slots.
    alone: no slot holds two messages (found out only where ``single``; else False: look).
    """

    slot: Array
    single: bool
    alone: bool


def placed(index: Index) -> Placed:
    """Computed once; O(rows of log lanes)."""
    return index.once("placed", lambda: _placed(index))


def _placed(index: Index) -> Placed:
    where = positions(index)
    told = ((where.acknowledged, where.acknowledged_slots), (where.received, where.received_slots))
    slot = np.full(index.size, -1, dtype=holding(where.size))
    for view, slots in told:
        for here, ids in readable(index, view, slots):
            slot[ids] = here
    single = all(bool((slot[ids] == here).all()) for view, slots in told for here, ids in readable(index, view, slots))
    if not single:
        return Placed(slot, False, False)
    used = np.zeros(where.size, dtype=bool)
    for view, slots in told:
        for here, _ in readable(index, view, slots):
            used[here] = True
    # Where each message has one slot, there are as many slots in use as messages only if each holds one.
    return Placed(slot, True, int(np.count_nonzero(used)) == int(np.count_nonzero(slot >= 0)))


def known(index: Index) -> Array:
    """Over slots: whether a message is known to lie there that a reader may not pass over: acknowledged, or received
    and of unknown outcome. Not what was refused or aborted, nor what may belong to an open transaction."""
    return index.once("known positions", lambda: _known(index))


def _known(index: Index) -> Array:
    where = positions(index)
    out = np.zeros(where.size, dtype=bool)
    out[where.acknowledged_slots] = True
    if len(where.received):
        may_pass = ~index.acknowledged
        if index.acknowledgements is not index.sends:
            may_pass &= ~index.maybe | index.flags(index.sends.ids[index.sends["batch"] >= 0])
        for slots, ids in readable(index, where.received, where.received_slots):
            out[slots[~may_pass[ids]]] = True
    return out
