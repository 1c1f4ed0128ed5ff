"""Primitive types of the protocol. Strings, octets and arrays have two forms: with a length of fixed size, and compact.

Source: protocol guide, "Protocol Primitive Types"; KIP-482 for the compact forms.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar

from brokerproof.wire.kafka.errors import WireError

T = TypeVar("T")

#: kind -> format of ``struct``.
FIXED: Final = {
    "int8": ">b", "int16": ">h", "int32": ">i", "int64": ">q", "uint8": ">B", "uint16": ">H", "uint32": ">I",
    "uint64": ">Q", "float64": ">d", "bool": ">?",
}  # fmt: skip
_VARINT_OCTETS_MAX = 10


class Reader:
    """Reads in order, never past the end. ``at``: where it is."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, n: int) -> bytes:
        if n < 0 or n > self.left:
            raise WireError(f"{n} octets wanted at {self.at}, {self.left} are left")
        self.at += n
        return self.data[self.at - n : self.at]

    def fixed(self, kind: str) -> Any:
        form = FIXED[kind]
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def uvarint(self) -> int:
        value = 0
        for i in range(_VARINT_OCTETS_MAX):
            octet = self.take(1)[0]
            value |= (octet & 0x7F) << (7 * i)
            if octet < 0x80:
                return value
        raise WireError(f"a variable-length number of more than {_VARINT_OCTETS_MAX} octets at {self.at}")

    def varint(self) -> int:
        """Signed, zigzag."""
        value = self.uvarint()
        return (value >> 1) ^ -(value & 1)

    def length(self, flexible: bool, wide: bool) -> int:
        """Of a string, octets or an array; −1: null. wide: four octets where it is not compact, else two."""
        return self.uvarint() - 1 if flexible else int(self.fixed("int32" if wide else "int16"))

    def octets(self, flexible: bool) -> bytes | None:
        n = self.length(flexible, wide=True)
        return None if n == -1 else self.take(n)

    def string(self, flexible: bool) -> str | None:
        n = self.length(flexible, wide=False)
        if n == -1:
            return None
        try:
            return self.take(n).decode()
        except UnicodeDecodeError as exc:
            raise WireError(f"a string before {self.at} that is not UTF-8: {exc}") from exc

    def array(self, flexible: bool, item: Callable[[], T]) -> list[T] | None:
        n = self.length(flexible, wide=True)
        if n == -1:
            return None
        if n < 0 or n > self.left:  # every element takes an octet at least
            raise WireError(f"an array of {n} elements at {self.at}, {self.left} octets are left")
        return [item() for _ in range(n)]

    def tags(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _ in range(self.uvarint()):
            tag = self.uvarint()
            found[tag] = self.take(self.uvarint())
        return found


def fixed(kind: str, value: Any) -> bytes:
    try:
        return struct.pack(FIXED[kind], value)
    except struct.error as exc:
        raise WireError(f"{value!r} is no {kind}: {exc}") from exc


def uvarint(n: int) -> bytes:
    if n < 0:
        raise WireError(f"{n} has no unsigned variable-length form")
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def varint(n: int) -> bytes:
    """Signed, zigzag."""
    return uvarint(2 * n if n >= 0 else -2 * n - 1)


def length(n: int, flexible: bool, wide: bool) -> bytes:
    """−1: null."""
    return uvarint(n + 1) if flexible else fixed("int32" if wide else "int16", n)


def octets(value: bytes | None, flexible: bool) -> bytes:
    return length(-1 if value is None else len(value), flexible, wide=True) + (value or b"")


def string(value: str | None, flexible: bool) -> bytes:
    data = None if value is None else value.encode()
    return length(-1 if data is None else len(data), flexible, wide=False) + (data or b"")


def tags(found: dict[int, bytes]) -> bytes:
    """Rising, as the protocol wants them."""
    return uvarint(len(found)) + b"".join(uvarint(t) + uvarint(len(v)) + v for t, v in sorted(found.items()))


def uuid_of(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)
