"""Sent again by the application."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(observations=("resent",))
def resent(index: Index) -> Finding:
    """The message has more than one send row: the application tried again. details: ``attempts`` rows beyond the
    first. O(sends)."""
    again = index.resends
    if not len(again):
        return Finding(observations=found(resent=Count()))
    ids = np.flatnonzero(index.resent)
    return Finding(observations=found(resent=index.count(ids, attempts=len(again) - len(ids))))
