"""``bandwidth``: the client link passes ``rate_kb_s`` kilobytes a second for each connection, in each direction or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.errors import PlanError
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.links import LinkFault, Stream, again_if, streams

#: What the probe's transfer takes at the limited rate has to be longer than what it takes anyway on a busy machine.
_TELLING_MS = 15.0


@fault("bandwidth")
@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(LinkFault):
    """stream: ``upstream`` (client to broker), ``downstream`` or ``both``.

    Evidence: a timed transfer: the answer to a longer greeting is whole no earlier than the greeting's octets, and the
    answer's, take at that rate; three times running, since one transfer may be late for any reason.
    """

    name: ClassVar[str] = "bandwidth"
    rate_kb_s: int = 20
    stream: Stream = "both"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if not 1 <= self.rate_kb_s <= 50:
            raise PlanError(f"bandwidth passes 1 to 50 kB/s, not {self.rate_kb_s}: above, it cannot be told from none")
        return LinkFault.resolve(self, scene, target)

    def break_(self, link: Link) -> None:
        for stream in streams(self.stream):
            link.add_toxic("bandwidth", stream, rate=self.rate_kb_s)

    def ask(self, link: Link) -> Greeted:
        # Some 2,000 octets up, and at most as many down.
        return again_if(self.bites, lambda: link.exchange(1.0 + 6.0 / self.rate_kb_s))

    def bites(self, seen: Greeted) -> bool:
        octets = {"upstream": seen.sent, "downstream": seen.octets}
        least_ms = sum(octets[stream] for stream in streams(self.stream)) / self.rate_kb_s
        return seen.answered and seen.whole_ms is not None and seen.whole_ms >= least_ms >= _TELLING_MS
