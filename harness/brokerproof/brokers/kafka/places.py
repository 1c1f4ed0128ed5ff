"""Where a Kafka node has a message: its own replica's segments, read from its disk and not through the leader.

    segment   record batches, end to end
    batch     int64 base offset | int32 length of what follows | int32 partition leader epoch | int8 magic (2) | …
    record    varint length | int8 attributes | varint timestamp delta | varint offset delta | key | value | headers

Source: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

from brokerproof.brokers.base import Json
from brokerproof.brokers.kafka import config
from brokerproof.plan import Destination
from brokerproof.runtime.seeking import Hits, NotRead

_BATCH = struct.Struct(">qiibIh")
_RECORDS_AT = 61
_LENGTH_FROM = 12  # what the length counts begins after base offset and length
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_PARTITION = re.compile(r"-(\d+)/[^/]+$")


def folders(lanes: Mapping[str, Destination]) -> list[str]:
    return [f"{config.DATA}/{name}-{p}" for name, destination in lanes.items() for p in range(destination.partitions)]


def wanted(path: str) -> bool:
    return path.endswith(".log")


def read(path: str, data: bytes, hits: Hits) -> Iterator[tuple[bytes, Json]]:
    """``partition``, ``offset``, ``epoch`` (of the leader that appended it), ``file``, ``byte``."""
    partition = _PARTITION.search(path)
    batches = _batches(data)
    begin, end, base, epoch, codec = next(batches, (0, 0, 0, 0, 0))
    codecs = {codec}
    for mark, at in hits(data):
        while end <= at:
            begin, end, base, epoch, codec = next(batches, (end, len(data) + 1, -1, -1, 0))
            codecs.add(codec)
        offset = _offset(data, begin, end, base, at)
        where = {"partition": int(partition.group(1)) if partition else -1}
        # Bytes outside of a record are no message: a replica that was cut short may have some.
        told = {"offset": offset, "epoch": epoch} if offset >= 0 else {"offset": "none, it is no whole record"}
        yield mark, {**where, **told, "file": path, "byte": at}
    codecs |= {batch[4] for batch in batches}
    if packed := sorted(codecs - {0}):
        raise NotRead(
            f"batches are packed with {', '.join(_CODECS[c] if c < len(_CODECS) else str(c) for c in packed)}"
        )


def _batches(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(begin, end, base offset, leader epoch, codec) of each whole batch."""
    at = 0
    while at + _RECORDS_AT <= len(data):
        base, length, epoch, magic, _, attributes = _BATCH.unpack_from(data, at)
        end = at + _LENGTH_FROM + length
        if magic != 2 or length < _RECORDS_AT - _LENGTH_FROM or end > len(data):
            return
        yield at, end, base, epoch, attributes & 7
        at = end


def _offset(data: bytes, begin: int, end: int, base: int, hit: int) -> int:
    """Offset of the record that the hit lies in; -1 where there is none."""
    at = begin + _RECORDS_AT
    while base >= 0 and at < min(end, hit):
        length, body = _varint(data, at)
        if body + length > end or length <= 0:
            return -1
        if body + length > hit:
            _, i = _varint(data, body + 1)
            delta, _ = _varint(data, i)
            return base + delta
        at = body + length
    return -1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends): zigzag, seven bits an octet."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
