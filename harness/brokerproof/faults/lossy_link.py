"""``lossy_link``: a share of the packets between the target nodes and all others is dropped, at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Direction, PeerLinks, PeerTrouble, both_ways
from brokerproof.errors import PlanError
from brokerproof.faults.base import Probe, Scene, fault
from brokerproof.faults.planes.peers import PeerFault, arrows, peers_of

#: So many of the probe's datagrams are expected to be lost in each direction: that none is happens once in 10^8.
_LOST_EXPECTED = 20
#: How far the share seen may be from the one asked for, in standard deviations: once in a million probes it is further.
_DEVIATIONS = 5.0
#: A direction that is left alone may lose so much: a busy machine drops a datagram now and then.
_STRAY = 0.005


@fault("lossy_link")
@dataclass(frozen=True, slots=True, kw_only=True)
class LossyLink(PeerFault):
    """Each packet is drawn for where it comes in, in both directions: a TCP connection loses data and acknowledgements.

    Evidence: the share of many datagrams that arrives, for every pair of nodes and both ways: as asked for on the links
    of the targets, all of them elsewhere.
    """

    name: ClassVar[str] = "lossy_link"
    abilities: ClassVar[tuple[str, ...]] = ("packet filter", "packet loss")
    trouble: ClassVar[PeerTrouble] = "loss"
    #: The probe sends thousands of datagrams.
    bite_s: ClassVar[float] = 10.0
    percent: int = 20

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if not 1 <= self.percent <= 99:
            raise PlanError(f"lossy_link loses 1 to 99 percent of the packets, not {self.percent}; all: partition")
        return PeerFault.resolve(self, scene, target)

    def directions(self, scene: Scene, targets: Sequence[str]) -> frozenset[Direction]:
        return frozenset((a, b) for a, b in both_ways(targets, list(scene.cluster.nodes)) if a != b)

    def break_(self, peers: PeerLinks, directions: frozenset[Direction], name: str) -> None:
        peers.lose(directions, self.percent, name)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        share = self.percent / 100
        datagrams = max(200, math.ceil(_LOST_EXPECTED / share))
        lost = {direction: 1 - arrived for direction, arrived in peers_of(scene).arriving(datagrams).items()}
        mine = self.directions(scene, targets) & set(lost)
        said = ", ".join(f"{arrows([d])} {100 * lost[d]:.1f} %" for d in sorted(lost) if lost[d] > _STRAY)
        said = f"of {datagrams} datagrams each are lost: {said or 'none'}"
        if max(lost.values(), default=0.0) <= _STRAY:
            return Probe(False, said)
        near = _DEVIATIONS * math.sqrt(share * (1 - share) / datagrams)
        as_asked = bool(mine) and all(lost[d] > _STRAY and abs(lost[d] - share) <= near for d in mine)
        alone = all(lost[d] <= _STRAY for d in lost if d not in mine)
        return Probe(True if as_asked and alone else None, said)
