"""Received and not readable."""

from __future__ import annotations

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(anomalies=("corrupted",))
def corrupted(index: Index) -> Finding:
    """An ``ok`` receive whose body could not be read (``msg`` -2): its number is not known, so rows are counted.
    O(receives)."""
    rows = index.unreadable
    if not len(rows):
        return Finding(anomalies=found(corrupted=Count()))
    by_lane = {index.lane(n).name: int((rows["lane"] == n).sum()) for n in sorted(index.lanes_of(rows))[:100]}
    return Finding(anomalies=found(corrupted=Count(count=len(rows), details={"by_lane": by_lane})))
