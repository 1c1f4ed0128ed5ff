"""What safe and unsafe mean for RabbitMQ.

Sources: rabbitmq.com/docs/confirms (publisher confirms, consumer acknowledgement modes), rabbitmq.com/docs/quorum-queues.
"""

from __future__ import annotations

from brokerproof.brokers.base import Configurations
from brokerproof.plan import Destination

CONFIGURATIONS = Configurations(
    topology="cluster",
    destination=Destination(name="q", kind="queue", settings={"x-queue-type": "quorum"}),
    confirmed={"confirm": True},
    unconfirmed={"confirm": False},
    # RabbitMQ deduplicates only in streams, by publisher name; queues have nothing of the kind.
    dedup={"confirm": True},
    no_dedup={"confirm": True},
    ordered_destination=Destination(name="q", kind="queue", settings={"x-queue-type": "quorum"}),
    ordered_sender={"confirm": True},
    ack_after={"ack": "after"},
    ack_first={"ack": "first"},
    ack_auto={"ack": "auto"},
    several={},
    rate_per_s=400.0,
)
