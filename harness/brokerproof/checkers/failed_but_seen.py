"""Refused and yet there."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Finding


@checker(anomalies=("failed_but_seen",))
def failed_but_seen(index: Index) -> Finding:
    """Every send of the message definitely failed, and there is an ``ok`` receive of it. O(messages)."""
    return Finding(anomalies=found(failed_but_seen=index.count(np.flatnonzero(index.refused & index.seen))))
