"""``cpu_starve``: a node gets a small share of the processor, and waits for the rest of each tenth of a second."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Limited, Node, Throttled
from brokerproof.errors import DeadlineError, HarnessError
from brokerproof.faults.base import Probe, Scene, fault
from brokerproof.faults.planes.nodes import NodeFault, need, resolve_nodes, revive
from brokerproof.waiting import wait_until

#: How long a look watches the counters: a starved node is throttled in most of these ten periods.
_WATCH_S = 1.0


@fault("cpu_starve")
@dataclass(frozen=True, slots=True, kw_only=True)
class CpuStarve(NodeFault):
    """cores: what is left to the node; idle, it may need less than that and notice nothing.

    Evidence: the kernel's count of periods in which the node had to wait rises while it is on, and not after.
    """

    name: ClassVar[str] = "cpu_starve"
    plane = "resource"
    bite_s: ClassVar[float] = 10.0
    abilities: ClassVar[tuple[str, ...]] = ("processor limits",)
    cores: float = 0.1

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return need(Limited, scene, resolve_nodes(scene, target), "a processor that can be limited")

    def break_(self, node: Node) -> None:
        assert isinstance(node, Limited)
        node.limit_cores(self.cores)

    def mend(self, node: Node) -> None:
        assert isinstance(node, Limited)
        node.limit_cores(None)
        revive(node)  # it may have given up

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        nodes = {name: scene.cluster.nodes[name] for name in targets}
        try:
            first = {name: _counted(node) for name, node in nodes.items()}
            last = dict(first)

            def waits(name: str) -> bool:
                last[name] = _counted(nodes[name])
                return last[name].throttled > first[name].throttled

            with suppress(DeadlineError):  # what was counted till then is the evidence
                wait_until(lambda: all(map(waits, nodes)), _WATCH_S, "throttled periods", interval_s=0.05)
        except HarnessError as exc:
            return Probe(None, str(exc))
        said = "; ".join(
            f"{name}: waited in {now.throttled - first[name].throttled} periods just now, in {now.throttled} of "
            f"{now.periods} since it started, {now.throttled_ms:.0f} ms in all"
            for name, now in last.items()
        )
        waiting = [last[name].throttled > first[name].throttled for name in nodes]
        return Probe(True if all(waiting) else None if any(waiting) else False, said)


def _counted(node: Node) -> Throttled:
    assert isinstance(node, Limited)
    return node.throttled()
