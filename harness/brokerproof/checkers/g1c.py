"""Transactions that have read from each other."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.dependencies import cycles, dependencies, knotted
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(anomalies=("g1c",))
def g1c(index: Index) -> Finding:
    """Transactions that form a cycle of reads (Adya's G1c): each received what another of them had sent, although it
    could only be seen after that one's commit. Counted are transactions that were not aborted for certain; what an
    aborted one sent is *aborted_read*, and what one sent itself *precommitted_read*. O(sends + receives), beyond that
    only what lies between transactions that read from a later one.

    A log does not isolate writes, so a cycle that needs their order too (one wrote behind the other, which read from
    it) contradicts nothing; details: ``through_writes`` how many more transactions lie on such. Source: A. Adya, Weak
    Consistency (MIT, 1999), 4.2; jepsen.tests.kafka, ``allowed-error-types``.
    """
    if not index.has_transactions or not len(index.sends):
        return Finding(anomalies=found(g1c=Count()))
    edges = dependencies(index)
    made = cycles(index, edges.reads)
    alone = (knotted(index, edges.reads) >= 0) | (knotted(index, edges.writes) >= 0)
    more = int(np.count_nonzero((knotted(index, edges.reads, edges.writes) >= 0) & ~alone))
    details = {**made.details, **({"through_writes": more} if more else {})}
    return Finding(anomalies=found(g1c=Count(count=made.count, messages=made.messages, details=details)))
