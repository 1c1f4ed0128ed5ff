"""Record batches of magic 2: made whole, or with any field wrong; and read.

Source: documentation, "Record Batch"; the CRC-32C covers everything behind it, from the attributes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crc32c import crc32c

from brokerproof.wire.kafka import octets, packing
from brokerproof.wire.kafka.errors import WireError

#: Attribute bits.
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
ABORT, COMMIT = 0, 1
#: Where things are in a batch: length, partition leader epoch, magic, CRC, attributes.
AT_EPOCH, AT_MAGIC, AT_CRC, AT_ATTRIBUTES = 12, 16, 17, 21
#: From the start to the first record.
HEADER_OCTETS = 61


@dataclass(frozen=True, slots=True)
class Record:
    """timestamp: milliseconds since 1970.  offset: absolute; −1 in one that is to be written."""

    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0
    offset: int = -1
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """As it stands in a log. crc_good: whether the CRC is that of its octets."""

    base_offset: int
    leader_epoch: int
    magic: int
    crc_good: bool
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int
    records: tuple[Record, ...] = field(repr=False)
    octets: bytes = field(repr=False)

    @property
    def compression(self) -> str:
        kind = self.attributes & 7
        return packing.KINDS[kind] if kind < len(packing.KINDS) else f"compression {kind}"

    @property
    def control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta


def batch(
    records: Sequence[Record], *, base_offset: int = 0, leader_epoch: int = -1, magic: int = 2, compression: str = "none",
    attributes: int = 0, producer_id: int = -1, producer_epoch: int = -1, base_sequence: int = -1,
    count: int | None = None, last_offset_delta: int | None = None, deltas: Sequence[int] | None = None,
    base_timestamp: int | None = None, max_timestamp: int | None = None, crc: int | None = None,
) -> bytes:  # fmt: skip
    """A batch. What is None is worked out as it has to be; given, it may be wrong. attributes: besides the compression."""
    base = base_timestamp if base_timestamp is not None else (records[0].timestamp if records else -1)
    newest = max_timestamp if max_timestamp is not None else max((r.timestamp for r in records), default=-1)
    chosen = list(deltas) if deltas is not None else list(range(len(records)))
    last = last_offset_delta if last_offset_delta is not None else (chosen[-1] if chosen else 0)
    packed = packing.pack(compression, b"".join(_record(r, base, d) for r, d in zip(records, chosen, strict=True)))
    covered = b"".join(
        octets.fixed(kind, value)
        for kind, value in (
            ("int16", attributes | packing.KINDS.index(compression)), ("int32", last), ("int64", base),
            ("int64", newest), ("int64", producer_id), ("int16", producer_epoch), ("int32", base_sequence),
            ("int32", len(records) if count is None else count),
        )
    ) + packed  # fmt: skip
    inner = octets.fixed("int32", leader_epoch) + octets.fixed("int8", magic)
    inner += octets.fixed("uint32", crc32c(covered) if crc is None else crc) + covered
    return octets.fixed("int64", base_offset) + octets.fixed("int32", len(inner)) + inner


def marker(
    kind: int, *, base_offset: int, producer_id: int, producer_epoch: int, timestamp: int, leader_epoch: int = 0
) -> bytes:
    """The control batch that ends a transaction: ``ABORT`` or ``COMMIT``."""
    key = octets.fixed("int16", 0) + octets.fixed("int16", kind)
    value = octets.fixed("int16", 0) + octets.fixed("int32", 0)
    return batch(
        [Record(value, key, timestamp)], base_offset=base_offset, leader_epoch=leader_epoch,
        attributes=TRANSACTIONAL | CONTROL, producer_id=producer_id, producer_epoch=producer_epoch,
    )  # fmt: skip


def rewritten(data: bytes, *, base_offset: int, leader_epoch: int) -> bytes:
    """A batch as the leader writes it to its log: these two are before what the CRC covers."""
    return octets.fixed("int64", base_offset) + data[8:AT_EPOCH] + octets.fixed("int32", leader_epoch) + data[AT_MAGIC:]


def batches(data: bytes) -> list[Batch]:
    """The whole batches; the last one may be cut short in a fetch, and is left out then. Raises WireError."""
    out = []
    reader = octets.Reader(data)
    while reader.left >= HEADER_OCTETS:
        start = reader.at
        reader.take(8)
        size = reader.fixed("int32")
        if size < HEADER_OCTETS - 12:
            raise WireError(f"a batch of {size} octets at {start}")
        if size > reader.left:
            break
        reader.take(size)
        out.append(_batch(data[start : reader.at]))
    return out


def plain(found: Iterable[Batch]) -> list[Record]:
    """The records of those that are no control batches."""
    return [r for b in found if not b.control for r in b.records]


# -- inside ------------------------------------------------------------------------------------------------------------


def _batch(data: bytes) -> Batch:
    reader = octets.Reader(data)
    base_offset, _size, leader_epoch = reader.fixed("int64"), reader.fixed("int32"), reader.fixed("int32")
    magic, crc = reader.fixed("int8"), reader.fixed("uint32")
    if magic != 2:
        raise WireError(f"a batch of magic {magic}")
    good = crc == crc32c(data[AT_ATTRIBUTES:])
    attributes, last = reader.fixed("int16"), reader.fixed("int32")
    base, newest, producer = reader.fixed("int64"), reader.fixed("int64"), reader.fixed("int64")
    epoch, sequence, count = reader.fixed("int16"), reader.fixed("int32"), reader.fixed("int32")
    kind = attributes & 7
    if kind >= len(packing.KINDS):
        raise WireError(f"a batch of compression {kind}")
    inner = octets.Reader(packing.unpack(packing.KINDS[kind], data[HEADER_OCTETS:]))
    if count < 0 or count > inner.left:
        raise WireError(f"a batch of {count} records in {inner.left} octets")
    stamp = newest if attributes & LOG_APPEND_TIME else None
    records = tuple(_read(inner, base_offset, base, stamp) for _ in range(count))
    if inner.left:
        raise WireError(f"{inner.left} octets behind the last record of a batch")
    return Batch(
        base_offset,
        leader_epoch,
        magic,
        good,
        attributes,
        last,
        base,
        newest,
        producer,
        epoch,
        sequence,
        count,
        records,
        data,
    )


def _record(record: Record, base_timestamp: int, delta: int) -> bytes:
    body = b"\0" + octets.varint(record.timestamp - base_timestamp) + octets.varint(delta)
    body += _sized(record.key) + _sized(record.value) + octets.varint(len(record.headers))
    body += b"".join(_sized(name.encode()) + _sized(value) for name, value in record.headers)
    return octets.varint(len(body)) + body


def _sized(data: bytes | None) -> bytes:
    return octets.varint(-1) if data is None else octets.varint(len(data)) + data


def _read(reader: octets.Reader, base_offset: int, base_timestamp: int, stamp: int | None) -> Record:
    size = reader.varint()
    inner = octets.Reader(reader.take(size))
    inner.take(1)
    timestamp, delta = base_timestamp + inner.varint(), inner.varint()
    key, value = _taken(inner), _taken(inner)
    count = inner.varint()
    if count < 0 or count > inner.left:
        raise WireError(f"a record with {count} headers in {inner.left} octets")
    headers = tuple(((_taken(inner) or b"").decode(errors="replace"), _taken(inner)) for _ in range(count))
    if inner.left:
        raise WireError(f"{inner.left} octets behind the last field of a record")
    return Record(value, key, timestamp if stamp is None else stamp, base_offset + delta, headers)


def _taken(reader: octets.Reader) -> bytes | None:
    n = reader.varint()
    return None if n == -1 else reader.take(n)
