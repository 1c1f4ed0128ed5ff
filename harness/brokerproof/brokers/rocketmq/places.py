"""Where a RocketMQ broker has a message: its own commit log, master and slave each for itself.

A commit-log file is named after the physical offset of its first octet; a record in it is what ``remoting.stored`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from brokerproof.brokers.base import Json
from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.configuration import STORE
from brokerproof.runtime.seeking import Hits
from brokerproof.where import Where

FOLDERS = (f"{STORE}/commitlog",)


def read(path: str, data: bytes, hits: Hits) -> Iterator[tuple[bytes, Json]]:
    """``topic``, ``queue``, ``queue offset``, ``commit-log offset`` (physical, of the record), ``file``, ``byte``."""
    name = PurePosixPath(path).name
    first = int(name) if name.isdigit() else -1
    for mark, at in hits(data):
        record = remoting.record_around(data, at)
        if record is None:
            yield mark, {"record": "none, only the octets of the body", "file": path, "byte": at}
            continue
        begin, message = record
        yield mark, {
            "topic": message.topic, "queue": message.queue, "queue offset": message.offset,
            "commit-log offset": first + begin, "file": path, "byte": at,
        }  # fmt: skip


def within(where: Where, end: int | None) -> Where:
    """The same, with a word at what lies beyond the end of the log: after a crash a broker takes its end back, and the
    octets behind it stay in the file until they are written over. end: None where it is not known."""
    if end is None:
        return Where(where.found, "; ".join(filter(None, (where.says, "the end of its log is not known"))))
    return Where(
        tuple(
            {**place, "beyond the end of its log": end} if place.get("commit-log offset", -1) >= end else place
            for place in where.found
        ),
        where.says,
    )
