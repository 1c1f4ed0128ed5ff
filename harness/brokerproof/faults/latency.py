"""``latency``: every chunk is late, by ``latency_ms`` plus or minus ``jitter_ms``, in each direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import LinkFault, fault


@fault("latency")
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(LinkFault):
    """Evidence: a fresh connection's greeting is answered, no earlier than twice the least delay."""

    name: ClassVar[str] = "latency"
    latency_ms: int = 100
    jitter_ms: int = 0

    def break_(self, link: Link) -> None:
        link.add_toxic("latency", "upstream", latency=self.latency_ms, jitter=self.jitter_ms)
        link.add_toxic("latency", "downstream", latency=self.latency_ms, jitter=self.jitter_ms)

    def bites(self, seen: Greeted) -> bool:
        return seen.answered and seen.rtt_ms is not None and seen.rtt_ms >= 2 * (self.latency_ms - self.jitter_ms)
