"""Positions of log lanes as dense slots, and what is known to lie in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brokerproof.checkers.index import Index, Labels, View
from brokerproof.checkers.numbers import Numbers, bits
from brokerproof.history import Array


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
        positions = positions - self.base if self._by_position is None else self._by_position.ids(positions)
        slot = self.lanes.codes(lanes) * self.span + positions if self.lanes.size > 1 else positions
        return self._packed.ids(slot) if self._packed is not None else slot


def positions(index: Index) -> Positions:
    """Computed once; O(rows of log lanes) where positions are compact, else a sort."""
    kept = index.kept.get("positions")
    if kept is None:
        kept = index.kept["positions"] = _positions(index)
    made: Positions = kept
    return made


def _positions(index: Index) -> Positions:
    acknowledged = _told(index.on(index.acknowledgements, logs=True))
    received = _told(index.on(index.view("receive"), logs=True))
    views = [v for v in (acknowledged, received) if len(v)]
    nothing = np.empty(0, dtype=np.int64)
    if not views:
        return Positions(acknowledged, nothing, received, nothing, 0, Labels([]), 1, 0, None, None)
    lanes = Labels([v["lane"] for v in views])
    low = min(int(v["pos"].min()) for v in views)
    high = max(int(v["pos"].max()) for v in views)
    span, by_position, packed = high - low + 1, None, None
    if bits(span) + bits(lanes.size) > 62:
        by_position = Numbers([v["pos"] for v in views])
        span, low = by_position.size, 0
    made = Positions(acknowledged, nothing, received, nothing, lanes.size * span, lanes, span, low, None, by_position)
    slots = [made.slot(v["lane"], v["pos"]) for v in (acknowledged, received)]
    if made.size > max(4 * max(len(s) for s in slots), 1 << 16):
        packed = Numbers(slots)
        slots = [packed.ids(s) for s in slots]
    size = packed.size if packed is not None else made.size
    return Positions(acknowledged, slots[0], received, slots[1], size, lanes, span, low, packed, by_position)


def _told(view: View) -> View:
    if not len(view):
        return view
    return view.where(view["pos"] >= 0) if int(view["pos"].min()) < 0 else view


def known(index: Index) -> Array:
    """Over slots: whether a message is known to lie there that a reader may not pass over: acknowledged, or received
    and of unknown outcome. Not what was refused or aborted, nor what may belong to an open transaction."""
    kept = index.kept.get("known positions")
    if kept is None:
        where = positions(index)
        kept = np.zeros(where.size, dtype=bool)
        kept[where.acknowledged_slots] = True
        view = where.received
        if len(view):
            msg = view["msg"]
            sound = msg >= 0
            ids = index.numbers.ids(msg if sound.all() else msg[sound])
            slots = where.received_slots if sound.all() else where.received_slots[sound]
            may_pass = ~index.acknowledged & (~index.maybe | index.flags(index.sends.ids[index.sends["batch"] >= 0]))
            kept[slots[~may_pass[ids]]] = True
        index.kept["known positions"] = kept
    known_slots: Array = kept
    return known_slots
