"""``cut_mid_frame``: each connection is closed after so many octets in one direction, wherever that is in a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from brokerproof.brokers.base import Greeted, Link
from brokerproof.errors import PlanError
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.links import LinkFault, streams

#: A little less than the probe's longer greeting, which has to be cut in its middle.
_OCTETS_MAX = 1900


@fault("cut_mid_frame")
@dataclass(frozen=True, slots=True, kw_only=True)
class CutMidFrame(LinkFault):
    """What one end sent beyond that is never seen by the other, which has the beginning of a frame. A connection that is
    there counts from the injection on, a new one from its first octet.

    stream: ``upstream`` (the broker has half a request), ``downstream`` (the client has half an answer).
    Evidence: upstream, a longer greeting is never answered whole, and its connection is closed; downstream, the answer
    ends after exactly so many octets (which must be fewer than the answer has, 49 to 540 by product), and is closed.
    """

    name: ClassVar[str] = "cut_mid_frame"
    after_octets: int = 1000
    stream: Literal["upstream", "downstream"] = "upstream"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if not 1 <= self.after_octets <= _OCTETS_MAX:
            raise PlanError(
                f"cut_mid_frame cuts after 1 to {_OCTETS_MAX} octets, not {self.after_octets}: what its probe sends is "
                "not longer"
            )
        if self.stream not in ("upstream", "downstream"):
            raise PlanError(f"cut_mid_frame cuts upstream or downstream, not {self.stream!r}")
        return LinkFault.resolve(self, scene, target)

    def break_(self, link: Link) -> None:
        for stream in streams(self.stream):
            link.add_toxic("limit_data", stream, bytes=self.after_octets)

    def ask(self, link: Link) -> Greeted:
        return link.exchange(self.greet_s)

    def bites(self, seen: Greeted) -> bool:
        closed = seen.connected and not seen.answered and seen.ended in ("fin", "rst")
        # An end that was told nothing of its peer's end may answer what it had whole: AMQP's start, HTTP/2's settings.
        return closed and (seen.octets == self.after_octets if self.stream == "downstream" else True)
