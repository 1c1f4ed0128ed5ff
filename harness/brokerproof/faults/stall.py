"""``stall``: nothing passes for a while, and then everything that was sent meanwhile: a lossless stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault, Stream, streams


@fault("stall")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(LinkFault):
    """stream: ``upstream`` (requests wait), ``downstream`` (answers wait: the broker has heard) or ``both``.

    Evidence: a fresh connection is accepted, and its greeting is answered only after the heal."""

    name: ClassVar[str] = "stall"
    stream: Stream = "both"

    def break_(self, link: Link) -> None:
        # An hour's latency holds every chunk; removing the toxic flushes them in order (Toxiproxy, toxics/latency.go).
        for stream in streams(self.stream):
            link.add_toxic("latency", stream, latency=3_600_000, jitter=0)

    def bites(self, seen: Greeted) -> bool:
        return seen.connected and not seen.answered and seen.ended == ""
