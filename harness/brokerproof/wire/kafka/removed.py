"""Versions that the vendor took away in 4.0 (KIP-896), which the schemas no longer have: bodies and the form of answers by hand.

Source: the vendor's schemas of 3.9, clients/src/main/resources/common/message; none of these versions has compact lengths or
tagged fields, in its header neither.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, Union

from brokerproof.wire.kafka import octets
from brokerproof.wire.kafka.errors import WireError

_PRODUCE, _FETCH, _LIST_OFFSETS, _OFFSET_COMMIT, _OFFSET_FETCH = 0, 1, 2, 8, 9


def _i32(*values: int) -> bytes:
    return b"".join(octets.fixed("int32", v) for v in values)


def _i64(*values: int) -> bytes:
    return b"".join(octets.fixed("int64", v) for v in values)


def _i16(value: int) -> bytes:
    return octets.fixed("int16", value)


def _text(value: str) -> bytes:
    return octets.string(value, flexible=False)


#: Kinds of ``octets.FIXED``, ``string`` and ``bytes`` (which may be null), ``code`` (an error code); a tuple in it is an array of such.
Layout = tuple[Union[str, "Layout"], ...]
_TOKEN: Layout = ("code", "string", "string", "int64", "int64", "int64", "string", "bytes", "int32")
_CONFIG: Layout = ("string", "string", "bool", "bool", "bool")
_ACL: Layout = ("int8", "string", ("string", "string", "int8", "int8"))
_MATCHED: Layout = ("code", "string", "int8", "string", "string", "string", "int8", "int8")

#: (API key, version) -> the form of its answer behind the correlation id.
ANSWERS: Final[Mapping[tuple[int, int], Layout]] = {
    (0, 0): (("string", ("int32", "code", "int64")),),
    (0, 1): (("string", ("int32", "code", "int64")), "int32"),
    (0, 2): (("string", ("int32", "code", "int64", "int64")), "int32"),
    (1, 0): (("string", ("int32", "code", "int64", "bytes")),),
    **{(1, v): ("int32", ("string", ("int32", "code", "int64", "bytes"))) for v in (1, 2, 3)},
    (2, 0): (("string", ("int32", "code", ("int64",))),),
    **{(8, v): (("string", ("int32", "code")),) for v in (0, 1)},
    (9, 0): (("string", ("int32", "int64", "string", "code")),),
    (19, 0): (("string", "code"),),
    (19, 1): (("string", "code", "string"),),
    (20, 0): (("string", "code"),),
    (23, 0): (("string", ("code", "int32", "int64")),),
    (23, 1): (("string", ("code", "int32", "int32", "int64")),),
    (27, 0): (("int64", ("string", ("int32", "code"))),),
    (29, 0): ("int32", "code", "string", _ACL),
    (30, 0): ("int32", ("code", "string")),
    (31, 0): ("int32", ("code", "string", _MATCHED)),
    (32, 0): ("int32", ("code", "string", "int8", "string", _CONFIG)),
    (34, 0): ("int32", ("string", ("int32", "code"))),
    (35, 0): ("int32", ("code", "string", ("string", ("int32", "int64", "int64", "bool")))),
    (38, 0): _TOKEN,
    **{(key, 0): ("code", "int64", "int32") for key in (39, 40)},
    (41, 0): ("code", ("string", "string", "int64", "int64", "int64", "string", "bytes", ("string", "string")), "int32"),
}  # fmt: skip


def codes(key: int, version: int, payload: bytes) -> list[int]:
    """Every error code of an answer, a frame without its length. Raises WireError where it is not of that version's form, to the
    last octet."""
    reader = octets.Reader(payload)
    reader.fixed("int32")
    found = list(_codes(ANSWERS[key, version], reader))
    if reader.left:
        raise WireError(f"{reader.left} octets behind the last field")
    return found


def _codes(layout: Layout, reader: octets.Reader) -> Iterator[int]:
    for kind in layout:
        if isinstance(kind, tuple):
            for inner in reader.array(False, partial(_listed, kind, reader)) or []:
                yield from inner
        elif kind == "code":
            yield int(reader.fixed("int16"))
        elif kind == "string":
            reader.string(flexible=False)
        elif kind == "bytes":
            reader.octets(flexible=False)
        else:
            reader.fixed(kind)


def _listed(layout: Layout, reader: octets.Reader) -> list[int]:
    return list(_codes(layout, reader))


def message(value: bytes, magic: int = 0, timestamp: int = 0) -> bytes:
    """A message set of one message of magic 0 or 1, with its CRC-32 (not CRC-32C)."""
    covered = bytes([magic, 0]) + (_i64(timestamp) if magic else b"") + _i32(-1) + octets.octets(value, flexible=False)
    inner = octets.fixed("uint32", zlib.crc32(covered)) + covered
    return _i64(0) + octets.octets(inner, flexible=False)


def requests(topic: str, group: str) -> Iterator[tuple[int, int, bytes]]:
    """(API key, version, body) of the removed versions that produce, fetch, list, commit: about partition 0 of the topic."""
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


def harmless(topic: str, group: str) -> Iterator[tuple[int, int, bytes]]:
    """(API key, version, body) of every removed version that a client's listener had: legal, and what it does is ``requests``' or nothing:
    most name no topic, no resource, no entry."""
    yield from requests(topic, group)
    nothing, one = _i32(0), _i32(1) + _text(topic) + _i32(1)
    yield 19, 0, nothing + _i32(1000)
    yield 19, 1, nothing + _i32(1000) + b"\1"  # validate only
    yield 20, 0, nothing + _i32(1000)
    for version in range(2):
        yield 23, version, one + _i32(0) + _i32(0)
    yield 27, 0, nothing
    yield 29, 0, b"\1" + _i16(-1) * 3 + b"\1\1"  # any resource, any operation, any permission
    yield 30, 0, nothing
    yield 31, 0, nothing
    yield 32, 0, nothing
    yield 34, 0, nothing
    yield 35, 0, nothing
    yield 38, 0, nothing + _i64(1000)
    for key in (39, 40):
        yield key, 0, octets.octets(b"none", flexible=False) + _i64(1000)
    yield 41, 0, nothing
