"""The clients' settings: librdkafka's own words, a plan's on top of ours.

Each default that differs from librdkafka's has its reason. Source: librdkafka, CONFIGURATION.md.
"""

from __future__ import annotations

from typing import Any

from brokerproof.brokers.base import Job, ReceiveJob, SendJob
from brokerproof.brokers.kafka.access import client

_COMMON: dict[str, Any] = {
    # A link that comes back is used again within half a second (default: up to 10 s later).
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    # A connection into a black hole is given up and tried elsewhere (default 30000).
    "socket.connection.setup.timeout.ms": 3000,
    # Faults are what we do all day: their log lines on stderr tell nothing that the history does not.
    "log_level": 0,
    "log.connection.close": False,
}

_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    # A leader that was cut off from its followers does not answer; the client looks for another one after this
    # (default 30000).
    "request.timeout.ms": 3000,
    # How long the client itself goes on trying (default 300000; Java's delivery.timeout.ms is 120000).
    "message.timeout.ms": 30000,
    # The vendor's own placement of keys (librdkafka's default differs from the Java client's).
    "partitioner": "murmur2_random",
}

_CONSUMER: dict[str, Any] = {
    "auto.offset.reset": "earliest",
    # A killed member is missed after this (default 45000; the broker allows no less than 6000).
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 1000,
    # A fetch from a node that does not answer is given up (default 60000).
    "socket.timeout.ms": 10000,
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 100,
    # So that offsets of a topic that changes its leader are looked for soon.
    "topic.metadata.refresh.interval.ms": 5000,
}
#: A member of these protocols is told by the coordinator when to speak and when it is missed.
_BROKER_TIMED = ("session.timeout.ms", "heartbeat.interval.ms")

#: Keys of ``Sender.settings`` and ``Receiver.settings`` that are ours.
#: ``member`` says nothing here: a group divides the partitions itself.
OWN = frozenset(
    {
        "ack",
        "commit",
        "counts",
        "forward_to",
        "hold_ms",
        "member",
        "poll_every_ms",
        "transaction.messages",
        "transaction.abort.every",
    }
)
#: Of a transaction nobody ends (default 60000): after it, readers of what is committed go on.
_TRANSACTION_TIMEOUT_MS = 10000

#: Keys of ``Destination.settings`` that are ours, of a topic that messages are forwarded to. ``effects``: True, that a message is
#: there is its effect; "elsewhere", it says nothing. And whether the final read sees what was not committed, too.
OWN_OF_TOPIC = frozenset({"effects", "read.isolation.level"})


def common(job: Job) -> dict[str, Any]:
    return {"bootstrap.servers": ",".join(job.endpoint["bootstrap"]), **client(job.endpoint), **_COMMON}


def of_producer(job: SendJob) -> dict[str, Any]:
    theirs = _theirs(job.sender.settings)
    config = {**common(job), **_PRODUCER, **theirs}
    if str(config["acks"]) not in ("all", "-1") and "enable.idempotence" not in theirs:
        config["enable.idempotence"] = False  # librdkafka refuses the pair
    if "transactional.id" in config:
        config.setdefault("transaction.timeout.ms", _TRANSACTION_TIMEOUT_MS)
        # librdkafka wants a message's time-out within the transaction's.
        config["message.timeout.ms"] = min(int(config["message.timeout.ms"]), int(config["transaction.timeout.ms"]))
    # The cap on what is unanswered is ours; the client's queue must never be smaller.
    config.setdefault("queue.buffering.max.messages", max(100_000, 2 * job.sender.in_flight_max))
    return config


def retries(config: dict[str, Any]) -> bool:
    """Whether this producer may send a message twice by itself."""
    if str(config["enable.idempotence"]).lower() == "true":
        return True
    return str(config.get("retries", config.get("message.send.max.retries", "2147483647"))) != "0"


def of_consumer(job: ReceiveJob, group: str) -> dict[str, Any]:
    theirs = _theirs(job.receiver.settings)
    config = {**common(job), **_CONSUMER, "group.id": group, **theirs}
    config.pop("transactional.id", None)  # of a receiver that forwards: its producer's
    if config.get("group.protocol", "classic") != "classic":
        for key in _BROKER_TIMED:
            config.pop(key)
    return config


def of_share_consumer(job: ReceiveJob, group: str) -> dict[str, Any]:
    """A share consumer takes few settings: the group's are kept by the broker."""
    theirs = {key: value for key, value in _theirs(job.receiver.settings).items() if key != "group.protocol"}
    return {**common(job), "group.id": group, "max.poll.records": max(1, job.receiver.prefetch), **theirs}


def tellable(job: Job, config: dict[str, Any]) -> dict[str, Any]:
    """What a result may say of a client's settings: plain values, and nothing of what lets it in."""
    hidden = client(job.endpoint)
    return {k: v for k, v in config.items() if isinstance(v, (str, int, float, bool)) and k not in hidden}


def _theirs(settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in OWN}
