"""Acknowledged and not found, in a lane that nobody emptied."""

from __future__ import annotations

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.fate import fate
from brokerproof.checkers.index import Index
from brokerproof.finding import Finding


@checker(observations=("undrained",))
def undrained(index: Index) -> Finding:
    """A send was ``ok`` and nobody received the message, but a lane where it may be was never emptied: it is not known
    whether it is lost. The lane itself is a sentence in ``missing``. O(messages)."""
    lanes = [index.lane(n).name for n in index.undrained_lanes[:100]]
    return Finding(
        observations=found(undrained=index.count(fate(index).undrained, **({"lanes": lanes} if lanes else {})))
    )
