"""One TCP connection to a peer: octets out, octets in with a deadline, and how it ended. Everything is logged."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

from brokerproof.conformance.way import OURS, Way
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem

#: Enough for the largest frame that a case sends or awaits, many times over; a flood ends the link, not the memory.
RECEIVED_MAX = 256 * 2**20
_CONNECT_S = 10.0
#: What makes a proxied link pass on one octet at a time: attributes of Toxiproxy's slicer. The delay is in microseconds; without one
#: the kernel puts some of the segments together again. Source: https://github.com/Shopify/toxiproxy#slicer
SLICER: Mapping[str, int] = {"average_size": 1, "size_variation": 0, "delay": 100}


class OutOfTime(Exception):
    """The case as a whole has used up its time; nobody's verdict."""


class Link:
    """A connection. ended: how the peer ended it, as soon as that was seen: ``eof``, ``reset`` or not (empty).

    deadline: of the case, on the monotonic clock: past it every call raises OutOfTime. Raises EnvironmentProblem when the
    connection cannot be made: a broker that refuses TCP is not a broker that breaks a rule.
    """

    def __init__(
        self, address: tuple[str, int], *, log: WireLog, name: str, deadline: float, stop: Callable[[], bool] = lambda: False,
        way: Way = OURS,
    ) -> None:  # fmt: skip
        self.name, self.ended = name, ""
        self._log, self._deadline, self._stop, self._received = log, deadline, stop, 0
        self._pace = way.pace
        try:
            self._socket = socket.create_connection(address, timeout=_CONNECT_S)
            if way.tls is not None:
                self._socket = way.tls.wrap_socket(self._socket, server_hostname=way.server_name or address[0])
        except OSError as exc:
            raise EnvironmentProblem(f"connecting to {address[0]}:{address[1]}: {exc}; is the broker up?") from exc
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        log.add("-", "tcp", conn=name, note=f"connected to {address[0]}:{address[1]}")

    def unlogged(self, what: str) -> AbstractContextManager[None]:
        """While it lasts, the log has none of this link's octets, only that it was so."""
        return self._log.unlogged(self.name, what)

    def send(self, data: bytes, *, decoded: str = "", chan: int | None = None, tellable: bytes | None = None) -> bool:
        """Whether all of it was handed to the kernel before the link was ended; a link that was is not an error here, it
        is something to observe. decoded: what it is, for the log.  tellable: the octets that the log has in their place."""
        self._pace()
        shown = data if tellable is None else tellable
        self._log.add(">", "frame" if decoded else "tcp", shown, conn=self.name, chan=chan, decoded=decoded)
        if self.ended == "reset":
            return False
        self._socket.settimeout(max(0.05, min(self._left(), 10.0)))
        try:
            self._socket.sendall(data)
        except TimeoutError:
            self._log.note("the peer does not read: not all of it could be sent", conn=self.name)
            return False
        except OSError as exc:
            self._ended("reset", str(exc))
            return False
        return True

    def receive(self, until: float) -> bytes:
        """What comes next, at least one octet; empty: nothing came until then (monotonic clock), or the link ended."""
        while not self.ended:
            left = min(until, self._deadline) - time.monotonic()
            if left <= 0 and self._left() > 0:
                left = 0.0
            pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
            ready = pending or select.select([self._socket], [], [], min(max(left, 0.0), 0.25))[0]
            if not ready:
                self._left()
                if time.monotonic() >= until:
                    return b""
                continue
            try:
                self._socket.settimeout(1.0)
                data = self._socket.recv(256 * 1024)
            except TimeoutError:
                continue
            except OSError as exc:
                self._ended("reset", str(exc))
                return b""
            if not data:
                self._ended("eof", "")
                return b""
            self._received += len(data)
            self._log.add("<", "tcp", data, conn=self.name)
            if self._received > RECEIVED_MAX:
                raise OutOfTime(f"the peer sent more than {RECEIVED_MAX >> 20} MiB on one connection: a flood")
            return data
        return b""

    def frame(self, direction: Literal[">", "<"], decoded: str, *, chan: int | None = None) -> None:
        """Logs what a codec made of octets that are in the log already."""
        self._log.add(direction, "frame", conn=self.name, chan=chan, decoded=decoded)

    def half_close(self) -> None:
        """FIN from us; the peer can still send."""
        self._log.add("-", "tcp", conn=self.name, note="FIN sent")
        with contextlib.suppress(OSError):
            # Of the TCP connection, also where there is TLS on it: ``SSLSocket.shutdown`` would read on without TLS.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

    def cut(self, octets: bytes, *, decoded: str, tellable: bytes | None = None) -> None:
        """Sends what is left of a frame, and the end of the connection behind it; the peer can still send. tellable: as ``send``."""
        self.send(octets, decoded=f"the first {len(octets)} octets of: {decoded}", tellable=tellable)
        self.half_close()

    def abort(self) -> None:
        """RST from us."""
        self._log.add("-", "tcp", conn=self.name, note="RST sent")
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Safe to call twice."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0 or self._stop():
            raise OutOfTime("the case's time is over")
        return left

    def _ended(self, how: Literal["eof", "reset"], why: str) -> None:
        self.ended = how
        self._log.add("<", "tcp", conn=self.name, note=("FIN received" if how == "eof" else f"reset: {why}"))
