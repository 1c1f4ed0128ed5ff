"""Done and never asked for."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.base import checker, found
from brokerproof.checkers.index import Index
from brokerproof.finding import Finding


@checker(anomalies=("effect_of_nobody",))
def effect_of_nobody(index: Index) -> Finding:
    """An ``ok`` effect of a number that no send row has, whatever its outcome. O(effects)."""
    happened = index.flags(index.effects.ids)
    return Finding(anomalies=found(effect_of_nobody=index.count(np.flatnonzero(happened & ~index.sent))))
