"""A topic of a case: what can be sent to it and asked of it, one request each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brokerproof.conformance.case import Seen
from brokerproof.conformance.kafka.connection import Answer, Connection
from brokerproof.conformance.scene import Inconclusive
from brokerproof.wire.kafka import records
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.records import Batch, Record

if TYPE_CHECKING:
    from brokerproof.conformance.kafka.scene import KafkaScene

EARLIEST, LATEST, LARGEST_TIMESTAMP, EARLIEST_LOCAL, LAST_TIERED = -2, -1, -3, -4, -5
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
_MEBI = 1 << 20
#: From here on topics are named by their id only (KIP-516).
PRODUCE_BY_ID, FETCH_BY_ID = 13, 13


@dataclass(frozen=True, slots=True)
class Produced:
    """The answer for one topic-partition. code: None where none came."""

    answer: Answer
    code: int | None = None
    base_offset: int = -1
    log_append_time: int = -1
    log_start: int = -1
    record_errors: tuple[int, ...] = ()
    leader: int = -1

    def seen(self) -> Seen:
        return self.answer.seen(self.code)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer for one topic-partition. top: error of the answer as a whole.  code: of the partition, or the top's."""

    answer: Answer
    top: int | None = None
    code: int | None = None
    high_watermark: int = -1
    last_stable: int = -1
    log_start: int = -1
    aborted: tuple[tuple[int, int], ...] = ()
    batches: tuple[Batch, ...] = ()
    octets: int = 0
    session: int = 0
    leader: int = -1
    partitions: tuple[tuple[str, int], ...] = field(default=())

    def seen(self) -> Seen:
        return self.answer.seen(self.code)

    @property
    def values(self) -> list[bytes | None]:
        return [r.value for r in records.plain(self.batches)]

    def committed(self) -> list[bytes | None]:
        """What a client of isolation level read_committed hands on: without the records of aborted transactions.

        Source: KIP-98; a transaction is aborted from its first offset to its abort marker."""
        open_: set[int] = set()
        pending = sorted(self.aborted, key=lambda a: a[1])
        out = []
        for batch in self.batches:
            while pending and pending[0][1] <= batch.last_offset:
                open_.add(pending.pop(0)[0])
            if batch.control:
                open_.discard(batch.producer_id)
            elif not (batch.transactional and batch.producer_id in open_):
                out += [r.value for r in batch.records]
        return out


class Topic:
    """Made by ``KafkaScene.topic``. Requests go to the partition's leader, unless a connection is given."""

    def __init__(self, scene: KafkaScene, name: str, id: uuid.UUID, partitions: int) -> None:
        self.name, self.id, self.partitions = name, id, partitions
        self._scene = scene

    # -- sending -------------------------------------------------------------------------------------------------------

    def produce_fields(
        self, data: bytes | None, partition: int = 0, *, acks: int = -1, timeout_ms: int = 5000, transactional: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        part = {"index": partition, "records": data}
        return {
            "transactional_id": transactional, "acks": acks, "timeout": timeout_ms,
            "topic_data": [{"name": self.name, "topic_id": self.id, "partition_data": [part]}],
        }  # fmt: skip

    def produce(
        self, data: bytes | Sequence[Record] | str, partition: int = 0, *, version: int | None = None, acks: int = -1,
        timeout_ms: int = 5000, transactional: str | None = None, on: Connection | None = None,
    ) -> Produced:  # fmt: skip
        """A batch as octets, records, or one value."""
        connection = on or self._scene.leading(self, partition)
        fields = self.produce_fields(
            batch(data), partition, acks=acks, timeout_ms=timeout_ms, transactional=transactional
        )
        return produced(connection.ask("produce", version, **fields))

    def fill(self, *values: bytes | str, partition: int = 0) -> int:
        """Appends them in one batch; the first one's offset. Raises Inconclusive when it is refused: not what is tested."""
        now = self._scene.now_ms()
        made = [Record(v.encode() if isinstance(v, str) else v, timestamp=now) for v in values]
        done = self.produce(made, partition)
        if done.code != 0:
            raise Inconclusive(f"{len(values)} records for {self.name}-{partition}: {done.seen()}")
        return done.base_offset

    # -- reading -------------------------------------------------------------------------------------------------------

    def fetch_fields(
        self, offset: int, partition: int = 0, *, isolation: int = READ_UNCOMMITTED, max_wait_ms: int = 100, min_bytes: int = 1,
        max_bytes: int = 16 * _MEBI, partition_max_bytes: int = 16 * _MEBI, leader_epoch: int = -1, session: int = 0,
        session_epoch: int = -1,
    ) -> dict[str, Any]:  # fmt: skip
        part = {
            "partition": partition, "current_leader_epoch": leader_epoch, "fetch_offset": offset,
            "partition_max_bytes": partition_max_bytes,
        }  # fmt: skip
        return {
            "replica_id": -1, "max_wait": max_wait_ms, "min_bytes": min_bytes, "max_bytes": max_bytes,
            "isolation_level": isolation, "session_id": session, "session_epoch": session_epoch,
            "topics": [{"topic": self.name, "topic_id": self.id, "partitions": [part]}],
        }  # fmt: skip

    def fetch(
        self, offset: int = 0, partition: int = 0, *, version: int | None = None, on: Connection | None = None,
        within: float | None = None, **more: int,
    ) -> Fetched:  # fmt: skip
        """more: of ``fetch_fields``."""
        connection = on or self._scene.leading(self, partition)
        return fetched(connection.ask("fetch", version, within=within, **self.fetch_fields(offset, partition, **more)))

    def read(self, partition: int = 0, *, isolation: int = READ_UNCOMMITTED, offset: int | None = None) -> Fetched:
        """From the log's start (or that offset) to its end, as one; batches beyond what one fetch holds are fetched on."""
        at = self.offset(EARLIEST, partition) if offset is None else offset
        found: list[Batch] = []
        aborted: dict[tuple[int, int], None] = {}
        deadline = time.monotonic() + self._scene.patience_s
        while True:
            one = self.fetch(at, partition, isolation=isolation)
            if one.code != 0:
                raise Inconclusive(f"reading {self.name}-{partition} at {at}: {one.seen()}")
            found += one.batches
            aborted |= dict.fromkeys(one.aborted)
            end = one.last_stable if isolation == READ_COMMITTED else one.high_watermark
            at = max([at, *(b.last_offset + 1 for b in one.batches)])
            if at >= end or time.monotonic() > deadline:
                return Fetched(
                    one.answer, one.top, one.code, one.high_watermark, one.last_stable, one.log_start, tuple(aborted),
                    tuple(found), sum(len(b.octets) for b in found),
                )  # fmt: skip

    def values(self, partition: int = 0) -> list[bytes | None]:
        return self.read(partition).values

    # -- offsets -------------------------------------------------------------------------------------------------------

    def list_offsets(
        self, timestamp: int, partition: int = 0, *, version: int | None = None, isolation: int = READ_UNCOMMITTED,
        leader_epoch: int = -1, on: Connection | None = None,
    ) -> tuple[Answer, int | None, int, int]:  # fmt: skip
        """(answer, error code, offset, timestamp)"""
        part = {"partition_index": partition, "current_leader_epoch": leader_epoch, "timestamp": timestamp}
        connection = on or self._scene.leading(self, partition)
        answer = connection.ask(
            "list_offsets", version, replica_id=-1, isolation_level=isolation, timeout=5000,
            topics=[{"name": self.name, "partitions": [part]}],
        )  # fmt: skip
        if answer.fields is None:
            return answer, None, -1, -1
        one = answer.fields["topics"][0]["partitions"][0]
        return answer, one["error_code"], one["offset"], one["timestamp"]

    def offset(self, timestamp: int = LATEST, partition: int = 0, *, isolation: int = READ_UNCOMMITTED) -> int:
        """Raises Inconclusive for an error."""
        answer, code, offset, _ = self.list_offsets(timestamp, partition, isolation=isolation)
        if code != 0:
            raise Inconclusive(f"offset {timestamp} of {self.name}-{partition}: {answer.seen()}")
        return offset

    def end(self, partition: int = 0) -> int:
        return self.offset(LATEST, partition)

    def start(self, partition: int = 0) -> int:
        return self.offset(EARLIEST, partition)

    def delete_records(self, before: int, partition: int = 0) -> tuple[Answer, int | None, int]:
        """(answer, error code, low watermark)"""
        part = {"partition_index": partition, "offset": before}
        answer = self._scene.leading(self, partition).ask(
            "delete_records", timeout=5000, topics=[{"name": self.name, "partitions": [part]}]
        )
        if answer.fields is None:
            return answer, None, -1
        one = answer.fields["topics"][0]["partitions"][0]
        return answer, one["error_code"], one["low_watermark"]


def batch(data: bytes | Sequence[Record] | str) -> bytes:
    if isinstance(data, str):
        return records.batch([Record(data.encode(), timestamp=int(time.time() * 1000))])
    return data if isinstance(data, bytes) else records.batch(data)


def produced(answer: Answer) -> Produced:
    if answer.fields is None or not answer.fields["responses"]:
        return Produced(answer)
    one = answer.fields["responses"][0]["partition_responses"][0]
    return Produced(
        answer, one["error_code"], one["base_offset"], one.get("log_append_time", -1), one.get("log_start_offset", -1),
        tuple(e["batch_index"] for e in one.get("record_errors") or ()),
        (one.get("current_leader") or {}).get("leader_id", -1),
    )  # fmt: skip


def fetched(answer: Answer) -> Fetched:
    """Of the first topic-partition in the answer."""
    if answer.fields is None:
        return Fetched(answer)
    top, session = answer.fields.get("error_code", 0), answer.fields.get("session_id", 0)
    parts = [(str(t.get("topic") or t.get("topic_id")), p) for t in answer.fields["responses"] for p in t["partitions"]]
    named = tuple((name, p["partition_index"]) for name, p in parts)
    if not parts:
        return Fetched(answer, top, top, session=session)
    one = parts[0][1]
    data = one["records"] or b""
    try:
        found = tuple(records.batches(data))
    except WireError as exc:
        raise Inconclusive(f"the records in the answer to Fetch v{answer.version} cannot be read: {exc}") from exc
    return Fetched(
        answer, top, top or one["error_code"], one["high_watermark"], one["last_stable_offset"],
        one.get("log_start_offset", -1),
        tuple((a["producer_id"], a["first_offset"]) for a in one.get("aborted_transactions") or ()),
        found, len(data), session, (one.get("current_leader") or {}).get("leader_id", -1), named,
    )  # fmt: skip
