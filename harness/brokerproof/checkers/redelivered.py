"""Delivered again, and said so."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.repeats import repeats
from brokerproof.finding import Finding


@checker(observations=("redelivered",))
def redelivered(index: Index) -> Finding:
    """The message has an ``ok`` receive that the broker flags as a redelivery (attempt above 0), or a second ``ok``
    receive in the same queue lane, or in a log lane a second one by the same process. That is no contradiction:
    at-least-once says so. O(receives), and O(k log k) for the k receives of what came repeatedly."""
    again = index.flags(np.empty(0, dtype=np.int64))
    view = index.receives
    if view.greatest("attempt") > 0:
        again[view.ids[view["attempt"] > 0]] = True
    for mine in (
        some for _, whole, _ in index.per_group(index.on(view, logs=False)) for some in index.deliveries(whole)
    ):
        again[mine.ids[repeats(index, mine, mine["lane"]).places]] = True
    # A log is read by several clients; only one that reads it again has had a redelivery.
    logs = index.on(view, logs=True)
    again[logs.ids[repeats(index, logs, logs["lane"], logs["process"]).places]] = True
    return Finding(observations=found(redelivered=index.count(np.flatnonzero(again))))
