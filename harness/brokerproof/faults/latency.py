"""``latency``: every chunk is late, by ``latency_ms`` plus or minus ``jitter_ms``, in each direction or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault, Stream, again_if, streams


@fault("latency")
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(LinkFault):
    """stream: ``upstream`` (client to broker), ``downstream`` or ``both``.

    Evidence: a fresh connection's greeting is answered, no earlier than the least delay of each direction, three times
    running: one late answer is a busy machine's."""

    name: ClassVar[str] = "latency"
    latency_ms: int = 100
    jitter_ms: int = 0
    stream: Stream = "both"

    def break_(self, link: Link) -> None:
        for stream in streams(self.stream):
            link.add_toxic("latency", stream, latency=self.latency_ms, jitter=self.jitter_ms)

    def ask(self, link: Link) -> Greeted:
        return again_if(self.bites, lambda: link.greet(self.greet_s))

    def bites(self, seen: Greeted) -> bool:
        least_ms = len(streams(self.stream)) * (self.latency_ms - self.jitter_ms)
        return seen.answered and seen.rtt_ms is not None and seen.rtt_ms >= least_ms
