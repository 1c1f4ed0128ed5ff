"""What safe and unsafe mean for Kafka.

Sources: kafka.apache.org/documentation, producer configurations ``acks`` and ``enable.idempotence``, topic configuration
``min.insync.replicas``; consumer configuration ``enable.auto.commit``.
"""

from __future__ import annotations

from brokerproof.brokers.base import Configurations
from brokerproof.plan import Destination

CONFIGURATIONS = Configurations(
    topology="cluster",
    destination=Destination(
        name="t", kind="log", settings={"replication.factor": "3", "min.insync.replicas": "2"}
    ),
    confirmed={"acks": "all", "enable.idempotence": False},
    unconfirmed={"acks": "0", "enable.idempotence": False},
    dedup={"acks": "all", "enable.idempotence": True},
    no_dedup={"acks": "all", "enable.idempotence": False},
    ack_after={"ack": "after"},
    ack_first={"ack": "first"},
    ack_auto={"ack": "auto"},
    # A topic-partition has one consumer per group; several need several partitions, and messages that go anywhere.
    several={"partitions": 2, "spread": "round_robin"},
    rate_per_s=1000.0,
)
