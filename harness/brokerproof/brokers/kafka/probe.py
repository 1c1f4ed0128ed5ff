"""One message through a topic and back: what readiness, health and a new topic are shown by."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

#: How the body of a probe starts; receivers and the final read pass over such messages.
PROBE_BODY = b"brokerproof-probe"
_LOG = logging.getLogger("brokerproof.kafka")


class NotPassed(Exception):
    """A probe was not written, or was not read back, in time."""


def probe(
    bootstrap: Sequence[str], topic: str, partitions: Sequence[int], timeout_s: float,
    access: Mapping[str, Any] | None = None, group: str = "brokerproof-probe",
) -> None:  # fmt: skip
    """Writes one message to each partition with acks=all and reads each back. access: settings that let one in. Raises
    NotPassed."""
    deadline = time.monotonic() + timeout_s
    common = {**(access or {}), "bootstrap.servers": ",".join(bootstrap), "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 300,
              "log_level": 0, "socket.nagle.disable": True}  # fmt: skip
    wait_for = _write(common, topic, partitions, deadline)
    _read_back({**common, "group.id": group}, topic, wait_for, deadline)


def _write(common: dict[str, object], topic: str, partitions: Sequence[int], deadline: float) -> dict[int, int]:
    """Partition -> offset of its probe."""
    offsets: dict[int, int] = {}
    problem: list[str] = []

    def written(error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            offsets[partition] = offset
        elif error is not None:
            problem.append(f"{error.name()} for partition {partition}")

    left_ms = max(1000, int((deadline - time.monotonic()) * 1000))
    producer = Producer(
        {**common, "acks": "all", "linger.ms": 0, "message.timeout.ms": left_ms, "retry.backoff.ms": 50,
         "request.timeout.ms": min(5000, left_ms), "topic.metadata.refresh.fast.interval.ms": 50},
        logger=_LOG,
    )  # fmt: skip
    for partition in partitions:
        producer.produce(topic, PROBE_BODY, partition=partition, on_delivery=written)
    while len(offsets) + len(problem) < len(partitions) and time.monotonic() < deadline + 1:
        producer.poll(0.05)
    if len(offsets) < len(partitions):
        raise NotPassed(
            f"written to {len(offsets)} of {len(partitions)} partitions; {problem or 'no answer for the rest'}"
        )
    return offsets


def append_time(
    bootstrap: Sequence[str], topic: str, partition: int, timeout_s: float, access: Mapping[str, Any] | None = None
) -> float:  # fmt: skip
    """The time of day, in seconds since 1970, that the partition's leader stamps on a message now. The topic's
    ``message.timestamp.type`` has to be ``LogAppendTime``. Raises NotPassed."""
    stamps: list[float] = []

    def written(error: KafkaError | None, message: Message) -> None:
        kind, stamp_ms = message.timestamp()
        if error is None and kind == TIMESTAMP_LOG_APPEND_TIME:
            stamps.append(stamp_ms / 1000)

    producer = Producer(
        {**(access or {}), "bootstrap.servers": ",".join(bootstrap), "reconnect.backoff.ms": 50, "log_level": 0, "acks": 1, "linger.ms": 0,
         "message.timeout.ms": int(timeout_s * 1000), "socket.nagle.disable": True},
        logger=_LOG,
    )  # fmt: skip
    producer.produce(topic, PROBE_BODY, partition=partition, on_delivery=written)
    producer.flush(timeout_s + 1)
    if not stamps:
        raise NotPassed(f"no time of day from the leader of partition {partition} of topic {topic!r}")
    return stamps[0]


def _read_back(common: dict[str, object], topic: str, offsets: dict[int, int], deadline: float) -> None:
    consumer = Consumer(
        {**common, "enable.auto.commit": False, "fetch.wait.max.ms": 100,
         "fetch.error.backoff.ms": 50},
        logger=_LOG,
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])
        missing = dict(offsets)
        while missing and time.monotonic() < deadline + 1:
            for message in consumer.consume(num_messages=len(missing), timeout=0.1):
                if message.error() is None and missing.get(message.partition() or 0) == message.offset():
                    del missing[message.partition() or 0]
    except KafkaException as exc:
        raise NotPassed(f"reading back: {exc.args[0].name()}") from exc
    finally:
        consumer.close()
    if missing:
        raise NotPassed(f"written, but not read back from partitions {sorted(missing)}")
