"""Came only after the heal."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.faulttimes import fault_times
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(observations=("late",))
def late(index: Index) -> Finding:
    """The message was sent before the last heal, and its first ``ok`` receive came after: it was missing for a while,
    but not lost. Without a heal there is none. O(messages)."""
    heals = [at for at, what, _ in fault_times(index) if what == "heal"]
    if not heals or not len(index.receives):
        return Finding(observations=found(late=Count()))
    heal = max(heals)
    before = index.flags(index.receives.ids[index.receives["end_ns"] <= heal])
    early = index.sent & (index.of_message("start_ns") < heal)
    return Finding(observations=found(late=index.count(np.flatnonzero(early & index.seen & ~before))))
