"""When faults were injected and healed, from the rows of the injector."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.index import Index

#: More injections than this are not told apart; a plan has a handful.
FAULTS_MAX = 10_000


def fault_times(index: Index) -> list[tuple[int, str, str]]:
    """(when in ns, "inject" or "heal", name and targets) of every ``fault`` row, by time. A row says
    "inject <name> <targets>" or "heal <name>"; others are passed over."""
    view = index.view("fault")
    out = []
    if len(view):
        for place in np.argsort(view["start_ns"], kind="stable")[:FAULTS_MAX].tolist():
            what, _, rest = index.error(int(view["error"][place])).partition(" ")
            if what in ("inject", "heal"):
                out.append((int(view["start_ns"][place]), what, rest))
    return out
