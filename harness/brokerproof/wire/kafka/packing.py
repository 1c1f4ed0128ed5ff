"""The four compressions of record batches, in the framings that the vendor's clients use.

Source: record batch v2, attributes bits 0-2; snappy in the xerial stream's framing, lz4 and zstd as frames.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import pyarrow as pa

from brokerproof.wire.kafka import octets
from brokerproof.wire.kafka.errors import WireError

KINDS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_XERIAL: Final = b"\x82SNAPPY\x00" + bytes([0, 0, 0, 1, 0, 0, 0, 1])
_UNPACKED_MAX: Final = 64 * 2**20


def pack(kind: str, data: bytes) -> bytes:
    if kind == "none":
        return data
    if kind == "gzip":
        gzip = zlib.compressobj(wbits=31)
        return gzip.compress(data) + gzip.flush()
    packed: bytes = pa.compress(data, codec=kind, asbytes=True)
    return _XERIAL + octets.octets(packed, flexible=False) if kind == "snappy" else packed


def unpack(kind: str, data: bytes) -> bytes:
    """Raises WireError for what is no such stream, and for one of more than 64 MiB."""
    try:
        if kind == "none":
            return data
        if kind == "gzip":
            return _bounded(zlib.decompressobj(wbits=31).decompress(data, _UNPACKED_MAX))
        if kind == "snappy":
            return _snappy(data)
        with pa.CompressedInputStream(pa.BufferReader(data), kind) as stream:
            out: bytes = stream.read(_UNPACKED_MAX)
            return _bounded(out)
    except (zlib.error, pa.ArrowException, OSError) as exc:
        raise WireError(f"{len(data)} octets that are no {kind}: {exc}") from exc


def _snappy(data: bytes) -> bytes:
    if not data.startswith(_XERIAL[:8]):
        return _block(data)
    reader, out = octets.Reader(data, len(_XERIAL)), b""
    while reader.left:
        out = _bounded(out + _block(reader.octets(flexible=False) or b""))
    return out


def _block(data: bytes) -> bytes:
    size = octets.Reader(data).uvarint()  # a raw block begins with its unpacked length
    if size > _UNPACKED_MAX:
        raise WireError(f"a snappy block of {size} octets")
    out: Any = pa.decompress(data, decompressed_size=size, codec="snappy", asbytes=True)
    return bytes(out)


def _bounded(data: bytes) -> bytes:
    if len(data) >= _UNPACKED_MAX:
        raise WireError(f"more than {_UNPACKED_MAX} octets unpacked")
    return data
