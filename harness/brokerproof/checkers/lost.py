"""Acknowledged and gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.fate import fate
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, by_value
from brokerproof.finding import Finding
from brokerproof.history import Array

#: How many senders are told apart in the details.
_SENDERS_MAX = 50
_NEVER = np.iinfo(np.int64).max


@checker(anomalies=("lost",))
def lost(index: Index) -> Finding:
    """A send was ``ok``, its lane was drained, and nobody received the message anywhere it was routed to (nor, where
    there are several consumer groups, did each group that takes part in the lane).

    details: ``tail`` nothing later of the same sender and lane was read; ``middle`` something was; ``prefix`` those of
    ``middle`` before which nothing of that sender and lane was read. O(messages) plus O(m log m) for the missing ones.
    """
    judged = fate(index)
    details: dict[str, Any] = {"prefix": 0, "middle": 0, "tail": 0}
    if len(judged.lost):
        details |= places(index).details()
    if judged.by_group:
        details["by_group"] = dict(judged.by_group)
    return Finding(anomalies=found(lost=index.count(judged.lost, **details)))


@dataclass(frozen=True, slots=True)
class Places:
    """Where messages were lost and where they were read. A place is (sender's slot, lane).

    read: place -> least and greatest number that was read.  lost: the numbers that were lost, by place, ascending.
    """

    read: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    lost: Mapping[tuple[int, int], Array] = field(default_factory=dict)

    def merge(self, other: Places) -> Places:
        """Of two parts of a history; associative."""
        read = dict(self.read)
        for place, (first, last) in other.read.items():
            low, high = read.get(place, (first, last))
            read[place] = min(low, first), max(high, last)
        lost = dict(self.lost)
        for place, numbers in other.lost.items():
            lost[place] = np.sort(np.concatenate([lost[place], numbers])) if place in lost else numbers
        return Places(read, lost)

    def renumbered(self, numbers: Array) -> Places:
        """With numbers[n] for each message n."""
        read = {place: (int(numbers[low]), int(numbers[high])) for place, (low, high) in self.read.items()}
        return Places(read, {place: numbers[lost] for place, lost in self.lost.items()})

    def details(self) -> dict[str, Any]:
        """Numbers of a sender rise in the order of its sends, so they tell what is earlier and what is later."""
        out: dict[str, Any] = {"prefix": 0, "middle": 0, "tail": 0}
        by_sender: dict[str, dict[str, int]] = {}
        for (slot, lane), numbers in sorted(self.lost.items()):
            first, last = self.read.get((slot, lane), (_NEVER, -1))
            tail = int(np.count_nonzero(numbers > last))
            prefix = int(np.count_nonzero((numbers < first) & (numbers <= last)))
            mine = {"prefix": prefix, "middle": len(numbers) - tail, "tail": tail}
            named = str(slot) in by_sender or len(by_sender) < _SENDERS_MAX
            for name, count in mine.items():
                out[name] += count
                if named:
                    of = by_sender.setdefault(str(slot), dict.fromkeys(mine, 0))
                    of[name] += count
        return {**out, "by_sender": by_sender}


def places(index: Index) -> Places:
    """O(messages)."""
    sender, lane = index.slot(index.of_message("process")), index.of_message("lane")
    senders, lanes = Labels([sender]), Labels([lane])
    place = senders.codes(sender) * lanes.size + lanes.codes(lane)
    dense = Labels([place])
    place = dense.codes(place)
    read = np.flatnonzero(index.sent & index.got)
    first = np.full(dense.size, index.size, dtype=np.int64)
    last = np.full(dense.size, -1, dtype=np.int64)
    # Ids ascend: the first that is written of each place is its least, the last its greatest.
    first[place[read[::-1]]] = read[::-1]
    last[place[read]] = read
    number = index.numbers.number
    where = np.flatnonzero(last >= 0)
    ends = zip(
        _pairs(sender, lane, first[where]), number(first[where]).tolist(), number(last[where]).tolist(), strict=True
    )
    gone = fate(index).lost
    by_place = {_pairs(sender, lane, gone[at[:1]])[0]: number(gone[at]) for _, at in by_value(place[gone])}
    return Places({pair: (low, high) for pair, low, high in ends}, by_place)


def _pairs(sender: Array, lane: Array, ids: Array) -> list[tuple[int, int]]:
    return list(zip(sender[ids].tolist(), lane[ids].tolist(), strict=True))
