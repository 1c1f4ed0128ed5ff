"""What was the case just before: joins by time."""

from __future__ import annotations

import numpy as np

from brokerproof.history import Array


def last_before(units: Array, times: Array, event_units: Array, event_times: Array) -> Array:
    """For each (unit, time) the place of the last event of the same unit at or before it, -1 if there is none. Events
    at the same time count in the order in which they stand. O((n + m) log(n + m))."""
    n, m = len(units), len(event_units)
    if not n or not m:
        return np.full(n, -1, dtype=np.int64)
    unit = np.concatenate([event_units, units])
    time = np.concatenate([event_times, times])
    is_query = np.concatenate([np.zeros(m, dtype=bool), np.ones(n, dtype=bool)])
    order = np.lexsort((np.arange(n + m), is_query, time, unit))
    at = np.where(is_query[order], -1, np.arange(n + m))
    last = np.maximum.accumulate(at)
    known = (last >= 0) & (unit[order] == unit[order][last])
    place = np.where(known, order[last], -1)
    out = np.full(n, -1, dtype=np.int64)
    asked = is_query[order]
    out[order[asked] - m] = place[asked]
    return out
