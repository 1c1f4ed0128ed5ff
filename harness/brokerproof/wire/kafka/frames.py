"""Frames: four octets of length, a header, a body. Requests are made whole or broken; responses are taken from a stream.

Source: protocol guide, "Common Request and Response Structure"; KIP-482 (headers 2 and 1 have tagged fields); KIP-511 (the
header of an ApiVersions response never has any).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from brokerproof.wire.kafka import octets, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.schema import Fields

CLIENT: Final = "brokerproof"
API_VERSIONS: Final = 18
#: A longer frame is taken for nonsense; the broker's own limit on requests is 100 MiB by default.
FRAME_OCTETS_MAX: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the peer of a client takes it. tags: of its header."""

    key: int
    version: int
    correlation: int
    client: str | None
    tags: Mapping[int, bytes]
    fields: Fields


@dataclass(frozen=True, slots=True)
class Response:
    """leftover: octets behind the last field: none in a right one."""

    correlation: int
    fields: Fields
    tags: Mapping[int, bytes] = field(default_factory=dict)
    leftover: int = 0


def framed(payload: bytes) -> bytes:
    return octets.fixed("int32", len(payload)) + payload


def request(
    key: int, version: int, correlation: int, fields: Fields, *, client: str | None = CLIENT,
    tags: dict[int, bytes] | None = None,
) -> bytes:  # fmt: skip
    """A whole frame. tags: more in the header. Raises WireError."""
    struct = schema.request(key, version)
    return by_hand(
        key, version, correlation, schema.encode(struct, fields), flexible=struct.header == 2, client=client, tags=tags
    )


def by_hand(
    key: int, version: int, correlation: int, body: bytes, *, flexible: bool, client: str | None = CLIENT,
    tags: dict[int, bytes] | None = None,
) -> bytes:  # fmt: skip
    """A frame around a body of any octets."""
    head = octets.fixed("int16", key) + octets.fixed("int16", version) + octets.fixed("int32", correlation)
    head += octets.string(client, flexible=False)  # never compact: an old broker has to read it
    return framed(head + (octets.tags(tags or {}) if flexible else b"") + body)


def parse_request(payload: bytes) -> Request:
    """Of a frame without its length. Raises WireError: of an unknown key or version too, which have no schema."""
    reader = octets.Reader(payload)
    key, version, correlation = reader.fixed("int16"), reader.fixed("int16"), reader.fixed("int32")
    struct = schema.request(key, version)
    client = reader.string(flexible=False)
    tags = reader.tags() if struct.header == 2 else {}
    fields = schema.decode(struct, reader)
    if reader.left:
        raise WireError(f"{reader.left} octets behind the last field of {struct.name}")
    return Request(key, version, correlation, client, tags, fields)


def response(key: int, version: int, correlation: int, fields: Fields, tags: dict[int, bytes] | None = None) -> bytes:
    """A whole frame."""
    struct = schema.response(key, version)
    head = octets.fixed("int32", correlation) + (octets.tags(tags or {}) if struct.header == 1 else b"")
    return framed(head + schema.encode(struct, fields))


def parse_response(key: int, version: int, payload: bytes) -> Response:
    """Of a frame without its length. Raises WireError."""
    struct = schema.response(key, version)
    reader = octets.Reader(payload)
    correlation = reader.fixed("int32")
    tags = reader.tags() if struct.header == 1 else {}
    fields = schema.decode(struct, reader)
    return Response(correlation, fields, tags, reader.left)


class Frames:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        """The next whole frame without its length; None: not yet. Raises WireError for a length that cannot be."""
        if len(self._data) < 4:
            return None
        n = int.from_bytes(self._data[:4], "big", signed=True)
        if not 0 <= n <= FRAME_OCTETS_MAX:
            raise WireError(f"a frame of {n} octets is announced")
        if len(self._data) < 4 + n:
            return None
        frame = bytes(self._data[4 : 4 + n])
        del self._data[: 4 + n]
        return frame

    def announced(self) -> int | None:
        """The length that the next frame has by its own word, sound or not; None: not known yet."""
        return int.from_bytes(self._data[:4], "big", signed=True) if len(self._data) >= 4 else None

    @property
    def pending(self) -> int:
        """Octets of a frame that is not whole."""
        return len(self._data)
