"""Logging in on a connection before a case gets it: PLAIN and SCRAM, by SaslHandshake and SaslAuthenticate.

Source: RFC 4616 (PLAIN); RFC 5802 and RFC 7677 (SCRAM), without channel binding; KIP-43, KIP-152.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Generator

from brokerproof.errors import EnvironmentProblem, unknown

_HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
MECHANISMS = ("PLAIN", *_HASHES)


def exchanged(mechanism: str, user: str, password: str, send: Callable[[bytes], bytes], nonce: str = "") -> None:
    """send: one message of ours -> the server's answer. nonce: of ours; fresh where none is given.
    Raises UsageError for another mechanism, EnvironmentProblem where the server does not prove that it knows the password."""
    if mechanism not in MECHANISMS:
        raise unknown("mechanism that protocol cases log in by", mechanism, MECHANISMS)
    if mechanism == "PLAIN":
        send(f"\0{user}\0{password}".encode())
        return
    talk = _scram(_HASHES[mechanism], user, password, nonce or secrets.token_hex(16))
    message = next(talk)
    while message:
        message = talk.send(send(message))


def _scram(name: str, user: str, password: str, nonce: str) -> Generator[bytes, bytes, None]:
    """Yields what to send, is sent what came; the last it yields is empty."""
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    came = yield f"n,,{first}".encode()
    told = dict(part.partition("=")[::2] for part in came.decode().split(","))
    if not told.get("r", "").startswith(nonce) or "s" not in told or "i" not in told:
        raise EnvironmentProblem("logging in by SCRAM: the first answer has not the nonce, salt and count that it must")
    salted = hashlib.pbkdf2_hmac(name, password.encode(), base64.b64decode(told["s"]), int(told["i"]))
    last = f"c={base64.b64encode(b'n,,').decode()},r={told['r']}"
    signed = f"{first},{came.decode()},{last}".encode()
    key = hmac.digest(salted, b"Client Key", name)
    signature = hmac.digest(hashlib.new(name, key).digest(), signed, name)
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    final = yield f"{last},p={base64.b64encode(proof).decode()}".encode()
    due = hmac.digest(hmac.digest(salted, b"Server Key", name), signed, name)
    if final.decode() != f"v={base64.b64encode(due).decode()}":
        raise EnvironmentProblem("logging in by SCRAM: the server did not prove that it knows the password")
    yield b""
