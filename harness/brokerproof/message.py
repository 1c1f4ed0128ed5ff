"""The checked message body: who sent which message to which trial, and proof that no byte changed.

    offset  0  magic    4 bytes  b"BPF1"
            4  trial    u64      a leftover of another trial is seen
           12  msg      u64      message number
           20  sender   u32      slot of the sending process
           24  key      i32      ordering key, -1 none
           28  size     u32      whole body, header included
           32  crc      u32      CRC-32C of the body with this field left out
           36  filler   regenerated from (seed, size)

All little endian. The CRC is linear: for one trial, sender and size only ``msg`` and ``key`` vary, so a batch of
bodies costs twelve table look-ups a message instead of one pass over its bytes (``Bodies.make``).
Source of CRC-32C: RFC 3720 appendix B.4 (polynomial 0x1EDC6F41, reflected 0x82F63B78).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"BPF1"
_HEADER = struct.Struct("<4sQQIiII")
HEADER_BYTES = _HEADER.size
SIZE_MIN = HEADER_BYTES
_MARK = struct.Struct("<4sQQ")
MARK_BYTES = _MARK.size
_CRC_AT = 32
_POLYNOMIAL = 0x82F63B78


def mark(trial: int, msg: int) -> bytes:
    """The octets that bodies of this message begin with, and no others: magic, trial, number."""
    return _MARK.pack(MAGIC, trial, msg)


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data``; plain Python, for single bodies and for the tables below."""
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def filler(seed: int, size: int) -> bytes:
    """The bytes after the header for bodies of ``size`` bytes: the same for every message of a seed and size."""
    return np.random.default_rng([seed & 0xFFFFFFFF, size]).bytes(max(0, size - HEADER_BYTES))


class Bodies:
    """Makes the bodies of one sender, all of one size. Not shared between threads."""

    def __init__(self, *, trial: int, sender: int, seed: int, size: int) -> None:
        if size < SIZE_MIN:
            raise ValueError(f"a checked body needs at least {SIZE_MIN} bytes for its header, got {size}")
        self.size = size
        self._template = np.zeros(size, dtype=np.uint8)
        head = _HEADER.pack(MAGIC, trial, 0, sender, 0, size, 0)
        self._template[:HEADER_BYTES] = np.frombuffer(head, np.uint8)
        self._template[HEADER_BYTES:] = np.frombuffer(filler(seed, size), np.uint8)
        plain = self._template.tobytes()
        self._constant, self._tables = _crc_of_body(plain), _differences(size)
        self._varying = np.dtype(
            {"names": ["msg", "key", "crc"], "formats": ["<u8", "<i4", "<u4"], "offsets": [12, 24, _CRC_AT],
             "itemsize": size}
        )  # fmt: skip

    def make(self, first: int, keys: npt.NDArray[np.int32]) -> bytes:
        """Bodies of messages ``first``, ``first + 1``, … with these keys, end to end in one buffer."""
        return self._matrix(np.arange(first, first + len(keys), dtype="<u8"), keys).tobytes()

    def matches(
        self, bodies: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint64], keys: npt.NDArray[np.int32]
    ) -> bool:
        """Whether each row of ``bodies`` is exactly what this sender makes for that number and key."""
        return bool(np.array_equal(bodies, self._matrix(numbers, keys)))

    def _matrix(self, numbers: npt.NDArray[np.uint64], keys: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        n = len(keys)
        out = np.empty((n, self.size), dtype=np.uint8)
        out[:] = self._template
        if n:
            head = out.reshape(-1).view(self._varying)
            head["msg"], head["key"] = numbers, keys
            head["crc"] = self._crc_part(numbers.astype("<u8", copy=False), 0) ^ self._crc_part(
                keys.astype("<i4", copy=False).view("<u4"), 8
            )
        return out

    def _crc_part(self, values: npt.NDArray[Any], first: int) -> npt.NDArray[np.uint32] | np.uint32:
        """What these values contribute to each checksum. Of consecutive numbers most bytes are the same in all, and
        need one look-up for the batch."""
        width = values.itemsize
        columns = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
        differ = int(np.bitwise_or.reduce(values ^ values[0]))
        part: npt.NDArray[np.uint32] | np.uint32 = np.uint32(self._constant if first == 0 else 0)
        for i in range(width):
            table = self._tables[first + i]
            part = part ^ (table[columns[:, i]] if differ >> 8 * i & 0xFF else table[columns[0, i]])
        return part

    def one(self, msg: int, key: int) -> bytes:
        return self.make(msg, np.array([key], dtype=np.int32))


def _crc_of_body(body: bytes) -> int:
    return crc32c(body[:_CRC_AT] + body[_CRC_AT + 4 :])


#: Where the bytes are that vary: of the number, then of the key.
_VARYING = (*range(12, 20), *range(24, 28))


@cache
def _differences(size: int) -> tuple[npt.NDArray[np.uint32], ...]:
    """For each varying byte of a body of that size what each change of it changes in the checksum: the CRC is linear, so what
    stands elsewhere is no matter.

    The register of (change, zeros): the few zeros up to the last of these bytes one by one, those after it, which are the same
    for all, by one matrix (the idea of zlib's crc32_combine).
    """
    step, last = _table(), _VARYING[-1]
    rest = _zeros(size - 4 - last - 1)  # the checksum itself is left out
    tables: list[npt.NDArray[np.uint32]] = []
    for at in _VARYING:
        table = np.zeros(256, dtype=np.uint32)
        for bit in range(8):
            register = step[1 << bit]
            for _ in range(last - at):
                register = step[register & 0xFF] ^ (register >> 8)
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ np.uint32(_times(rest, register))
        tables.append(table)
    return tuple(tables)


def _zeros(count: int) -> tuple[int, ...]:
    """The matrix that ``count`` zero bytes are to a CRC register, in O(log count)."""
    power, out = _zero_byte_matrix(), tuple(1 << bit for bit in range(32))
    while count:
        if count & 1:
            out = tuple(_times(power, column) for column in out)
        count >>= 1
        if count:
            power = tuple(_times(power, column) for column in power)
    return out


@cache
def _zero_byte_matrix() -> tuple[int, ...]:
    table = _table()
    return tuple(table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32))


def _times(matrix: Sequence[int], vector: int) -> int:
    acc = 0
    bit = 0
    while vector:
        if vector & 1:
            acc ^= matrix[bit]
        vector >>= 1
        bit += 1
    return acc


@dataclass(frozen=True, slots=True)
class Read:
    """What a body says. ``problem`` is empty, or why the body is not what was sent (then msg is -2)."""

    msg: int
    key: int
    sender: int
    problem: str = ""


class Verifier:
    """Reads bodies of one trial and compares every byte with what the sender must have made."""

    def __init__(self, *, trial: int, seed: int) -> None:
        self._trial = trial
        self._seed = seed
        self._makers: dict[tuple[int, int], Bodies] = {}

    def read(self, body: bytes) -> Read:
        if len(body) < HEADER_BYTES:
            return Read(-2, -1, -1, "body shorter than its header")
        magic, trial, msg, sender, key, size, crc = _HEADER.unpack_from(body)
        if magic != MAGIC:
            return Read(-2, -1, -1, "body without the magic number")
        if trial != self._trial:
            return Read(-2, -1, -1, "body of another trial")
        if size != len(body):
            return Read(-2, -1, -1, "body of another length than it says")
        maker = self._makers.get((sender, size))
        if maker is None:
            if crc != _crc_of_body(body):
                return Read(-2, -1, -1, "body with a wrong checksum")
            if len(self._makers) > 4096:
                self._makers.clear()
            maker = Bodies(trial=trial, sender=sender, seed=self._seed, size=size)
            self._makers[sender, size] = maker
        if msg > 0x7FFFFFFFFFFFFFFF or maker.one(msg, key) != body:
            return Read(-2, -1, -1, "body with a changed byte")
        return Read(msg, key, sender)

    def read_many(self, bodies: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """(msg, key) of each body; whole batches of one sender and size are compared as one matrix."""
        n = len(bodies)
        msg = np.empty(n, dtype=np.int64)
        key = np.full(n, -1, dtype=np.int32)
        if n == 0:
            return msg, key
        size = len(bodies[0])
        joined = b"".join(bodies)
        if n > 8 and size >= HEADER_BYTES and len(joined) == n * size and all(len(b) == size for b in bodies):
            matrix = np.frombuffer(joined, np.uint8).reshape(n, size)
            numbers = np.ascontiguousarray(matrix[:, 12:20]).view("<u8").ravel()
            senders = np.ascontiguousarray(matrix[:, 20:24]).view("<u4").ravel()
            keys = np.ascontiguousarray(matrix[:, 24:28]).view("<i4").ravel()
            first = self.read(bodies[0])
            if not first.problem and bool((senders == senders[0]).all()):
                maker = self._makers[first.sender, size]
                if maker.matches(matrix, numbers, keys):
                    return numbers.astype(np.int64), keys.astype(np.int32)
        for i, body in enumerate(bodies):
            read = self.read(body)
            msg[i], key[i] = read.msg, read.key
        return msg, key
