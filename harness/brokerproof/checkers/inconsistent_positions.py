"""Two messages in one place."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct
from brokerproof.checkers.positions import positions
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(anomalies=("inconsistent_positions",))
def inconsistent_positions(index: Index) -> Finding:
    """One position of a log lane holds two messages, by what acknowledgements and receives (of any outcome) say.
    Counted are positions; ``messages`` are those that share one. O(rows of log lanes)."""
    where = positions(index)
    rows: list[tuple[Array, Array]] = []
    for view, slots in ((where.acknowledged, where.acknowledged_slots), (where.received, where.received_slots)):
        if len(view):
            sound = view["msg"] >= 0
            whole = bool(sound.all())
            rows.append(
                (slots if whole else slots[sound], index.numbers.ids(view["msg"] if whole else view["msg"][sound]))
            )
    holder = np.full(where.size, -1, dtype=np.int64)
    for slots, ids in rows:
        holder[slots] = ids
    wrong = [slots[holder[slots] != ids] for slots, ids in rows]
    places = distinct(np.concatenate(wrong)) if wrong else holder[:0]
    if not len(places):
        return Finding(anomalies=found(inconsistent_positions=Count()))
    marked = np.zeros(where.size, dtype=bool)
    marked[places] = True
    ids = distinct(np.concatenate([ids[marked[slots]] for slots, ids in rows]))
    return Finding(anomalies=found(inconsistent_positions=Count(count=len(places), messages=index.count(ids).messages)))
