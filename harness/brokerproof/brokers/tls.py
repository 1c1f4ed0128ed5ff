"""TLS to a broker that somebody else runs: the context of a connection, and the first words of a protocol that is spoken inside,
a ClientHello, which a node answers with records of its own.

Source: RFC 8446, sections 4.1.2 (ClientHello) and 5.1 (record layer); RFC 7301 (ALPN), whose list makes a longer one.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from typing import Any

from brokerproof.brokers.base import LONGER_OCTETS, Opening
from brokerproof.credentials import reveal
from brokerproof.errors import UsageError

_HEADER = 5
_ALERT = 21
_NAME_OCTETS = 200


def context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    """tls: ``ca``, ``cert``, ``key``, ``key_password``, ``verify`` as a ``target.Tls`` has them. Raises UsageError for files that
    are not what they should be."""
    try:
        made = ssl.create_default_context(cafile=tls["ca"] or None)
        if not tls["verify"]:
            made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
        if tls["cert"]:
            made.load_cert_chain(tls["cert"], tls["key"] or None, reveal(tls["key_password"]) or None)
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(
            f"TLS with ca {tls['ca']!r}, certificate {tls['cert']!r}, key {tls['key']!r}: {exc}; expected PEM files that fit "
            "together"
        ) from exc
    return made


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
