"""One topic-partition's log: what is let in, and what is read. Octets and numbers only; nothing waits here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crc32c import crc32c

from brokerproof.wire.kafka import records
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.records import Batch, Record

CORRUPT, TOO_LARGE, BAD_TIMESTAMP, OUT_OF_ORDER, DUPLICATE, OLD_EPOCH, NO_ZSTD, INVALID = 2, 10, 32, 45, 46, 47, 76, 87
_SEQUENCES = 2**31
#: So many batches of a producer are remembered (KIP-98: as many as may be in flight).
_REMEMBERED = 5
Wrong = Callable[[str], bool]


@dataclass(slots=True)
class _Producer:
    epoch: int
    last: int = -1
    #: (first sequence, last sequence, base offset)
    batches: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Appended:
    code: int
    base_offset: int = -1
    time_ms: int = -1
    record_errors: tuple[int, ...] = ()


class Log:
    """config: of the topic, asked each time. wrong: whether a mutant gets that wrong."""

    def __init__(self, config: Mapping[str, str], wrong: Wrong) -> None:
        self._config, self._wrong = config, wrong
        self.batches: list[Batch] = []
        self.start = self.end = 0
        self.epochs: list[tuple[int, int]] = [(0, 0)]
        #: producer id -> first offset of its open transaction
        self.open: dict[int, int] = {}
        #: (producer id, first offset, last offset)
        self.aborted: list[tuple[int, int, int]] = []
        self._producers: dict[int, _Producer] = {}

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, data: bytes, *, version: int, leader_epoch: int) -> Appended:
        """By a client: checked. version: of Produce."""
        batch, refused = self._checked(data, version)
        if batch is None:
            return refused
        known = self._sequenced(batch)
        if known is not None:
            return known
        now = int(time.time() * 1000)
        data, stamp = self._stored(batch, now)
        base = self.end
        self._take(records.rewritten(data, base_offset=base, leader_epoch=leader_epoch))
        if batch.producer_id >= 0:
            self._remember(batch, base)
        if batch.transactional:
            self.open.setdefault(batch.producer_id, base)
        return Appended(0, base, stamp)

    def mark(self, kind: int, producer_id: int, epoch: int, leader_epoch: int) -> None:
        """Ends that producer's transaction."""
        first = self.open.pop(producer_id, None)
        data = records.marker(
            kind, base_offset=self.end, producer_id=producer_id, producer_epoch=epoch, timestamp=int(time.time() * 1000),
            leader_epoch=leader_epoch,
        )  # fmt: skip
        if first is not None and kind == records.ABORT:
            self.aborted.append((producer_id, first, self.end))
        if not self._wrong("no-markers"):
            self._take(data)
        known = self._producers.get(producer_id)
        if known is None or known.epoch < epoch:
            self._producers[producer_id] = _Producer(epoch)

    def truncate(self, end: int) -> None:
        """A new leader has no more."""
        self.batches = [b for b in self.batches if b.last_offset < end]
        self.end = end

    def delete_before(self, offset: int) -> None:
        """Where the log begins already behind that, nothing changes."""
        self.start = max(self.start, offset)
        self.batches = [b for b in self.batches if b.last_offset >= offset]

    def compact(self, *, tombstones: bool) -> None:
        """All but the newest batch. tombstones: whether they go as well."""
        *old, newest = self.batches
        last: dict[bytes | None, int] = {r.key: r.offset for b in self.batches for r in b.records}
        kept: list[Batch] = []
        moved = 0
        for batch in old:
            stays = [
                r for r in batch.records if last[r.key] == r.offset and not (tombstones and r.value is None)
            ]  # fmt: skip
            if self._wrong("compaction-keeps-first"):
                stays = [r for r in batch.records if r.offset < 100]
            if self._wrong("compaction-renumbers"):
                moved += 1
            if stays:
                deltas = [r.offset - batch.base_offset for r in stays]
                data = records.batch(
                    stays, base_offset=batch.base_offset - min(moved, batch.base_offset), deltas=deltas,
                    last_offset_delta=batch.last_offset_delta, leader_epoch=batch.leader_epoch,
                )  # fmt: skip
                kept += records.batches(data)
        self.batches = [*kept, newest]

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def last_stable(self) -> int:
        return min(self.open.values(), default=self.end)

    def read(self, offset: int, limit: int, bound: int) -> bytes:
        """Whole batches from the one that holds the offset on, below the bound; the first one however large it is."""
        out = b""
        for batch in self.batches:
            if batch.last_offset < offset:
                continue
            if batch.base_offset >= bound:
                break
            if len(out) + len(batch.octets) > limit and (out or self._wrong("first-batch-cut")):
                break
            out += batch.octets
        return out

    def ranges(self, offset: int, bound: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of aborted transactions that reach into these offsets."""
        return [(pid, first) for pid, first, last in self.aborted if last >= offset and first < bound]

    def at_time(self, stamp: int) -> tuple[int, int]:
        """(offset, timestamp) of the first record that is not older; −1, −1 none."""
        for batch in self.batches:
            for record in batch.records:
                late = record.timestamp > stamp if self._wrong("time-after") else record.timestamp >= stamp
                if late and record.offset >= self.start:
                    return record.offset, record.timestamp
        return -1, -1

    def largest(self) -> tuple[int, int]:
        """(offset, timestamp) of the record with the largest timestamp."""
        every = [(r.timestamp, -r.offset) for b in self.batches for r in b.records]
        newest = max(every, default=(-1, 1))
        return -newest[1], newest[0]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        (batch,) = records.batches(data)
        self.batches.append(batch)
        self.end = batch.last_offset + 1

    def _checked(self, data: bytes, version: int) -> tuple[Batch | None, Appended]:
        limit = int(self._config["max.message.bytes"])
        if len(data) < records.HEADER_OCTETS or data[records.AT_MAGIC] != 2:
            return None, Appended(INVALID)
        size = 12 + int.from_bytes(data[8:12], "big")
        if size != len(data):
            return None, Appended(INVALID)
        if size > limit:
            return None, Appended(TOO_LARGE)
        # Before anything it covers is believed.
        covered = crc32c(data[records.AT_ATTRIBUTES :]).to_bytes(4, "big")
        if data[records.AT_CRC : records.AT_ATTRIBUTES] != covered and not self._wrong("crc-unchecked"):
            return None, Appended(CORRUPT)
        try:
            found = records.batches(data)
        except WireError:
            return None, Appended(INVALID)
        (batch,) = found
        rising = [r.offset - batch.base_offset for r in batch.records] == list(range(len(batch.records)))
        if batch.control or batch.last_offset_delta != batch.count - 1 or not rising or not batch.records:
            return None, Appended(INVALID)
        if batch.compression == "zstd" and version < 7:
            return None, Appended(NO_ZSTD)
        errors = self._per_record(batch)
        return (None, errors) if errors.code else (batch, Appended(0))

    def _per_record(self, batch: Batch) -> Appended:
        latest = time.time() * 1000 + 3_600_000
        if any(r.timestamp > latest for r in batch.records):
            return Appended(BAD_TIMESTAMP)
        if "compact" in self._config["cleanup.policy"]:
            bad = tuple(i for i, r in enumerate(batch.records) if r.key is None)
            if bad:
                return Appended(INVALID, record_errors=() if self._wrong("no-record-errors") else bad)
        return Appended(0)

    def _sequenced(self, batch: Batch) -> Appended | None:
        """An answer, where the sequence says that it is not to be appended."""
        known = self._producers.get(batch.producer_id)
        if batch.producer_id < 0 or known is None or batch.producer_epoch > known.epoch:
            return None
        if batch.producer_epoch < known.epoch:
            return None if self._wrong("late-write") else Appended(OLD_EPOCH)
        last = (batch.base_sequence + batch.count - 1) % _SEQUENCES
        turned = bool(known.batches) and batch.base_sequence < known.batches[0][0]
        if not self._wrong("no-dedup") and not (turned and self._wrong("forgets-over-wrap")):
            for first_known, last_known, base in known.batches:
                if (first_known, last_known) == (batch.base_sequence, last):
                    return Appended(0, self.end if self._wrong("retry-new-offset") else base)
        due = known.last + 1 if self._wrong("no-wrap") else (known.last + 1) % _SEQUENCES
        if not known.batches or batch.base_sequence == due or self._wrong("no-dedup"):
            return None
        return Appended(OUT_OF_ORDER)

    def _remember(self, batch: Batch, base: int) -> None:
        known = self._producers.get(batch.producer_id)
        if known is None or known.epoch < batch.producer_epoch:
            known = self._producers[batch.producer_id] = _Producer(batch.producer_epoch)
        known.last = (batch.base_sequence + batch.count - 1) % _SEQUENCES
        known.batches = [*known.batches, (batch.base_sequence, known.last, base)][-_REMEMBERED:]

    def _stored(self, batch: Batch, now: int) -> tuple[bytes, int]:
        """The batch as this topic keeps it, and the time that it stamps on it, −1 none."""
        wanted = self._config["compression.type"]
        appending = self._config["message.timestamp.type"] == "LogAppendTime"
        again = wanted not in ("producer", batch.compression) and not self._wrong("keeps-compression")
        if not again and not appending:
            return batch.octets, -1
        kind = batch.compression if wanted == "producer" else wanted
        attributes = batch.attributes & ~7
        made: list[Record] = list(batch.records)
        base, newest = batch.base_timestamp, batch.max_timestamp
        if appending:
            attributes |= 0 if self._wrong("no-append-bit") else records.LOG_APPEND_TIME
            newest = now
        data = records.batch(
            made, compression=kind, attributes=attributes, producer_id=batch.producer_id, base_timestamp=base,
            producer_epoch=batch.producer_epoch, base_sequence=batch.base_sequence, max_timestamp=newest,
        )  # fmt: skip
        return data, now if appending else -1
