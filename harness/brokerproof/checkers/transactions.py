"""What readers saw of transactions."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index, batch_codes
from brokerproof.checkers.numbers import distinct, member
from brokerproof.finding import Count, Finding
from brokerproof.history import FAIL, INFO, OK, Array


@checker(anomalies=("aborted_read", "precommitted_read"))
def transactions(index: Index) -> Finding:
    """*aborted_read* (Adya's G1a): an ``ok`` receive of a message all of whose sends were refused or belong to
    transactions that were aborted for certain. *precommitted_read*: a transaction received, before its commit had
    ended, what it had itself sent. O(sends + receives) where there are transactions, else nothing."""
    if not index.has_transactions or not len(index.sends):
        return Finding(anomalies=found(aborted_read=Count(), precommitted_read=Count()))
    inside = index.sends.where(index.sends["batch"] >= 0)
    if not len(inside):
        return Finding(anomalies=found(aborted_read=Count(), precommitted_read=Count()))
    codes = batch_codes(inside)
    aborted = index.flags(inside.ids[member(codes, index.aborted)])
    seen_aborted = np.flatnonzero(aborted & index.refused & index.seen)
    return Finding(anomalies=found(aborted_read=index.count(seen_aborted), precommitted_read=index.count(_own(index))))


def _own(index: Index) -> Array:
    """Ids of messages that a transaction received though it had sent them and not yet ended."""
    sends, view = index.sends, index.receives
    batch = index.of_message("batch")
    mine = view.where((view["batch"] >= 0) & (batch[view.ids] == view["batch"]))
    mine = mine.where(index.of_message("process")[mine.ids] == mine["process"]) if len(mine) else mine
    if not len(mine) or not len(sends):
        return np.empty(0, dtype=np.int64)
    codes = batch_codes(mine)
    known = index.transactions(*((f, o) for f in ("txn_begin", "txn_commit", "txn_abort") for o in (OK, FAIL, INFO)))
    mine, codes = mine.where(member(codes, known)), codes[member(codes, known)]
    ended = np.full(len(mine), np.iinfo(np.int64).max)
    commits = index.ok("txn_commit")
    if len(commits) and len(mine):
        theirs = batch_codes(commits)
        order = np.argsort(theirs, kind="stable")
        at = np.minimum(np.searchsorted(theirs[order], codes), len(order) - 1)
        hit = theirs[order][at] == codes
        ended[hit] = commits["end_ns"][order][at[hit]]
    return distinct(mine.ids[mine["end_ns"] < ended])
