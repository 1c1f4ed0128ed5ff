"""What safe and unsafe mean for the memory broker."""

from __future__ import annotations

from brokerproof.brokers.base import Configurations
from brokerproof.plan import Destination

CONFIGURATIONS = Configurations(
    topology="single",
    destination=Destination(name="q", kind="queue"),
    confirmed={"confirm": True},
    unconfirmed={"confirm": False},
    dedup={"confirm": True},
    no_dedup={"confirm": True},
    ordered_destination=Destination(name="q", kind="queue"),
    ordered_sender={"confirm": True},
    ack_after={"ack": "after"},
    ack_first={"ack": "first"},
    ack_auto={"ack": "auto"},
    several={},
    rate_per_s=1000.0,
    pace=0.1,
)
