"""Done by somebody who was not in charge any more."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.asof import last_before
from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(anomalies=("zombie_effect",))
def zombie_effect(index: Index) -> Finding:
    """An ``ok`` effect began after its lane had been revoked from the process and not been assigned to it again. It is
    revoked by the process's own ``revoke`` row or, as one that sleeps is not told, because another member of its
    consumer group (as the metadata names them) had been assigned the lane since. A row without a lane is about all
    lanes of its process. O((effects + assignments) log of them), nothing where there are no such rows.
    """
    effects = index.effects
    assigns, revokes = index.ok("assign"), index.ok("revoke")
    if not len(effects) or not (len(revokes) or len(assigns)):
        return Finding(anomalies=found(zombie_effect=Count()))
    sent_to = index.of_message("lane")[effects.ids] if len(index.sends) else effects["lane"]
    lane = np.where(effects["lane"] >= 0, effects["lane"], sent_to)
    process, start = effects["process"], effects["start_ns"]
    at_lane, at_any = _code(process, lane), _code(process, np.full(len(process), -1))
    assigned_to = _code(assigns["process"], assigns["lane"])
    assigned = np.maximum(
        _latest(at_lane, start, assigned_to, assigns["end_ns"]), _latest(at_any, start, assigned_to, assigns["end_ns"])
    )
    revoked_from = _code(revokes["process"], revokes["lane"])
    # Strictly before: what began in the very instant contradicts nothing.
    revoked = np.maximum(
        _latest(at_lane, start - 1, revoked_from, revokes["end_ns"]),
        _latest(at_any, start - 1, revoked_from, revokes["end_ns"]),
    )
    zombie = revoked > assigned
    mine, theirs = index.named_group(process), index.named_group(assigns["process"])
    member = np.flatnonzero(theirs >= 0)
    if len(member):
        taker = last_before(
            _code(mine, lane), start - 1, _code(theirs, assigns["lane"])[member], assigns["end_ns"][member]
        )
        taken = np.flatnonzero((taker >= 0) & (mine >= 0) & (assigned >= 0))
        rows = member[taker[taken]]
        other = index.slot(assigns["process"])[rows] != index.slot(process)[taken]
        zombie[taken[other & (assigns["end_ns"][rows] > assigned[taken])]] = True
    return Finding(anomalies=found(zombie_effect=index.count(distinct(effects.ids[zombie]))))


def _code(left: Array, right: Array) -> Array:
    return (left.astype(np.int64) << 32) | (right.astype(np.int64) & 0xFFFFFFFF)


def _latest(units: Array, times: Array, event_units: Array, event_times: Array) -> Array:
    """When the last event of the unit was, at or before the time; -1 if there was none."""
    if not len(event_times):
        return np.full(len(units), -1, dtype=np.int64)
    place = last_before(units, times, event_units, event_times)
    return np.where(place >= 0, event_times[place], -1)
