"""``reset``: connections are reset: what was in flight in them is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault


@fault("reset")
@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(LinkFault):
    """Connections are reset as soon as somebody speaks, and silent ones are closed at its end. Evidence: a fresh connection is
    reset as soon as it speaks."""

    name: ClassVar[str] = "reset"
    #: How long a connection lives before it is reset; while the fault is on, new ones are reset as well.
    after_ms: int = 0

    def break_(self, link: Link) -> None:
        # Both directions: a toxic acts when data flows through its side, and either side may be the silent one.
        link.add_toxic("reset_peer", "upstream", timeout=self.after_ms)
        link.add_toxic("reset_peer", "downstream", timeout=self.after_ms)

    def mend(self, link: Link) -> None:
        # A connection on which nobody spoke meanwhile (a consumer that holds on to what it has) was not touched by a toxic. It ends
        # with the fault: none that was there before outlives it.
        try:
            link.disable()
        finally:
            try:
                link.clear_toxics()
            finally:
                link.enable()

    def bites(self, seen: Greeted) -> bool:
        return not seen.answered and (seen.ended in ("rst", "fin") or not seen.connected)
