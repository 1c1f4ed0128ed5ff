"""``link_down``: the client link refuses connections, and those that are there are closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault


@fault("link_down")
@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown(LinkFault):
    """Evidence: a fresh connection through the same proxy is refused, or ended before anything was answered."""

    name: ClassVar[str] = "link_down"

    def break_(self, link: Link) -> None:
        link.disable()

    def mend(self, link: Link) -> None:
        link.enable()

    def bites(self, seen: Greeted) -> bool:
        # Where an engine forwards ports by a process of its own, that one accepts, finds nobody behind it, and closes.
        return not seen.connected or (not seen.answered and seen.ended != "")
