"""The first words of a protocol that is spoken inside TLS: a ClientHello, which a node answers with records of its own.

Source: RFC 8446, sections 4.1.2 (ClientHello) and 5.1 (record layer); RFC 7301 (ALPN), whose list makes a longer one.
"""

from __future__ import annotations

import contextlib
import ssl

from brokerproof.brokers.base import LONGER_OCTETS, Opening

_HEADER = 5
_ALERT = 21
_NAME_OCTETS = 200


def opening(server_name: str) -> Opening:
    """server_name: for the extension of that name; an address is left out of it, as RFC 6066 wants."""
    names = [f"brokerproof-{i}".ljust(_NAME_OCTETS, ".") for i in range(LONGER_OCTETS // _NAME_OCTETS)]
    return Opening(_hello(server_name, []), _hello(server_name, names), answered)


def answered(answer: bytes) -> bool:
    """Whether a whole record is there that is no alert: the node has read the ClientHello to its end and goes on."""
    if len(answer) < _HEADER or answer[0] == _ALERT:
        return False
    return len(answer) >= _HEADER + int.from_bytes(answer[3:_HEADER], "big")


def _hello(server_name: str, protocols: list[str]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = context.wrap_bio(incoming, outgoing, server_hostname=server_name or None)
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return outgoing.read()
