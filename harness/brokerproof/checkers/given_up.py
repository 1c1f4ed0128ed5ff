"""Sent, never acknowledged, and nowhere."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import by_value
from brokerproof.finding import Count, Finding


@checker(observations=("given_up",))
def given_up(index: Index) -> Finding:
    """No send of the message is ``ok``, nobody received it, and its lane was drained. The broker owes nothing for it, so it is
    not *lost*; but the application that wanted it sent has given it up. details: ``refused`` of them, the application was
    told for certain. O(messages)."""
    if index.acknowledgements is index.sends:
        return Finding(observations=found(given_up=Count()))
    ids = np.flatnonzero(index.sent & ~index.acknowledged & ~index.seen)
    drained = np.zeros(len(ids), dtype=bool)
    for number, places in by_value(index.of_message("lane")[ids]):
        drained[places] = index.lane(number).drained
    ids = ids[drained]
    refused = int(np.count_nonzero(index.refused[ids]))
    return Finding(observations=found(given_up=index.count(ids, **({"refused": refused} if refused else {}))))
