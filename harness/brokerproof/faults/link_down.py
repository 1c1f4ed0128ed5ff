"""``link_down``: the client link refuses connections, and those that are there are closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import LinkFault, fault


@fault("link_down")
@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown(LinkFault):
    """Evidence: a fresh connection through the same proxy is refused."""

    name: ClassVar[str] = "link_down"

    def break_(self, link: Link) -> None:
        link.disable()

    def mend(self, link: Link) -> None:
        link.enable()

    def bites(self, seen: Greeted) -> bool:
        return not seen.connected
