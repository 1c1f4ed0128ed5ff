"""A cache that answers with what is gone."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.asof import last_before
from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import distinct
from brokerproof.finding import Count, Finding
from brokerproof.history import Array


@checker(anomalies=("stale_read",))
def stale_read(index: Index) -> Finding:
    """An ``ok`` read of a cache (or of a database) sees a version of a key that is older than one whose ``ok`` effect,
    the invalidation or the write, had ended before the read began. Counted are reads; ``messages`` are those whose
    effect they did not see.

    The versions of a key are the ``value`` of its effects and rise. The key is the row's own, or that of the effect's
    message; a read that names a lane is about the key of that lane only. Not judged: reads without a key or without a
    value (a miss is no old version), and effects that are ``info``. metrics: ``stale_s`` the longest time by which a
    read came after the effect that it did not see. O((reads + effects) log of them), nothing without reads.
    """
    reads, effects = index.ok("read"), index.ok("effect")
    if not len(reads) or not len(effects):
        return Finding(anomalies=found(stale_read=Count()))
    reads = reads.where((reads["key"] >= 0) & (reads["value"] >= 0))
    key = _keys(index)
    told = np.flatnonzero((key >= 0) & (effects["value"] >= 0))
    key, lane, version, end = (a[told] for a in (key, effects["lane"], effects["value"], effects["end_ns"]))
    newest = np.full(len(reads), -1, dtype=np.int64)
    # Strictly before: what ended in the very instant contradicts nothing.
    began = reads["start_ns"] - 1
    for mine, read_of, written_to in (
        (reads["lane"] >= 0, _code(reads["key"], reads["lane"]), _code(key, lane)),
        (reads["lane"] < 0, reads["key"].astype(np.int64), key.astype(np.int64)),
    ):
        newest[mine] = _newest_before(read_of[mine], began[mine], written_to, end, version)
    stale = np.flatnonzero(newest >= 0)
    stale = stale[reads["value"][stale] < version[newest[stale]]]
    if not len(stale):
        return Finding(anomalies=found(stale_read=Count()))
    missed = newest[stale]
    late = reads["start_ns"][stale] - end[missed]
    messages = effects["msg"][told[missed]]
    shown = index.count(index.numbers.ids(distinct(messages[messages >= 0]))).messages
    return Finding(
        anomalies=found(stale_read=Count(count=len(stale), messages=shown)),
        metrics={"stale_s": round(int(late.max()) / 1e9, 6)},
    )


def _keys(index: Index) -> Array:
    """The key of each ``ok`` effect, -1 where neither its row nor its message has one."""
    effects = index.ok("effect")
    own = effects["key"]
    if not len(index.sends) or int(own.min(initial=0)) >= 0:
        return own
    out = own.copy()
    bare = np.flatnonzero((own < 0) & (effects["msg"] >= 0))
    out[bare] = index.of_message("key")[index.numbers.ids(effects["msg"][bare])]
    return out


def _code(key: Array, lane: Array) -> Array:
    return (key.astype(np.int64) << 32) | (lane.astype(np.int64) & 0xFFFFFFFF)


def _newest_before(units: Array, times: Array, of: Array, end: Array, version: Array) -> Array:
    """For each (unit, time) the place of the effect with the greatest version among those of the unit that had ended
    by then, -1 if there is none."""
    if not len(of) or not len(units):
        return np.full(len(units), -1, dtype=np.int64)
    order = np.lexsort((end, of))
    rank = np.searchsorted(distinct(version), version[order])
    unit = np.concatenate([[0], np.cumsum(of[order][1:] != of[order][:-1])])
    # Each unit lies above the one before as a whole, so the running maximum starts afresh with it; beside it goes the
    # place where that maximum was met first.
    lifted = unit * (int(rank.max()) + 1) + rank
    fresh = np.concatenate([[True], lifted[1:] > np.maximum.accumulate(lifted)[:-1]])
    met = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    last = last_before(units, times, of[order], end[order])
    return np.where(last >= 0, order[met[last]], -1)
