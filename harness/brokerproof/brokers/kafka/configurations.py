"""What safe and unsafe mean for Kafka.

Sources: kafka.apache.org/documentation, producer configurations ``acks`` and ``enable.idempotence``, topic configuration
``min.insync.replicas``; consumer configuration ``enable.auto.commit``.
"""

from __future__ import annotations

from brokerproof.brokers.base import Configurations
from brokerproof.plan import Destination

_SAFEST = Destination(name="t", kind="log", settings={"replication.factor": "3", "min.insync.replicas": "2"})
# Gives a message up within the time that lost acknowledgements last, and not on the hiccup of a slow machine.
_IMPATIENT = {"request.timeout.ms": 3500, "message.timeout.ms": 4000}

CONFIGURATIONS = Configurations(
    topology="cluster",
    destination=_SAFEST,
    confirmed={"acks": "all", "enable.idempotence": False},
    unconfirmed={"acks": "0", "enable.idempotence": False},
    # The library's own retries are off, so that only the application sends again; a lost reply is noticed in a second.
    dedup={"acks": "all", "enable.idempotence": True, **_IMPATIENT},
    no_dedup={"acks": "all", "enable.idempotence": False, "retries": 0, **_IMPATIENT},
    ordered_destination=_SAFEST,
    ordered_sender={"acks": "all", "enable.idempotence": True},
    ack_after={"ack": "after"},
    ack_first={"ack": "first"},
    ack_auto={"ack": "auto"},
    # A consumer group gives a topic-partition to one member; several serve it only in a share group (KIP-932).
    several={"group.protocol": "share"},
    rate_per_s=1000.0,
)
