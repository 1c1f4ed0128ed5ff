"""Committed positions that lie."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import by_value, distinct
from brokerproof.checkers.positions import known, positions
from brokerproof.checkers.view import View
from brokerproof.finding import Count, Finding
from brokerproof.history import FAIL, Array

_NEVER = np.iinfo(np.int64).max


@checker(anomalies=("commit_regressed", "commit_ahead_of_work"))
def commit_order(index: Index) -> Finding:
    """*commit_regressed*: a committed position (the next to be read) lies before one that had been committed when this
    commit began, for the same consumer group and lane; counted are commits. *commit_ahead_of_work*: when a commit had
    ended, a known message before the committed position had not even begun to have its effect; counted are messages,
    from the first that the group received on; judged only where there are effects.

    Without groups in the metadata each client slot is its own. O(commits log commits + messages of the lane).
    """
    view = index.ok("commit")
    view = view.where(view["value"] >= 0) if len(view) else view
    if not len(view):
        return Finding(anomalies=found(commit_regressed=Count(), commit_ahead_of_work=Count()))
    unit = units(index, view)
    back = _regressed(unit, view)
    lanes = sorted({index.lane(n).name for n in distinct(view["lane"][back]).tolist()})[:100]
    regressed = Count(count=int(np.count_nonzero(back)), details={"lanes": lanes} if lanes else {})
    ahead = index.count(_ahead(index, unit, view))
    return Finding(anomalies=found(commit_regressed=regressed, commit_ahead_of_work=ahead))


def units(index: Index, view: View) -> Array:
    """(consumer group, or slot where there is none; lane) of each row as one integer."""
    group = index.named_group(view["process"])
    alone = index.slot(view["process"]).astype(np.int64) + (1 << 30)
    return (np.where(group >= 0, group, alone) << 32) | (view["lane"].astype(np.int64) & 0xFFFFFFFF)


def _regressed(unit: Array, view: View) -> Array:
    """Whether a greater value had been committed before this commit began, or, where the instants touch, by the same
    process in an earlier row."""
    out = np.zeros(len(view), dtype=bool)
    value, start, end, process = view["value"], view["start_ns"], view["end_ns"], view["process"]
    for _, mine in by_value(unit):
        by_end = mine[np.argsort(end[mine], kind="stable")]
        highest = np.maximum.accumulate(value[by_end])
        earlier = np.searchsorted(end[by_end], start[mine], side="left") - 1
        out[mine] |= (earlier >= 0) & (highest[np.maximum(earlier, 0)] > value[mine])
        next_one, last_one = mine[1:], mine[:-1]
        touching = (process[next_one] == process[last_one]) & (start[next_one] >= end[last_one])
        out[next_one] |= touching & (value[next_one] < value[last_one])
    return out


def _ahead(index: Index, unit: Array, view: View) -> Array:
    """Ids of messages that were committed before their effect began. An effect that is ``info`` may have happened."""
    where = positions(index)
    out = np.zeros(index.size, dtype=bool)
    if not index.has_effects or not where.size:
        return np.flatnonzero(out)
    effects = index.view("effect").readable
    effects = effects.where(effects["outcome"] != FAIL)
    lane, position, holder = _contents(index)
    worker, commits_of = units(index, effects) >> 32, dict(by_value(unit))
    firsts = {one: int(where.received_slots[places].min()) for one, places in by_value(units(index, where.received))}
    slots_of = dict(by_value(lane))
    effects_of = dict(by_value(worker))
    for group, members in by_value(np.array(list(commits_of), dtype=np.int64) >> 32):
        if group not in effects_of:
            continue
        began = index.scratch(index.size, _NEVER)
        np.minimum.at(began, effects.ids[effects_of[group]], effects["start_ns"][effects_of[group]])
        for one in np.array(list(commits_of), dtype=np.int64)[members].tolist():
            commits = commits_of[one]
            number = int(view["lane"][commits[0]])
            if one not in firsts or not index.lane(number).is_log:
                continue
            # From the group's first position on: slots of a lane ascend with the position.
            slots = slots_of[number]
            slots = slots[np.searchsorted(slots, firsts[one]) :]
            slots = slots[holder[slots] >= 0]
            # The commit that first covers each position: the earliest end among those of a greater value.
            order = np.argsort(view["value"][commits], kind="stable")
            values, ends = view["value"][commits][order], view["end_ns"][commits][order]
            earliest = np.append(np.minimum.accumulate(ends[::-1])[::-1], _NEVER)
            covered = earliest[np.searchsorted(values, position[slots], side="right")]
            out[holder[slots[began[holder[slots]] > covered]]] = True
    return np.flatnonzero(out)


def _contents(index: Index) -> tuple[Array, Array, Array]:
    """Over slots: lane, position, and the id of the message that is known to lie there, -1 if none is."""
    where = positions(index)
    lane = np.full(where.size, -2, dtype=np.int64)
    position, holder = np.full(where.size, -1, dtype=np.int64), np.full(where.size, -1, dtype=np.int64)
    for view, slots in ((where.received, where.received_slots), (where.acknowledged, where.acknowledged_slots)):
        if len(view):
            lane[slots], position[slots] = view["lane"], view["pos"]
            sound = view["msg"] >= 0
            holder[slots[sound]] = index.numbers.ids(view["msg"][sound])
    holder[~known(index)] = -1
    return lane, position, holder
