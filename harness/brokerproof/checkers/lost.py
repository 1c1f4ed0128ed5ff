"""Acknowledged and gone."""

from __future__ import annotations

from typing import Any

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index, Labels
from brokerproof.finding import Finding
from brokerproof.history import Array

#: How many senders are told apart in the details.
_SENDERS_MAX = 50


@checker(anomalies=("lost",))
def lost(index: Index) -> Finding:
    """A send was ``ok``, its lane was drained, and nobody received the message anywhere it was routed to (nor, where
    there are several consumer groups, did each group that takes part in the lane).

    details: ``tail`` nothing later of the same sender and lane was read; ``middle`` something was; ``prefix`` those of
    ``middle`` before which nothing of that sender and lane was read. O(messages) plus O(m log m) for the missing ones.
    """
    fate = index.fate
    details: dict[str, Any] = {"prefix": 0, "middle": 0, "tail": 0}
    if len(fate.lost):
        details |= _split(index, fate.lost)
    if fate.by_group:
        details["by_group"] = dict(fate.by_group)
    return Finding(anomalies=found(lost=index.count(fate.lost, **details)))


def _split(index: Index, ids: Array) -> dict[str, Any]:
    """Numbers of a sender rise in the order of its sends, so ids tell what is earlier and what is later."""
    sender, lane = index.slot(index.of_message("process")), index.of_message("lane")
    senders, lanes = Labels([sender]), Labels([lane])
    place = senders.codes(sender) * lanes.size + lanes.codes(lane)
    places = Labels([place])
    place = places.codes(place)
    read = np.flatnonzero(index.sent & index.got)
    first = np.full(places.size, index.size, dtype=np.int64)
    last = np.full(places.size, -1, dtype=np.int64)
    np.minimum.at(first, place[read], read)
    np.maximum.at(last, place[read], read)
    tail = ids > last[place[ids]]
    prefix = ~tail & (ids < first[place[ids]])
    out: dict[str, Any] = {
        "prefix": int(np.count_nonzero(prefix)),
        "middle": int(np.count_nonzero(~tail)),
        "tail": int(np.count_nonzero(tail)),
    }
    by_sender = {}
    for slot in Labels([sender[ids]]).present(sender[ids]).tolist()[:_SENDERS_MAX]:
        mine = sender[ids] == slot
        by_sender[str(slot)] = {
            "prefix": int(np.count_nonzero(prefix & mine)),
            "middle": int(np.count_nonzero(~tail & mine)),
            "tail": int(np.count_nonzero(tail & mine)),
        }
    out["by_sender"] = by_sender
    return out
