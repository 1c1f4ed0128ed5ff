"""AMQP 0-9-1's first words, as probes speak them."""

from __future__ import annotations

import struct

from brokerproof.brokers.base import LONGER_OCTETS, Opening

#: AMQP 0-9-1's protocol header, which a node answers with connection.start.
_GREETING = b"AMQP\x00\x00\x09\x01"


def _start_ok(user: str = "guest", password: str = "guest") -> bytes:
    """The client's connection.start-ok, made longer by a property of the client; a node answers connection.tune.

    Source: AMQP 0-9-1, sections 4.2.3 (frames) and 1.4.2.2 (start-ok).
    """

    def long(text: bytes) -> bytes:
        return struct.pack(">I", len(text)) + text

    def short(text: bytes) -> bytes:
        return bytes([len(text)]) + text

    plain = b"\0" + user.encode() + b"\0" + password.encode()
    properties = short(b"information") + b"S" + long(b"." * LONGER_OCTETS)
    method = struct.pack(">HH", 10, 11) + long(properties) + short(b"PLAIN") + long(plain) + short(b"en_US")
    return struct.pack(">BHI", 1, 0, len(method)) + method + b"\xce"


def _tuned(answer: bytes) -> bool:
    """Whether two whole frames are there: connection.start and connection.tune."""
    at = 0
    for _ in range(2):
        if at + 7 > len(answer):
            return False
        at += 8 + int.from_bytes(answer[at + 3 : at + 7], "big")
    return at <= len(answer)


def opening(user: str, password: str) -> Opening:
    """The same for somebody else than guest. It holds the password: it is for sending, and never written down."""
    return Opening(_GREETING, _GREETING + _start_ok(user, password), _tuned)


OPENING = Opening(_GREETING, _GREETING + _start_ok(), _tuned)
