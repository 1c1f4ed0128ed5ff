"""Two messages in one place."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct, holding
from brokerproof.checkers.positions import placed, positions, readable
from brokerproof.finding import Count, Finding


@checker(anomalies=("inconsistent_positions",))
def inconsistent_positions(index: Index) -> Finding:
    """One position of a log lane holds two messages, by what acknowledgements and receives (of any outcome) say.
    Counted are positions; ``messages`` are those that share one. O(rows of log lanes)."""
    if placed(index).alone:
        return Finding(anomalies=found(inconsistent_positions=Count()))
    where = positions(index)
    told = ((where.acknowledged, where.acknowledged_slots), (where.received, where.received_slots))
    holder = index.scratch(where.size, -1, holding(index.size))
    for view, slots in told:
        for here, ids in readable(index, view, slots):
            holder[here] = ids
    wrong = [here[holder[here] != ids] for view, slots in told for here, ids in readable(index, view, slots)]
    places = distinct(np.concatenate(wrong)) if wrong else holder[:0]
    if not len(places):
        return Finding(anomalies=found(inconsistent_positions=Count()))
    marked = np.zeros(where.size, dtype=bool)
    marked[places] = True
    sharing = [ids[marked[here]] for view, slots in told for here, ids in readable(index, view, slots)]
    return Finding(
        anomalies=found(
            inconsistent_positions=Count(
                count=len(places), messages=index.count(distinct(np.concatenate(sharing))).messages
            )
        )
    )
