"""Once sent, twice there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels, by_value, distinct, member
from brokerproof.checkers.positions import placed, positions, readable
from brokerproof.checkers.repeats import repeats
from brokerproof.checkers.view import View
from brokerproof.finding import Finding
from brokerproof.history import Array


@checker(anomalies=("duplicated",))
def duplicated(index: Index) -> Finding:
    """On a log lane: the same message at two positions (one position read again is not). On a queue lane: a second
    ``ok`` receive that the broker does not flag as a redelivery (attempt 0), or any that began after the message's
    ``ok`` settle. Lanes that each have to get the message, and consumer groups, are judged apart; the topic-partitions
    that a client chooses between are one log.

    details, in messages: ``log``, ``queue``; ``resend`` the application had sent it again, ``broker`` it had not;
    ``after_settle``; ``attempt_unknown`` came repeatedly where the broker tells no attempt, which counts only after a
    settle. O(receives), and O(k log k) for the k receives of what came repeatedly.
    """
    log = _on_logs(index)
    queue, after, unknown = _on_queues(index)
    ids = distinct(np.concatenate([log, queue]))
    if not len(ids) and not len(unknown):
        return Finding(anomalies=found(duplicated=index.count(ids)))
    resend = int(np.count_nonzero(index.resent[ids]))
    details = {
        "log": len(log),
        "queue": len(queue),
        "resend": resend,
        "broker": len(ids) - resend,
        "after_settle": len(after),
        "attempt_unknown": len(unknown),
    }
    return Finding(anomalies=found(duplicated=index.count(ids, **details)))


def _on_logs(index: Index) -> Array:
    """Ids of messages that lie at two positions, by what anybody said about positions: acknowledgements, and receives
    of any outcome."""
    if placed(index).single:
        return np.empty(0, dtype=np.int64)
    where, place = positions(index), placed(index).slot
    told = ((where.acknowledged, where.acknowledged_slots), (where.received, where.received_slots))
    wrong = [ids[place[ids] != here] for view, slots in told for here, ids in readable(index, view, slots)]
    suspect = index.flags(np.concatenate(wrong))
    views = [view.readable for view, _ in told]
    rows = [np.flatnonzero(suspect[v.ids]) for v in views]
    ids, lane, pos = (
        np.concatenate([(v.ids if c == "ids" else v[c])[r] for v, r in zip(views, rows, strict=True)])
        for c in ("ids", "lane", "pos")
    )
    log = index.one_place(lane)
    order = np.lexsort((pos, lane, log, ids))
    ids, lane, pos, log = ids[order], lane[order], pos[order], log[order]
    same = (ids[1:] == ids[:-1]) & (log[1:] == log[:-1])
    elsewhere = (pos[1:] != pos[:-1]) | (lane[1:] != lane[:-1])
    return distinct(ids[1:][same & elsewhere])


def _on_queues(index: Index) -> tuple[Array, Array, Array]:
    """Ids that are duplicated; those of them that came after their settle; those that came repeatedly, attempt unknown."""
    none = np.empty(0, dtype=np.int64)
    counted, after, unknown = [none], [none], [none]
    groups = index.per_group(index.on(index.receives, logs=False))
    for group, view in ((group, some) for group, whole, _ in groups for some in index.deliveries(whole)):
        again = repeats(index, view, index.one_place(view["lane"]) if index.routes else view["lane"])
        if not len(again.places):
            continue
        ids, place = view.ids[again.places], index.one_place(view["lane"][again.places])
        nth = np.arange(len(ids)) - np.maximum.accumulate(np.where(again.first, np.arange(len(ids)), 0))
        attempt = view["attempt"][again.places]
        settles = next(rows for name, rows, _ in index.per_group(index.settles) if name == group)
        late = (nth > 0) & (view["start_ns"][again.places] >= _settled_at(index, settles, ids, place))
        allowed, cycles = np.ones(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool)
        for lane, rows in by_value(view["lane"][again.places]) if index.routes else ():
            allowed[rows] = _copies(index, lane)
            cycles[rows] = _returns(index, lane)
        fresh = (nth >= allowed) & (attempt == 0) & ~cycles
        counted.append(ids[fresh | late])
        after.append(ids[late])
        unknown.append(ids[(nth > 0) & (attempt < 0)])
    doubles, silent = distinct(np.concatenate(counted)), distinct(np.concatenate(unknown))
    return doubles, distinct(np.concatenate(after)), silent[~member(silent, doubles)]


def _settled_at(index: Index, settles: View, ids: Array, places: Array) -> Array:
    """When the message had been settled in that place, for certain; the end of time if never."""
    out = np.full(len(ids), np.iinfo(np.int64).max)
    if not len(settles):
        return out
    settles = settles.take(np.flatnonzero(index.flags(ids)[settles.ids]))
    where = index.one_place(settles["lane"])
    labels = Labels([places, where])
    # A settle that does not say its lane counts for any.
    asked = (ids * labels.size + labels.codes(places), ids)
    for of, mine in ((settles.ids * labels.size + labels.codes(where), where >= 0), (settles.ids, where < 0)):
        if mine.any():
            order = np.lexsort((settles["end_ns"][mine], of[mine]))
            code, end = of[mine][order], settles["end_ns"][mine][order]
            want = asked[0] if of is not settles.ids else asked[1]
            at = np.minimum(np.searchsorted(code, want), len(code) - 1)
            out = np.where(code[at] == want, np.minimum(out, end[at]), out)
    return out


def _copies(index: Index, lane: int) -> int:
    """How many copies of one message the plan allows in the lane."""
    copies = 1
    for entries in index.routes.values():
        entry: Mapping[str, object] = entries.get(lane, {})
        given = entry.get("copies", 1)
        if isinstance(given, int):
            copies = max(copies, given)
    return copies


def _returns(index: Index, lane: int) -> bool:
    """Whether messages may come back to the lane by the routes (a retry queue), where a second time is no double."""
    reached: set[int] = set()
    places = {lane: int(index.one_place(np.array([lane]))[0])}
    todo = [lane]
    while todo:
        here = todo.pop()
        for there in index.routes.get(here, {}):
            place = places.setdefault(there, int(index.one_place(np.array([there]))[0]))
            if place == places[here] or there in reached:
                continue  # a choice between equals is no way round
            if place == places[lane]:
                return True
            reached.add(there)
            todo.append(there)
    return False
