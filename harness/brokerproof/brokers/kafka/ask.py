"""Asks one node what it believes, with requests made by hand.

A client library answers from whichever node it likes and remembers old answers; a harness that isolates a leader has
to hear each node for itself: a node that was cut off goes on believing that it leads. A few requests do,
each over a fresh connection with a deadline; one of them changes something that confluent-kafka has no call for.

Source: the protocol guide, https://kafka.apache.org/protocol.html, and the schemas it is generated from; flexible
versions (KIP-482) use compact lengths and tagged fields.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from brokerproof.brokers.base import LONGER_OCTETS, Opening, framed

Address = tuple[str, int]
T = TypeVar("T")

_API_VERSIONS, _METADATA, _FIND_COORDINATOR, _REASSIGN, _DESCRIBE_QUORUM = 18, 3, 10, 45, 55
_DESCRIBE_TOPIC_PARTITIONS = 75
_CLIENT = b"brokerproof"
_METADATA_TOPIC = "__cluster_metadata"
_ANSWER_BYTES_MAX = 64 << 20


class NoAnswer(Exception):
    """The node did not answer in time, closed the connection, or answered with an error."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A topic-partition as one node sees it. leader: node id, -1 none. elr: eligible leader replicas (KIP-966)."""

    leader: int
    epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """The controllers. leader: id of the active controller. caught_up: voter -> how many records it is behind."""

    leader: int
    epoch: int
    behind: Mapping[int, int]


def opening() -> Opening:
    """What every Kafka node answers to strangers: ApiVersions, version 0; made longer by the client's name."""
    longer = _framed(_API_VERSIONS, 0, b"", flexible=False, client=_CLIENT.ljust(LONGER_OCTETS, b"."))
    return Opening(_framed(_API_VERSIONS, 0, b"", flexible=False), longer, framed)


def features(address: Address, timeout_s: float) -> dict[str, int]:
    """Finalized features and their levels, e.g. ``eligible.leader.replicas.version``."""
    body = _compact(b"brokerproof") + _compact(b"1") + b"\0"
    answer = _call(address, _API_VERSIONS, 3, body, timeout_s, tagged_header=False)
    answer.check("ApiVersions")
    answer.array(lambda: (answer.i16(), answer.i16(), answer.i16(), answer.tags()))
    answer.i32()
    finalized = answer.tags().get(2)
    if finalized is None:
        return {}

    def level() -> tuple[str, int]:
        name, level_max = finalized.string(), finalized.i16()
        finalized.i16()
        finalized.tags()
        return name, level_max

    return dict(finalized.array(level))


def brokers(address: Address, timeout_s: float) -> frozenset[int]:
    """The brokers that this node holds for alive (registered and not fenced)."""
    # Version 7 is the last but two before compact lengths; no topics, no creation.
    answer = _call(address, _METADATA, 7, struct.pack(">i?", 0, False), timeout_s, flexible=False)
    answer.i32()
    found = []
    for _ in range(answer.i32()):
        found.append(answer.i32())
        answer.skip(answer.i16())
        answer.i32()
        answer.skip(max(0, answer.i16()))
    return frozenset(found)


def coordinator(address: Address, timeout_s: float, group: str) -> int:
    """The node that coordinates this consumer group; asking for the first one makes ``__consumer_offsets``."""
    name = group.encode()
    body = struct.pack(">h", len(name)) + name + b"\0"
    answer = _call(address, _FIND_COORDINATOR, 2, body, timeout_s, flexible=False)
    answer.i32()
    answer.check("FindCoordinator")
    answer.skip(max(0, answer.i16()))
    return answer.i32()


def quorum(address: Address, timeout_s: float) -> Quorum:
    """Who the active controller is, as it says itself: brokers forward this request to it."""
    body = _array([_compact(_METADATA_TOPIC.encode()) + _array([struct.pack(">i", 0) + b"\0"]) + b"\0"]) + b"\0"
    answer = _call(address, _DESCRIBE_QUORUM, 0, body, timeout_s)
    answer.check("DescribeQuorum")

    def replica() -> tuple[int, int]:
        seen = answer.i32(), answer.i64()
        answer.tags()
        return seen

    def partition() -> Quorum:
        answer.i32()
        answer.check("DescribeQuorum")
        leader, epoch = answer.i32(), answer.i32()
        answer.i64()
        ends = dict(answer.array(replica))
        answer.array(replica)
        answer.tags()
        newest = max(ends.values(), default=0)
        return Quorum(leader, epoch, {node: newest - end for node, end in ends.items()})

    def topic() -> Quorum:
        answer.string()
        only = answer.array(partition)[0]
        answer.tags()
        return only

    return answer.array(topic)[0]


def topics(address: Address, timeout_s: float, names: Sequence[str] = ()) -> dict[str, dict[int, Partition]]:
    """The partitions of these topics (of all, internal ones too, without names); a topic that is not there is not
    in the answer."""
    body = _array([_compact(n.encode()) + b"\0" for n in names]) + struct.pack(">ib", 2000, -1) + b"\0"
    answer = _call(address, _DESCRIBE_TOPIC_PARTITIONS, 0, body, timeout_s)
    answer.i32()

    def partition() -> tuple[int, Partition]:
        answer.i16()
        index, leader, epoch = answer.i32(), answer.i32(), answer.i32()
        replicas, isr, elr, _last_known_elr, _offline = (tuple(answer.array(answer.i32)) for _ in range(5))
        answer.tags()
        return index, Partition(leader, epoch, replicas, isr, elr)

    def topic() -> tuple[int, str, dict[int, Partition]]:
        error, name = answer.i16(), answer.string()
        answer.skip(16 + 1)
        partitions = dict(answer.array(partition))
        answer.i32()
        answer.tags()
        return error, name, partitions

    return {name: partitions for error, name, partitions in answer.array(topic) if error == 0}


def reassign(address: Address, timeout_s: float, replicas: Mapping[str, Mapping[int, Sequence[int]]]) -> None:
    """Gives topic-partitions these replicas, the preferred leader first; at once where only their order changes."""

    def partition(index: int, ids: Sequence[int]) -> bytes:
        return struct.pack(">i", index) + _array([struct.pack(">i", i) for i in ids]) + b"\0"

    wanted = [
        _compact(name.encode()) + _array([partition(i, ids) for i, ids in partitions.items()]) + b"\0"
        for name, partitions in replicas.items()
    ]
    body = struct.pack(">i", int(timeout_s * 1000)) + _array(wanted) + b"\0"
    answer = _call(address, _REASSIGN, 0, body, timeout_s)
    answer.i32()
    answer.check("AlterPartitionReassignments")


# -- encoding ----------------------------------------------------------------------------------------------------------


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def _compact(data: bytes) -> bytes:
    return _varint(len(data) + 1) + data


def _array(items: Sequence[bytes]) -> bytes:
    return _varint(len(items) + 1) + b"".join(items)


def _framed(key: int, version: int, body: bytes, *, flexible: bool, client: bytes = _CLIENT) -> bytes:
    header = struct.pack(">hhih", key, version, 1, len(client)) + client + (b"\0" if flexible else b"")
    return struct.pack(">i", len(header) + len(body)) + header + body


class Answer:
    """Reads the fields of a response in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def skip(self, n: int) -> bytes:
        part = self._data[self._at : self._at + n]
        if len(part) < n:
            raise NoAnswer(f"answer of {len(self._data)} bytes ends early")
        self._at += n
        return part

    def i16(self) -> int:
        return int.from_bytes(self.skip(2), "big", signed=True)

    def i32(self) -> int:
        return int.from_bytes(self.skip(4), "big", signed=True)

    def i64(self) -> int:
        return int.from_bytes(self.skip(8), "big", signed=True)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.skip(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def string(self) -> str:
        return self.skip(max(0, self.varint() - 1)).decode(errors="replace")

    def array(self, item: Callable[[], T]) -> list[T]:
        return [item() for _ in range(self.varint() - 1)]  # a null array has length -1: no items

    def tags(self) -> dict[int, Answer]:
        found = {}
        for _ in range(self.varint()):
            tag = self.varint()
            found[tag] = Answer(self.skip(self.varint()))
        return found

    def check(self, what: str) -> None:
        code = self.i16()
        if code:
            raise NoAnswer(f"{what} answered with error {code}")


def _call(
    address: Address, key: int, version: int, body: bytes, timeout_s: float, *, flexible: bool = True,
    tagged_header: bool = True,
) -> Answer:  # fmt: skip
    # ApiVersions is the exception of KIP-511: its response header never has tagged fields.
    try:
        with socket.create_connection(address, timeout=timeout_s) as sock:
            sock.sendall(_framed(key, version, body, flexible=flexible))
            answer = answer_from(sock)
    except OSError as exc:
        raise NoAnswer(f"{address[0]}:{address[1]}: {exc}") from exc
    if flexible and tagged_header:
        answer.tags()
    return answer


def framed_request(key: int, version: int, body: bytes) -> bytes:
    """A request of a version without compact lengths, as it goes on the wire."""
    return _framed(key, version, body, flexible=False)


def answer_from(sock: socket.socket) -> Answer:
    """The next response on the connection, from behind its correlation id. Raises NoAnswer, OSError."""
    size = int.from_bytes(_exactly(sock, 4), "big")
    if size > _ANSWER_BYTES_MAX:
        raise NoAnswer(f"answer of {size} bytes announced")
    answer = Answer(_exactly(sock, size))
    answer.i32()
    return answer


def _exactly(sock: socket.socket, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        part = sock.recv(n - len(data))
        if not part:
            raise NoAnswer("the connection was closed before the answer was whole")
        data += part
    return bytes(data)
