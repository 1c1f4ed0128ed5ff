"""Acknowledged, and the world did not change."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.fate import absent
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct
from brokerproof.finding import Count, Finding
from brokerproof.history import Array

#: Error of a settle that gives the message back to its queue.
_GIVEN_BACK = "REQUEUED"


@checker(anomalies=("effect_lost",))
def effect_lost(index: Index) -> Finding:
    """A send was ``ok``, its lane was drained, and the message has no effect. Judged only where there are consumers and
    effects at all, and not in lanes that nobody but the final reader took part in. O(messages).

    Not counted, since it is not known whether they would have had their effect: messages with an effect that is
    ``info``, and those that the final reader still found and no consumer had settled: in a queue, whoever had held
    them; in a log, beyond what the consumers had committed. They were not worked off, which is evidence missing.
    details: ``beyond_consumers`` how many the latter are, ``perhaps`` the former.
    """
    consumers = "consumer" in index.meta.processes or not index.meta.processes
    if not index.has_effects or not consumers:
        return Finding(anomalies=found(effect_lost=Count()))
    only = index.once("lanes judged by effect", lambda: judged_lanes(index))
    without = index.flags(absent(index, index.effects, only=only).lost)
    perhaps = without & index.perhaps_effects
    beyond = without & ~perhaps & _only_read_at_the_end(index)
    ids = np.flatnonzero(without & ~perhaps & ~beyond)
    details: dict[str, int] = {}
    missing: tuple[str, ...] = ()
    if perhaps.any() or beyond.any():
        details = {"perhaps": int(np.count_nonzero(perhaps)), "beyond_consumers": int(np.count_nonzero(beyond))}
    if beyond.any():
        missing = (f"{details['beyond_consumers']} messages were not worked off when the final read found them",)
    return Finding(anomalies=found(effect_lost=index.count(ids, **details)), missing=missing)


def judged_lanes(index: Index) -> frozenset[int]:
    """Lanes that somebody works on; whoever judges a part of a history lays those of the whole into ``index.kept``."""
    worked = index.lanes_of(index.view("effect"))
    if index.has_musts:
        return worked  # of the lanes that each get a copy, some may be there for somebody who does no work
    rows = [index.receives, index.settles]
    by_reader = index.lanes_of(rows[0].where(index.by_role(rows[0], "reader")))
    for view in rows:
        worked |= index.lanes_of(view.where(~index.by_role(view, "reader")))
    return index.lanes_of(index.sends) - (by_reader - worked)


def _only_read_at_the_end(index: Index) -> Array:
    """Messages that a reader found although consumers were due them, and that none of them had settled. One that was given
    back (``REQUEUED``) may yet have its turn; one that a consumer kept and said nothing of (``LEFT``) has had it."""
    out = np.zeros(index.size, dtype=bool)
    view = index.receives
    if not len(view) or "reader" not in index.meta.processes:
        return out
    reader = index.by_role(view, "reader")
    by_reader, by_others = view.where(reader), view.where(~reader)
    if not len(by_reader):
        return out
    settles = index.view("settle").readable
    settles = settles.where(index.numbers.has(settles["msg"]) & ~index.by_role(settles, "reader"))
    for code in distinct(settles["error"]).tolist():
        if index.error(code) == _GIVEN_BACK:
            settles = settles.where(settles["error"] != code)
    settled = index.flags(settles.ids)
    queue = index.on(by_reader, logs=False)
    out[queue.ids] = True
    logs, worked = index.on(by_reader, logs=True), index.on(by_others, logs=True)
    commits = index.on(index.ok("commit"), logs=True)
    for lane in index.lanes_of(logs):
        # What was committed is passed over, whether or not anybody ever saw it: that is how auto-commit loses.
        committed = commits["value"][commits["lane"] == lane]
        reached = (
            int(committed.max()) - 1 if len(committed) else int(worked["pos"][worked["lane"] == lane].max(initial=-1))
        )
        out[logs.ids[(logs["lane"] == lane) & (logs["pos"] > reached)]] = True
    return out & ~settled
