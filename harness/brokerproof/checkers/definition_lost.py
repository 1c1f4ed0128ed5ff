"""The lane itself is gone."""

from __future__ import annotations

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.fate import fate
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(anomalies=("definition_lost",))
def definition_lost(index: Index) -> Finding:
    """After recovery a lane does not exist any more or cannot be read (a ``control`` row says so). Counted are lanes;
    what was acknowledged for them and not found stands here and is not *lost*. O(messages)."""
    lanes = index.gone_lanes
    gone = fate(index).definition_lost
    if not lanes:
        return Finding(anomalies=found(definition_lost=Count()))
    details = {"lanes": [lane.name for lane in lanes[:100]], "messages": len(gone)}
    return Finding(
        anomalies=found(definition_lost=Count(count=len(lanes), messages=index.count(gone).messages, details=details))
    )
