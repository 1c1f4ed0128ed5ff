"""``lost_ack``: requests pass, replies are dropped: the broker takes what the client believes unanswered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Greeted, Link
from brokerproof.faults.base import LinkFault, fault


@fault("lost_ack")
@dataclass(frozen=True, slots=True, kw_only=True)
class LostAck(LinkFault):
    """Evidence: a fresh connection is accepted and its greeting is never answered; and, in the history, at least one
    send that came to ``info`` was found afterwards (``witnessed_by``), or no request had passed."""

    name: ClassVar[str] = "lost_ack"
    #: The observation that the history has to show, or the fault did not do what it is for.
    witnessed_by: ClassVar[str] = "recovered"

    def break_(self, link: Link) -> None:
        link.add_toxic("timeout", "downstream", timeout=0)


    def bites(self, seen: Greeted) -> bool:
        return seen.connected and not seen.answered and seen.ended == ""
