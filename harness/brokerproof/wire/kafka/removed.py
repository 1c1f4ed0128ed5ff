"""Requests of versions that the vendor took away in 4.0 (KIP-896), which the schemas no longer have: bodies by hand.

Source: the vendor's schemas of 3.9, clients/src/main/resources/common/message; none of these versions has compact lengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from brokerproof.wire.kafka import octets

_PRODUCE, _FETCH, _LIST_OFFSETS, _OFFSET_COMMIT, _OFFSET_FETCH = 0, 1, 2, 8, 9


def _i32(*values: int) -> bytes:
    return b"".join(octets.fixed("int32", v) for v in values)


def _i64(*values: int) -> bytes:
    return b"".join(octets.fixed("int64", v) for v in values)


def _i16(value: int) -> bytes:
    return octets.fixed("int16", value)


def _text(value: str) -> bytes:
    return octets.string(value, flexible=False)


def message(value: bytes, magic: int = 0, timestamp: int = 0) -> bytes:
    """A message set of one message of magic 0 or 1, with its CRC-32 (not CRC-32C)."""
    covered = bytes([magic, 0]) + (_i64(timestamp) if magic else b"") + _i32(-1) + octets.octets(value, flexible=False)
    inner = octets.fixed("uint32", zlib.crc32(covered)) + covered
    return _i64(0) + octets.octets(inner, flexible=False)


def requests(topic: str, group: str) -> Iterator[tuple[int, int, bytes]]:
    """(API key, version, body) of every removed version that conformance asks for, about partition 0 of the topic."""
    one = _i32(1) + _text(topic) + _i32(1)
    for version in range(3):
        data = octets.octets(message(b"removed", magic=min(version, 1)), flexible=False)
        yield _PRODUCE, version, _i16(1) + _i32(5000) + one + _i32(0) + data
    for version in range(4):
        limit = _i32(1 << 20) if version == 3 else b""
        yield _FETCH, version, _i32(-1, 100, 1) + limit + one + _i32(0) + _i64(0) + _i32(1 << 20)
    yield _LIST_OFFSETS, 0, _i32(-1) + one + _i32(0) + _i64(-1) + _i32(1)
    yield _OFFSET_COMMIT, 0, _text(group) + one + _i32(0) + _i64(0) + _text("")
    stamped = _i32(0) + _i64(0) + _i64(-1) + _text("")
    yield _OFFSET_COMMIT, 1, _text(group) + _i32(-1) + _text("") + one + stamped
    yield _OFFSET_FETCH, 0, _text(group) + one + _i32(0)
