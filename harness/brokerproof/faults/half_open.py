"""``half_open``: the other end is gone without a word: no segment passes, none is acknowledged, none is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault


@fault("half_open")
@dataclass(frozen=True, slots=True, kw_only=True)
class HalfOpen(LinkFault):
    """Packets are dropped where they enter and leave the proxy; no connection is closed by that, then or when it heals.
    An end that gives up meanwhile cannot tell the other, which goes on believing in the connection: that is half open.
    What neither end gave up goes on where it was, by TCP's retransmission.

    Both kernels along the cut send again and miss keepalives: that of the proxy, and that of whatever the client's
    packets come by (the engine's forwarder, on loopback; it acknowledges to the client, which has only its protocol's
    heartbeats and time-outs). The node's own TCP peer is the proxy, which still answers: the node too misses the
    client by its protocol, or when the proxy's keepalive has closed, after two to three minutes.

    Evidence: a fresh connection's greeting is never answered, and the connection is neither closed nor refused.
    """

    name: ClassVar[str] = "half_open"
    abilities: ClassVar[tuple[str, ...]] = ("packet filter",)

    def break_(self, link: Link) -> None:
        link.silence()

    def mend(self, link: Link) -> None:
        link.unsilence()

    def bites(self, seen: Greeted) -> bool:
        return not seen.answered and seen.ended == "" and seen.octets == 0
