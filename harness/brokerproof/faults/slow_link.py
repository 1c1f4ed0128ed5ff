"""``slow_link``: packets between the target nodes and all others pass at a limited rate; clients are not slowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Direction, PeerLinks, PeerTrouble, both_ways
from brokerproof.errors import PlanError
from brokerproof.faults.base import Probe, Scene, fault
from brokerproof.faults.planes.peers import PeerFault, arrows, peers_of

#: The probe's transfer takes about so long at the limited rate, within these sizes.
_TRANSFER_S, _OCTETS_MIN, _OCTETS_MAX = 0.5, 5_600, 42_000
#: A transfer measures the rate to a quarter; what is not limited is many times as fast.
_SLACK, _FAST = 1.25, 3.0


@fault("slow_link")
@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLink(PeerFault):
    """Each direction of each link has that rate to itself, and a second's worth of queue: what is sent faster for longer
    than that is lost, as in a network.

    Evidence: a timed transfer between every pair of nodes, both ways at once.
    """

    name: ClassVar[str] = "slow_link"
    trouble: ClassVar[PeerTrouble] = "rate"
    abilities: ClassVar[tuple[str, ...]] = ("traffic shaping",)
    #: The nodes' own traffic shares the rate with the probe's transfer, which may have to be repeated.
    bite_s: ClassVar[float] = 20.0
    rate_kb_s: int = 50

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        # Above that, a transfer on a busy machine is no faster where nothing is limited.
        if not 1 <= self.rate_kb_s <= 1000:
            raise PlanError(f"slow_link passes 1 to 1000 kB/s, not {self.rate_kb_s}")
        return PeerFault.resolve(self, scene, target)

    def directions(self, scene: Scene, targets: Sequence[str]) -> frozenset[Direction]:
        return frozenset((a, b) for a, b in both_ways(targets, list(scene.cluster.nodes)) if a != b)

    def break_(self, peers: PeerLinks, directions: frozenset[Direction], name: str) -> None:
        peers.slow(directions, self.rate_kb_s, name)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        octets = min(_OCTETS_MAX, max(_OCTETS_MIN, int(1000 * self.rate_kb_s * _TRANSFER_S)))
        expected_s = octets / 1000 / self.rate_kb_s
        seen = peers_of(scene).throughput(octets, 2.0 + 3 * expected_s)
        said = "a transfer arrives at " + ", ".join(f"{arrows([d])} {seen[d]:,.0f} kB/s" for d in sorted(seen))
        mine = self.directions(scene, targets) & set(seen)
        if all(seen[d] >= _FAST * self.rate_kb_s for d in seen):
            return Probe(False, said)
        slow = bool(mine) and all(0 < seen[d] <= _SLACK * self.rate_kb_s for d in mine)
        alone = all(seen[d] >= _FAST * self.rate_kb_s for d in seen if d not in mine)
        return Probe(True if slow and alone else None, said)
