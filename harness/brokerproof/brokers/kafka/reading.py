"""The final read: every partition from its beginning to the end that it has when the read starts.

Drained (design section 7) means: read up to the high watermark taken now, with no transaction open below it (last
stable offset = high watermark), by a reader that skips what was aborted. Retention is off, so the beginning is the
first message that was ever there.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from brokerproof.brokers.base import ReadJob
from brokerproof.brokers.kafka.receiving import Rows
from brokerproof.brokers.kafka.settings import common
from brokerproof.history import INFO, OK

_POLL = 10_000
_POLL_S = 0.2
_ASK_S = 5.0
#: How long a topic must be unknown to a healthy cluster until it counts as gone.
_GONE_NS = 3_000_000_000
_GONE = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID")


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
        high = _latest(admin, job, pending, IsolationLevel.READ_UNCOMMITTED)
        stable = _latest(admin, job, pending, IsolationLevel.READ_COMMITTED)
        for partition in sorted(pending):
            offset, error = high[partition]
            if error in _GONE:
                since = gone_since.setdefault(partition, job.tape.now())
                if job.tape.now() - since > _GONE_NS:
                    _say(job, partition, "definition_lost")
                    pending.discard(partition)
                continue
            gone_since.pop(partition, None)
            # Transactions that begin after the first look only move both; taking the high watermark first is safe.
            if offset >= 0 and stable[partition][0] >= offset:
                ends[partition] = offset
                pending.discard(partition)
        if pending:
            admin.poll(_POLL_S)
    return ends


def _latest(admin: AdminClient, job: ReadJob, partitions: set[int], isolation: Any) -> dict[int, tuple[int, str]]:
    """Partition -> (end offset or -1, error class)."""
    asked = {TopicPartition(job.destination, p): OffsetSpec.latest() for p in partitions}
    futures: dict[TopicPartition, Future[Any]] = admin.list_offsets(asked, isolation_level=isolation, request_timeout=_ASK_S)
    answers: dict[int, tuple[int, str]] = {}
    for p, future in futures.items():
        try:
            answers[p.partition] = (int(future.result(timeout=_ASK_S + 1).offset), "")
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            answers[p.partition] = (-1, error.name())
        except TimeoutError:
            answers[p.partition] = (-1, "_TIMED_OUT")
    return answers


def _read_to(job: ReadJob, ends: dict[int, int], deadline: int) -> None:
    consumer = Consumer(
        {**common(job), "group.id": f"{job.destination}-read", "enable.auto.commit": False, "auto.offset.reset": "error",
         "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 50,
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
            failed = {m.error().name() for m in messages if m.error() is not None} - {"_PARTITION_EOF"}  # type: ignore[union-attr]
            for error in sorted(failed):
                now = job.tape.now()
                job.tape.row("read", INFO, start_ns=start, end_ns=now, error=error)
            for position in consumer.position([TopicPartition(job.destination, p) for p in missing]):
                # The position passes transaction markers and aborted messages too, which no message tells of.
                if position.offset >= missing[position.partition]:
                    _say(job, position.partition, "drained")
                    del missing[position.partition]
    finally:
        consumer.close()


def _say(job: ReadJob, partition: int, what: str) -> None:
    now = job.tape.now()
    job.tape.row("control", OK, start_ns=now, end_ns=now, lane=job.lane + partition, error=what)
