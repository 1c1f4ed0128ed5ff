"""Where a RabbitMQ node has a message: the Raft log of quorum queues, the stores of classic queues, streams.

    quorum/<node>/<n>.wal                 what all members on the node were given last, until it is 64 MiB long
    quorum/<node>/<member>/<n>.segment    what was moved from there
    msg_stores/…, stream/…                classic queues, streams

    .wal      "RAWA" | version 1, then records, end to end
    record    1 bit truncates | 1 bit known | 22 bits writer | (not known: int16 length | the writer's name) |
              int32 checksum | int32 length of the data | int64 index | int64 term | data
    .segment  "RASG" | int16 version | int16 n, then n entries: int64 index | int64 term | offset (version 1 int32, 2
              int64) | int32 length | int32 checksum

A queue that was drained leaves its messages in these files until they are cut short: that they are there says that the node
was given them, not that the queue has them still. Source: ra_log_wal.erl, ra_log_segment.erl of rabbitmq/ra.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from brokerproof.brokers.base import Json
from brokerproof.brokers.rabbitmq import config, erlang
from brokerproof.runtime.seeking import Hits
from brokerproof.where import NOT_THERE, Where

_WAL_MAGIC, _SEGMENT_MAGIC = b"RAWA\x01", b"RASG"
_ENTRY = struct.Struct(">IIQQ")
_SEGMENT_HEAD = struct.Struct(">4sHH")
_SEGMENT_INDEX = {1: struct.Struct(">QQIII"), 2: struct.Struct(">QQQII")}


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a Raft log and where its data lie in the file."""

    begin: int
    end: int
    member: str
    index: int
    term: int


def folders(node: str) -> list[str]:
    base = f"{config.DATA}/mnesia/rabbit@{node}"
    return [f"{base}/{kind}" for kind in ("quorum", "msg_stores", "stream")]


def remarked(where: Where, member: erlang.Replica | None) -> Where:
    """The same, with what the node is to the queue, and a word of caution: the final read has consumed what there was.
    member: None where the node does not answer."""
    says = f"{NOT_THERE} (what was consumed may have left its files)" if where.says == NOT_THERE else where.says
    if member is None:
        remark = "the node does not say what it is to the queue"
    elif member.state == "none":
        remark = "no member of the queue"
    else:
        remark = f"{member.state} of the queue" + (
            f" at term {member.term}, commit {member.commit}" if member.term else ""
        )
    return Where(where.found, f"{says}; {remark}" if says else remark)


def read(path: str, data: bytes, hits: Hits) -> Iterator[tuple[bytes, Json]]:
    """``index`` and ``term`` where it lies in a Raft log, ``replaced`` where the same log file goes on with another entry
    at its index; ``file``, ``byte``."""
    entries: list[_Entry] | None = None
    for mark, at in hits(data):
        if entries is None:
            entries = sorted(_entries(path, data), key=lambda e: e.begin)
        i = bisect_right(entries, at, key=lambda e: e.begin) - 1
        where: dict[str, object] = {}
        if i >= 0 and at < entries[i].end:
            mine = entries[i]
            where = {"index": mine.index, "term": mine.term}
            # Raft: an entry at an index that is taken removes the one that is there and all after it.
            if later := [e for e in entries[i + 1 :] if e.member == mine.member and e.index <= mine.index]:
                where["replaced"] = f"by index {later[0].index} of term {later[0].term}"
        yield mark, {**where, "file": path, "byte": at}


def _entries(path: str, data: bytes) -> Iterator[_Entry]:
    if data.startswith(_WAL_MAGIC):
        yield from _wal(data)
    elif data.startswith(_SEGMENT_MAGIC):
        _, version, count = _SEGMENT_HEAD.unpack_from(data)
        index = _SEGMENT_INDEX.get(version)
        for i in range(count if index else 0):
            assert index is not None
            if _SEGMENT_HEAD.size + (i + 1) * index.size > len(data):
                return
            entry, term, offset, length, _ = index.unpack_from(data, _SEGMENT_HEAD.size + i * index.size)
            if offset == 0:
                return  # the rest is not written yet
            yield _Entry(offset, offset + length, path, entry, term)


def _wal(data: bytes) -> Iterator[_Entry]:
    names: dict[int, str] = {}
    at = len(_WAL_MAGIC)
    while at + 3 <= len(data):
        head = int.from_bytes(data[at : at + 3], "big")
        known, writer = bool(head >> 22 & 1), head & 0x3FFFFF
        at += 3
        if not known:
            length = int.from_bytes(data[at : at + 2], "big")
            names[writer] = data[at + 2 : at + 2 + length].decode(errors="replace")
            at += 2 + length
        if at + _ENTRY.size > len(data):
            return
        _, length, index, term = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if index == term == length == 0 or at + length > len(data):
            return
        yield _Entry(at, at + length, names.get(writer, ""), index, term)
        at += length
