"""Received in a lane where it has no business."""

from __future__ import annotations

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct
from brokerproof.finding import Finding


@checker(anomalies=("misrouted",))
def misrouted(index: Index) -> Finding:
    """An ``ok`` receive in a lane that the routes do not allow for any lane that the message was sent to. A receive
    there does not count against loss. O(receives); sends or receives without a lane are not judged."""
    ids = distinct(index.receives.ids[index.misrouted]) if len(index.misrouted) else index.misrouted
    return Finding(anomalies=found(misrouted=index.count(ids)))
