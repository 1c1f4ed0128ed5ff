"""What safe and unsafe mean for RocketMQ.

Sources: rocketmq.apache.org/docs, "Normal Message" and "Send" (asynchronous, one-way), "SimpleConsumer".
"""

from __future__ import annotations

from brokerproof.brokers.base import Configurations
from brokerproof.plan import Destination

CONFIGURATIONS = Configurations(
    topology="master-slave",
    destination=Destination(name="t", kind="queue", settings={"message.type": "NORMAL"}),
    confirmed={"send": "async"},
    unconfirmed={"send": "oneway"},
    # The broker keeps no producer sequence; the message id is made by the client for each send call.
    # The library's own retries are off, so that only the application sends again.
    dedup={"send": "async", "attempts": 1},
    no_dedup={"send": "async", "attempts": 1},
    # A normal topic has order only in a single queue, and only of what was sent one after the other.
    ordered_destination=Destination(name="t", kind="queue", settings={"message.type": "NORMAL", "queues": 1}),
    ordered_sender={"send": "sync"},
    ack_after={"ack": "after"},
    ack_first={"ack": "first"},
    ack_auto={"ack": "auto"},
    several={},
    rate_per_s=150.0,
    # One synchronous send takes 20 to 60 ms: two of one key of three are up to 200 ms apart.
    slow_ms=300.0,
)
