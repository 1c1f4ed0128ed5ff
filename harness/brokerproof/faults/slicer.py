"""``slicer``: what passes is cut into tiny segments, one octet each by default, in each direction or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.errors import PlanError
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.links import LinkFault, Stream, again_if, streams

#: So many segments a busy machine may read together; an answer that nobody slices comes in one piece or two.
_READ_TOGETHER, _WHOLE_PIECES = 40, 3
#: Its pieces arrive within so long of each other.
_TOGETHER_MS = 100.0
#: How often a link is looked at until one answer is seen to be sliced: a reader that gets no processor sees no pieces.
_TRIES = 3


@fault("slicer")
@dataclass(frozen=True, slots=True, kw_only=True)
class Slicer(LinkFault):
    """Nothing is lost or out of order: a reader that takes what one read brings for a frame is wrong.

    stream: ``upstream`` (client to broker), ``downstream`` or ``both``.
    delay_us: between two segments; the proxy's clock adds to it, half a millisecond or so.
    Evidence: downstream, the number of reads in which the answer arrives or, where a busy machine reads many segments at
    once, an answer in pieces that takes no less than the delays between its segments, in one of three looks. Upstream,
    where the probe does not read, a longer greeting is answered no earlier than those delays take, three times running.
    """

    name: ClassVar[str] = "slicer"
    bite_s: ClassVar[float] = 15.0
    average_size: int = 1
    size_variation: int = 0
    delay_us: int = 100
    stream: Stream = "both"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if not (
            self.average_size >= 1 and 0 <= self.size_variation < max(2, self.average_size) and self.delay_us >= 10
        ):
            raise PlanError(
                f"slicer: average_size {self.average_size}, size_variation {self.size_variation}, delay_us "
                f"{self.delay_us}; needed: at least 1, less than average_size, and a delay of at least 10, or the kernel "
                "puts the segments together again"
            )
        if self.average_size > 50:
            raise PlanError(
                f"slicer: segments of {self.average_size} octets are nothing out of the ordinary; at most 50"
            )
        return LinkFault.resolve(self, scene, target)

    def break_(self, link: Link) -> None:
        for stream in streams(self.stream):
            link.add_toxic(
                "slicer", stream, average_size=self.average_size, size_variation=self.size_variation,
                delay=self.delay_us,
            )  # fmt: skip

    def ask(self, link: Link) -> Greeted:
        # Some 4,000 octets both ways, of which each may be a segment with its delay and what the proxy's clock adds.
        timeout_s = 2.0 + 4000 * (self.delay_us + 1500) / 1e6 / self.average_size
        if "downstream" not in streams(self.stream):
            return again_if(self.bites, lambda: link.exchange(timeout_s))
        return again_if(lambda seen: not self.bites(seen), lambda: link.exchange(timeout_s), _TRIES)

    def bites(self, seen: Greeted) -> bool:
        if not seen.answered or seen.whole_ms is None or seen.rtt_ms is None:
            return False
        most = self.average_size + self.size_variation
        drawn_out = seen.whole_ms - seen.rtt_ms >= max(_TOGETHER_MS, seen.octets / most * self.delay_us / 1000)
        sliced = seen.pieces > max(_WHOLE_PIECES, seen.octets / most / _READ_TOGETHER) or (
            seen.pieces > 1 and drawn_out
        )
        late = seen.whole_ms >= max(10.0, seen.sent / most * self.delay_us / 1000)
        return all({"downstream": sliced, "upstream": late}[stream] for stream in streams(self.stream))
