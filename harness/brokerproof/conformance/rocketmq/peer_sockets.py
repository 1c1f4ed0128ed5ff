"""What the reference peers of RocketMQ stand on: a server of remoting frames on 127.0.0.1, and timers."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame

#: How many octets come one by one before some come together: more would keep this process busy for long.
_SLICED = 3000


class Connection:
    """A client's connection as the server sees it. Frames go out whole, from whichever thread."""

    def __init__(self, sock: socket.socket, slices: bool = False) -> None:
        self._socket, self._slices = sock, slices
        self._lock = threading.Lock()
        self._opaques = itertools.count(1_000_000)
        self.open = True

    def send(self, frame: Frame | bytes) -> None:
        octets = frame if isinstance(frame, bytes) else frame.encode()
        with self._lock, contextlib.suppress(OSError, ValueError):
            singly = min(len(octets), _SLICED) if self._slices else 0
            for at in range(singly):
                self._socket.sendall(octets[at : at + 1])
            self._socket.sendall(octets[singly:])

    def ask(self, code: int, fields: dict[str, Any], body: bytes = b"") -> None:
        """A request of the server's own."""
        frame = wire.request(code, next(self._opaques), fields, body)
        self.send(frame)

    def close(self) -> None:
        self.open = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()


Handler = Callable[[Connection, Frame], Frame | None]


class Server:
    """Serves remoting on a port of its own, which it keeps over ``stop`` and ``start``.

    handle: the answer to a request, None for none (yet).  gone: told of every connection that ended.
    idle_s: after so long without an octet a connection is ended.  bug: the mutant's name; some concern frames.
    slices: every octet comes and goes in a segment of its own, so far as ``_SLICED`` goes.
    """

    def __init__(
        self, handle: Handler, *, gone: Callable[[Connection], None] = lambda _: None, idle_s: float = 120.0,
        bug: str = "",
    ) -> None:  # fmt: skip
        self._handle, self._gone, self._idle_s, self._bug = handle, gone, idle_s, bug
        self.slices = False
        self._connections: set[Connection] = set()
        self._listening: socket.socket | None = None
        self._stopped = threading.Event()
        self.port = 0
        #: Octets that it would not give back: nothing but a mutant's.
        self.kept = 0
        self.start()

    @property
    def running(self) -> bool:
        return self._listening is not None

    def start(self) -> None:
        if self._listening is not None:
            return
        self._stopped.clear()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(64)
        self.port = sock.getsockname()[1]
        self._listening = sock
        threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        """Ends the listening and every connection."""
        self._stopped.set()
        listening, self._listening = self._listening, None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for connection in list(self._connections):
            connection.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection, decoder, reads = Connection(sock, self.slices), wire.Decoder(), itertools.count(1)
        self._connections.add(connection)
        try:
            while connection.open and select.select([sock], [], [], self._idle_s)[0]:
                data = sock.recv(1 if self.slices and next(reads) % _SLICED else 1 << 18)
                if not data:
                    self._cut_short(connection, decoder.pending)
                    return
                try:
                    frames = decoder.feed(data)
                except wire.ProtocolError:
                    self.kept += wire.FRAME_MAX if self._bug == "keeps_large_frames" else 0
                    if self._bug != "keeps_after_bad_frame":
                        return
                    decoder = wire.Decoder()
                    continue
                for frame in frames:
                    answer = self._handle(connection, frame)
                    if answer is not None and not frame.is_oneway:
                        connection.send(answer)
        except (OSError, ValueError):
            return
        finally:
            connection.close()
            self._connections.discard(connection)
            self._gone(connection)

    def _cut_short(self, connection: Connection, octets: int) -> None:
        """The other side ended after so many octets of a frame: nothing is made of them, but by two mutants."""
        if octets and self._bug == "answers_half_frames":
            connection.send(wire.answer(wire.request(0, 1, {}), 0))
        if octets and self._bug == "keeps_half_frames":
            self._stopped.wait()


class Timers:
    """Calls functions at moments on the monotonic clock, in a thread of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._over = False
        threading.Thread(target=self._run, daemon=True).start()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), call))
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._over and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._over:
                    return
                call = heapq.heappop(self._heap)[2]
            call()
