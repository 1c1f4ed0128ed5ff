"""A node's wall clock that can be moved: the record its processes read, and reading back what they see.

Every process of an equipped node (``equipment/clock.py``) is started with a small library, ``dockerfiles/clock/clock.c``,
that adds to the time of day what a file in the container says. ``record`` is that file; pure, like ``ahead``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: Where the library and its file lie in an equipped node; the environment variable that names the file.
LIBRARY, RECORD, VARIABLE = "/opt/brokerproof/libclock.so", "/opt/brokerproof/clock", "BROKERPROOF_CLOCK"
#: The true time, the time that a fresh process of the node sees, and the true time again, in seconds.
ASK = "LD_PRELOAD= date +%s.%N; date +%s.%N; LD_PRELOAD= date +%s.%N"

_SHAPE = struct.Struct("=5q")
#: The record of a clock that is right.
TRUE = bytes(_SHAPE.size)


@dataclass(frozen=True, slots=True)
class Ahead:
    """How far a clock is ahead of the true one (behind: negative), give or take ``error_s``; at_s: when, true time."""

    ahead_s: float
    error_s: float
    at_s: float


def record(now_ns: int, offset_s: float, drift: float) -> bytes:
    """The clock jumps by ``offset_s`` at ``now_ns`` and gains ``drift`` seconds per second from then on."""
    # The ends are equal in a whole record, and differ from those of the record before.
    return _SHAPE.pack(now_ns, now_ns, round(offset_s * 1e9), round(drift * 1e9), now_ns)


def write(content: bytes) -> str:
    """The shell command that puts a record in place: in one write, into the file that processes have mapped."""
    octets = "".join(f"\\{byte:03o}" for byte in content)
    return f"printf '{octets}' | dd of={RECORD} bs={len(content)} count=1 conv=notrunc 2>/dev/null"


def ahead(answer: str) -> Ahead:
    """Of what ``ASK`` printed. Raises ValueError where that is not three times."""
    before, seen, after = (float(line) for line in answer.split())
    return Ahead(seen - (before + after) / 2, (after - before) / 2, (before + after) / 2)
