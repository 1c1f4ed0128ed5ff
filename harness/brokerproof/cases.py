"""Claims that a list of cases decides: exchanges and queues are made, messages sent one by one, and everything is looked at.

def cases() -> Iterable[Case]: ...              each says what disagrees with the claim, or nothing
by_cases(cases, control)                        the control's cases must disagree, or the claim's could not go red
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from brokerproof.brokers.base import SupportsWiring
from brokerproof.experiment import PropertyExperiment, PropertyResult

#: What disagrees with the claim, JSON-able; None: nothing does.
Found = Mapping[str, Any] | None
#: Is handed the product's own wiring: exchanges and queues (``brokers.base.Wiring``), or topic-partitions.
Case = Callable[[Any], Found]
Cases = Callable[[], Iterable[Case]]


def by_cases(cases: Cases, control: Cases, *, topology: str = "cluster") -> PropertyExperiment:
    return PropertyExperiment(topology=topology, check=over(cases), control=over(control))


def over(cases: Cases) -> Callable[[SupportsWiring, int, int], PropertyResult]:
    """The check that runs these one by one, each with a wiring of its own, up to the first that disagrees. All of them, in
    every profile: they are few."""

    def check(cluster: SupportsWiring, seed: int, most: int) -> PropertyResult:
        tried = 0
        for case in cases():
            tried += 1
            with cluster.wiring() as wiring:
                found = case(wiring)
            if found is not None:
                return PropertyResult(cases=tried, counterexample=found)
        return PropertyResult(cases=tried)

    return check
