"""Unknown and turned up."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Count, Finding


@checker(observations=("recovered",))
def recovered(index: Index) -> Finding:
    """No send of the message is ``ok``, one is ``info``, and it was received: the client never learnt that it had
    succeeded. details: ``unknown`` how many messages are ``info`` in all. O(messages)."""
    if index.acknowledgements is index.sends:
        return Finding(observations=found(recovered=Count()))
    details = {"unknown": int(np.count_nonzero(index.maybe))} if index.maybe.any() else {}
    return Finding(observations=found(recovered=index.count(np.flatnonzero(index.maybe & index.seen), **details)))
