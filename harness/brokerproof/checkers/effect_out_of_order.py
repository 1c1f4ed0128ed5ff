"""The world changed in another order than was asked."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import packed_order
from brokerproof.checkers.streams import streams
from brokerproof.finding import Count, Finding
from brokerproof.history import Array

_NEVER = np.iinfo(np.int64).max


@checker(anomalies=("effect_out_of_order",))
def effect_out_of_order(index: Index) -> Finding:
    """Within (sender's slot, key), over all processes: an effect began after one of a later-sent message had ended.
    Overlapping effects contradict nothing. Order claims are decided by this.

    details, in messages: ``repeated`` those of which only a further effect came too late, not the first. O(effects),
    plus an integer sort of the messages with effects where there is more than one stream.
    """
    stream, count = streams(index, by="slot")
    view = index.effects
    if not len(view) or not count:
        return Finding(anomalies=found(effect_out_of_order=Count()))
    ids = view.ids
    ended = np.full(index.size, _NEVER)
    if len(ids) == np.count_nonzero(index.flags(ids)):
        ended[ids] = view["end_ns"]
        began = None
    else:
        np.minimum.at(ended, ids, view["end_ns"])
        began = np.full(index.size, _NEVER)
        np.minimum.at(began, ids, view["start_ns"])
    later = _least_of_later(ended, stream, count)
    wrong = (view["start_ns"] > later[ids]) & (stream[ids] >= 0)
    if not wrong.any():
        return Finding(anomalies=found(effect_out_of_order=Count()))
    late = index.flags(ids[wrong])
    repeated = 0 if began is None else int(np.count_nonzero(late & (began <= later)))
    return Finding(anomalies=found(effect_out_of_order=index.count(np.flatnonzero(late), repeated=repeated)))


def _least_of_later(values: Array, stream: Array, count: int) -> Array:
    """For each message the least of ``values`` among the later messages of its stream."""
    if count == 1 and int(stream.min()) == 0:
        out = np.full(len(values), _NEVER)
        out[:-1] = np.minimum.accumulate(values[::-1])[::-1][1:]
        return out
    # Only messages that have an effect take part, and the few of them that do not share their stream drop out at once.
    there = np.flatnonzero((values < _NEVER) & (stream >= 0))
    order, group = packed_order(stream[there], count)
    ids = there[order]
    mine = values[ids]
    low = int(mine.min(initial=0))
    span = int(mine.max(initial=0)) - low + 1
    runs = int(np.count_nonzero(group[1:] != group[:-1])) + 1 if len(group) else 0
    if span * (runs + 1) < 1 << 62:
        rank = mine - low
        table = None
    else:
        # Hostile times: their ranks will do.
        table = np.sort(mine)
        rank, span = np.searchsorted(table, mine), len(table)
    # Backwards through the streams; every next one lies lower as a whole, so the running minimum starts afresh in it.
    run = np.concatenate([[0], np.cumsum(group[1:] != group[:-1])]) if len(group) else group
    lifted = rank + run * span
    least = np.minimum.accumulate(lifted[::-1])[::-1]
    following = np.full(len(ids), _NEVER)
    within = run[1:] == run[:-1]
    following[:-1][within] = (least[1:] - run[1:] * span)[within]
    out = np.full(len(values), _NEVER)
    has = following < _NEVER
    found_rank = following[has]
    out[ids[has]] = table[found_rank] if table is not None else found_rank + low
    return out
