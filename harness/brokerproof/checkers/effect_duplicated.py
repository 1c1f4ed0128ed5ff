"""Once sent, twice done."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.repeats import repeats
from brokerproof.finding import Finding


@checker(anomalies=("effect_duplicated",))
def effect_duplicated(index: Index) -> Finding:
    """A message has more than one ``ok`` effect; where there are several consumer groups, or lanes that each have to
    get the message, more than one in the same. details: ``extra`` effects beyond the first. O(effects)."""
    twice = np.zeros(index.size, dtype=bool)
    extra = 0
    for group, view, _ in index.per_group(index.effects):
        if group:
            view = view.where(index.group_codes(view) >= 0)
        again = repeats(index, view, *((view["lane"],) if index.has_musts else ()))
        twice[view.ids[again.places]] = True
        extra += int(np.count_nonzero(~again.first))
    ids = np.flatnonzero(twice)
    return Finding(anomalies=found(effect_duplicated=index.count(ids, **({"extra": extra} if extra else {}))))
