"""The consumer said "done", and the world did not change."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(anomalies=("settled_but_lost",))
def settled_but_lost(index: Index) -> Finding:
    """A consumer's settle is ``ok`` (with automatic acknowledgement that is the broker's doing), and the message has no
    effect in the consumer's group (nor in its lane, where several lanes each have to get the message). Judged only
    where there are effects at all. The final reader has none. An effect that is ``info`` may have happened.
    O(settles + effects)."""
    if not index.has_effects or not len(index.settles):
        return Finding(anomalies=found(settled_but_lost=Count()))
    lost = np.zeros(index.size, dtype=bool)
    happened = {group: view for group, view, _ in index.per_group(index.effects)}
    for group, view, _ in index.per_group(index.settles):
        mine = view.where(~index.by_role(view, "reader"))
        if group:
            mine = mine.where(index.group_codes(mine) >= 0)
        effects = happened[group]
        if index.has_musts:
            for lane in index.lanes_of(mine):
                there = index.flags(effects.ids[(effects["lane"] == lane) | (effects["lane"] < 0)])
                lost |= index.flags(mine.ids[mine["lane"] == lane]) & ~there
        else:
            lost |= index.flags(mine.ids) & ~index.flags(effects.ids)
    return Finding(
        anomalies=found(settled_but_lost=index.count(np.flatnonzero(lost & ~index.perhaps_effects & index.sent)))
    )
