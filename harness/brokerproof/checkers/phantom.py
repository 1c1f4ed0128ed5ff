"""Received and never sent."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Finding


@checker(anomalies=("phantom",))
def phantom(index: Index) -> Finding:
    """An ``ok`` receive of a number that no send row has, whatever its outcome. O(messages)."""
    return Finding(anomalies=found(phantom=index.count(np.flatnonzero(index.seen & ~index.sent))))
