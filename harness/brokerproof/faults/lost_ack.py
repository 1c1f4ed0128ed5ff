"""``lost_ack``: requests pass, replies are dropped: the broker takes what the client believes unanswered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import fault
from brokerproof.faults.planes.links import LinkFault


@fault("lost_ack")
@dataclass(frozen=True, slots=True, kw_only=True)
class LostAck(LinkFault):
    """Evidence: a fresh connection is accepted and its greeting is never answered; and, in the histories under the
    injection, a send that came to ``info`` and was found, or one that is there twice: a request had passed."""

    name: ClassVar[str] = "lost_ack"
    witnessed_by: ClassVar[tuple[str, ...]] = ("recovered", "duplicated")

    def break_(self, link: Link) -> None:
        link.add_toxic("timeout", "downstream", timeout=0)

    def bites(self, seen: Greeted) -> bool:
        return seen.connected and not seen.answered and seen.ended == ""
