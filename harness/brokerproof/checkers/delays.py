"""Delivered at another time than was asked for."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding
from brokerproof.history import Array

#: What a delivery may miss its due time by; claims with a narrower one look at the metrics.
TOLERANCE_NS = 1_000_000_000
#: A due time lies at least this far behind the send; a confirm number, which shares the column, hardly ever does.
_LEAST_DELAY_NS = 1_000_000


@checker(anomalies=("delivered_early", "delivered_late", "expired_but_delivered"))
def delays(index: Index) -> Finding:
    """A delayed send says in ``value`` when it is due, and its first ``ok`` receive comes more than a second before
    (*delivered_early*) or after (*delivered_late*); or ``value`` says when it expires and it comes more than a second
    after (*expired_but_delivered*).

    Which of the two a lane does is said by ``due`` in its metadata ("delay" or "expiry"; without it, delay). ``value``
    of a send is also where confirm numbers stand: a due time lies behind the send by a millisecond or more and is no
    number that so many sends could have reached. metrics: ``delay_error_p50_s``, ``delay_error_p99_s``. O(sends).
    """
    ids, due = due_times(index)
    nothing = Finding(
        anomalies={key: Count() for key in ("delivered_early", "delivered_late", "expired_but_delivered")}
    )
    if not len(ids) or not len(index.receives):
        return nothing
    first = np.full(index.size, np.iinfo(np.int64).max)
    np.minimum.at(first, index.receives.ids, index.receives["end_ns"])
    came = index.seen[ids]
    ids, due = ids[came], due[came]
    if not len(ids):
        return nothing
    error = first[ids].astype(np.float64) - due.astype(np.float64)
    expires = np.zeros(len(ids), dtype=bool)
    lane = index.of_message("lane")[ids]
    for number, description in enumerate(index.meta.lanes):
        if description.get("due") == "expiry":
            expires |= lane == number
    metrics = {}
    if not expires.all():
        p50, p99 = np.percentile(error[~expires], (50, 99))
        metrics = {"delay_error_p50_s": round(float(p50) / 1e9, 6), "delay_error_p99_s": round(float(p99) / 1e9, 6)}
    return Finding(
        anomalies=found(
            delivered_early=index.count(ids[~expires & (error < -TOLERANCE_NS)]),
            delivered_late=index.count(ids[~expires & (error > TOLERANCE_NS)]),
            expired_but_delivered=index.count(ids[expires & (error > TOLERANCE_NS)]),
        ),
        metrics=metrics,
    )


def due_times(index: Index) -> tuple[Array, Array]:
    """(ids, when they are due or expire in ns) of delayed messages."""
    nothing = np.empty(0, dtype=np.int64)
    sends = index.sends
    if not len(sends):
        return nothing, nothing
    most = 2 * len(sends)
    if sends.greatest("value") <= max(most, _LEAST_DELAY_NS):
        return nothing, nothing
    value = index.of_message("value")
    ids = np.flatnonzero((value > most) & (value - index.of_message("start_ns") >= _LEAST_DELAY_NS) & index.sent)
    return ids, value[ids]
