"""Transactions whose writes lie in each other."""

from __future__ import annotations

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.dependencies import cycles, dependencies
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(observations=("g0",))
def g0(index: Index) -> Finding:
    """Committed transactions whose writes form a cycle (Adya's G0): along the logs, one wrote behind the other and the
    other behind the one. Counted are transactions. An observation, since a log lets the writes of transactions lie
    between each other and isolates only what readers see; a queue tells no positions. O(sends of transactions, sorted).

    Source: A. Adya, Weak Consistency (MIT, 1999), 4.2; KIP-98, which lets transactional and other records interleave.
    """
    if not index.has_transactions or not len(index.sends):
        return Finding(observations=found(g0=Count()))
    return Finding(observations=found(g0=cycles(index, dependencies(index).writes)))
