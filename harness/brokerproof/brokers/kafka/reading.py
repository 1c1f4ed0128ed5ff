"""The final read: every partition from its beginning to the end that it has when the read starts.

Drained (design section 7) means: read up to the high watermark taken now, with no transaction open below it (last
stable offset = high watermark), by a reader that skips what was aborted. Retention is off, so the beginning is the
first message that was ever there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported, though its stubs do not say so

from brokerproof.brokers.base import ReadJob
from brokerproof.brokers.kafka.receiving import Rows
from brokerproof.brokers.kafka.settings import common
from brokerproof.history import OK

_POLL = 10_000
_POLL_S = 0.2
_ASK_S = 5.0
#: How long a topic must be unknown to a healthy cluster until it counts as gone.
_GONE_NS = 3_000_000_000


def read(job: ReadJob) -> None:
    """See ``brokers.base.ReadJob``."""
    deadline = job.tape.now() + int(job.deadline_s * 1e9)
    ends = _stable_ends(job, deadline)
    if ends:
        _read_to(job, ends, deadline)


def _stable_ends(job: ReadJob, deadline: int) -> dict[int, int]:
    """Partition -> high watermark, once the last stable offset has reached it; lanes that are gone are recorded."""
    admin = AdminClient({**common(job), "socket.timeout.ms": 10000})
    ends: dict[int, int] = {}
    gone_since: dict[int, int] = {}
    pending = set(range(job.partitions))
    while pending and job.tape.now() < deadline:
        there = _partitions(admin, job)
        for partition in sorted(pending - there) if there is not None else ():
            if job.tape.now() - gone_since.setdefault(partition, job.tape.now()) > _GONE_NS:
                _say(job, partition, "definition_lost")
                pending.discard(partition)
        known = pending & (there or set())
        # Transactions that begin between the two looks move both; taking the high watermark first is safe.
        high = _latest(admin, job, known, IsolationLevel.READ_UNCOMMITTED)
        stable = _latest(admin, job, known, IsolationLevel.READ_COMMITTED)
        for partition in known:
            gone_since.pop(partition, None)
            if 0 <= high[partition] <= stable[partition]:
                ends[partition] = high[partition]
                pending.discard(partition)
        if pending:
            admin.poll(_POLL_S)
    return ends


def _partitions(admin: AdminClient, job: ReadJob) -> set[int] | None:
    """The partitions that there are by fresh metadata; None when no node answers."""
    try:
        topic = admin.list_topics(job.destination, timeout=_ASK_S).topics[job.destination]
    except KafkaException:
        return None
    if topic.error is not None and topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        return None
    return set(topic.partitions)


def _latest(admin: AdminClient, job: ReadJob, partitions: set[int], isolation: IsolationLevel) -> dict[int, int]:
    """Partition -> end offset, -1 when it cannot be told now."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # untyped in the library
    asked = {TopicPartition(job.destination, p): latest for p in partitions}
    if not asked:
        return {}
    ends = dict.fromkeys(partitions, -1)
    for p, future in admin.list_offsets(asked, isolation_level=isolation, request_timeout=_ASK_S).items():
        with contextlib.suppress(KafkaException, TimeoutError):
            ends[p.partition] = int(future.result(timeout=_ASK_S + 1).offset)
    return ends


def _read_to(job: ReadJob, ends: dict[int, int], deadline: int) -> None:
    isolation = job.destination_settings.get("read.isolation.level", "read_committed")
    consumer = Consumer(
        {**common(job), "group.id": f"{job.destination}-read", "enable.auto.commit": False, "auto.offset.reset": "error",
         "isolation.level": isolation, "enable.partition.eof": True, "fetch.wait.max.ms": 50,
         "fetch.error.backoff.ms": 50, "queued.max.messages.kbytes": 65536}
    )  # fmt: skip
    rows = Rows(job)
    missing = dict(ends)
    try:
        # Not OFFSET_BEGINNING: 0 fails loudly where something has removed the start of the log.
        consumer.assign([TopicPartition(job.destination, partition, 0) for partition in ends])
        while missing and job.tape.now() < deadline:
            start = job.tape.now()
            messages = consumer.consume(num_messages=_POLL, timeout=_POLL_S)
            rows.write(messages, start)
            for partition, offset in _reached(messages).items():
                if offset >= missing.get(partition, offset + 1):
                    _say(job, partition, "drained")
                    del missing[partition]
    finally:
        consumer.close()


def _reached(messages: Sequence[Message]) -> dict[int, int]:
    """Partition -> the offset up to which it has been read. The end-of-partition event passes transaction markers and
    aborted messages too, of which no message tells."""
    reached: dict[int, int] = {}
    for message in messages:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if partition is not None and offset is not None and offset >= 0:
            if error is None:
                reached[partition] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                reached[partition] = offset
    return reached


def _say(job: ReadJob, partition: int, what: str) -> None:
    now = job.tape.now()
    job.tape.row("control", OK, start_ns=now, end_ns=now, lane=job.lane + partition, error=what)
