"""``black_hole``: the client link accepts connections, and nothing passes in either direction, or in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault, Stream, streams


@fault("black_hole")
@dataclass(frozen=True, slots=True, kw_only=True)
class BlackHole(LinkFault):
    """Evidence: a fresh connection is accepted and its greeting is never answered. When the fault is healed the proxy
    closes the connections it held, as a firewall that forgot them would; what was in them is gone.

    The proxy acknowledges TCP segments itself, so neither side's keepalive notices (``half_open``: they do).

    stream: ``upstream`` (requests are swallowed), ``downstream`` (answers; see ``lost_ack``) or ``both``."""

    name: ClassVar[str] = "black_hole"
    stream: Stream = "both"

    def break_(self, link: Link) -> None:
        # Toxiproxy's "timeout" toxic with 0 swallows data and holds the connection until the toxic is removed.
        for stream in streams(self.stream):
            link.add_toxic("timeout", stream, timeout=0)

    def bites(self, seen: Greeted) -> bool:
        return seen.connected and not seen.answered and seen.ended == ""
