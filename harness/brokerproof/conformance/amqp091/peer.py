"""The reference peer's side of a connection: handshake, tuning, frames, heartbeats, closing. The broker behind it is ``model.py``'s.

    Peer ── a listener; for each connection a Session ── reading thread: octets -> frames -> what they mean
                                                     └── writing thread: what is queued, and heartbeats

It does what the specification demands, down to the reply code, and where that leaves a choice the plainest thing. Each mutant gets one
thing wrong; ``other-records`` chooses otherwise wherever nothing is specified. Times are the broker's seconds times ``scale``.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from brokerproof.conformance.amqp091.entities import Refused
from brokerproof.conformance.amqp091.model import Broker, Connection
from brokerproof.conformance.amqp091.peer_channel import PeerChannel
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import Frame, Method, WireError

#: What each mutant of the connection layer gets wrong.
MUTANTS: Mapping[str, str] = {
    "no-locale": "offers no locale en_US",
    "starts-for-anything": "answers any eight octets with Start",
    "no-header-back": "closes without a header where the version is wrong",
    "old-header-back": "answers a wrong version with the header of 0-8",
    "ignores-strangers": "leaves sockets open that speak something else",
    "no-information": "server properties without information",
    "any-mechanism": "lets in whoever names an unknown mechanism",
    "any-password": "lets in whoever knows the user",
    "password-without-close": "ends the connection without a word although the client can take a Close",
    "refuses-small-frames": "refuses a frame-max of 4096",
    "any-tune": "accepts more than was offered",
    "no-channel-max": "opens any channel",
    "open-any-time": "opens a connection whose client has not said who it is",
    "serves-after-close": "goes on serving what it has closed",
    "serves-after-close-late": "answers, after 2 s, a declare on a channel that it has closed",
    "no-heartbeats": "sends none, and awaits none",
    "only-heartbeats": "ends a connection without heartbeats although other frames come",
    "blocked-twice": "says blocked again for an alarm that is there",
    "never-blocked": "says nothing of alarms",
    "any-frame-end": "accepts frames with any last octet",
    "any-frame-type": "ignores frames of unknown types",
    "no-frame-limit": "accepts frames of any size",
    "short-before-tune": "accepts no frame of 4096 octets before Tune",
    "payload-limit": "takes the limit of frames for one on their payload",
    "no-message-limit": "accepts messages of any size",
    "cuts-bodies": "drops the last octet of a body that came in several frames",
    "ignores-peer-frame-max": "sends frames longer than the client can take",
    "fills-up-frames": "fills up with zeros what is missing of a frame when the connection ends, and acts on it",
    "keeps-half-frames": "holds a connection that ended in the middle of a frame",
    "dies-of-garbage": "arguments that cannot be read end all connections",
    "garbage-kept": "keeps memory for arguments that cannot be read",
    "garbage-ignored": "arguments that cannot be read are ignored",
    "reads-s-as-number": "reads field tags as most clients do, and not as the grammar says",
    "any-field-name": "accepts any field name",
    "number-stays-busy": "a channel that was closed cannot be opened again",
    "soft-ends-all": "a channel's error closes its sibling channels too",
    "flow-ignored": "answers Channel.Flow and goes on delivering",
    "return-after-confirm": "confirms an unroutable message before it returns it",
    "never-returns": "drops unroutable messages although they are mandatory",
    "immediate-ignored": "queues messages that should be delivered at once or not at all",
    "confirms-with-holes": "forgets every hundredth confirm",
    "confirms-again": "confirms every hundredth message once more, with all up to it",
    "confirms-twice": "confirms every hundredth message twice",
    "unroutable-nacked": "nacks what no queue matched",
    "tx-visible": "publishes before the commit",
    "tx-rollback-publishes": "a rollback publishes",
    "tx-acks-at-once": "acknowledges before the commit",
    "drops-field-types": "delivers headers with other field types",
    "drops-user-id": "delivers without the user-id",
}  # fmt: skip

_OFFER = {"channel_max": 2047, "frame_max": 131072, "heartbeat": 60}
_HANDSHAKE_S, _HANDSHAKE_LEAST_S = 10.0, 2.0
#: How long a Close-Ok is awaited.
_CLOSE_S = 15.0
MESSAGE_MAX = 1 << 20
_KEPT = 16 << 20
#: How many octets are sent, and read, one by one before some come together: all of a MiB would keep this process busy for long.
_SLICED = 3000
_CAPABILITIES = (
    "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify", "connection.blocked",
    "consumer_priorities", "authentication_failure_close", "per_consumer_qos", "direct_reply_to",
)  # fmt: skip


class Peer:
    """Two listeners on loopback: the second is a link of its own, that can turn into a black hole."""

    def __init__(self, broker: Broker, scale: float) -> None:
        self.broker, self.scale = broker, scale
        self.sessions: list[Session] = []
        self.is_alarmed = False
        self.message_max = MESSAGE_MAX
        #: Octets that it would not give back: nothing but a mutant's.
        self.kept = 0
        #: One octet in each TCP segment, both ways, so far as ``_SLICED`` goes.
        self.slices = False
        self.swallows = threading.Event()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2)]
        self.address, self.own_address = [listener.getsockname()[:2] for listener in self._listeners]
        for listener, own in zip(self._listeners, (False, True), strict=True):
            threading.Thread(target=self._accept, args=(listener, own), daemon=True).start()
        threading.Thread(target=self._tick, daemon=True).start()

    def is_mutant(self, name: str) -> bool:
        return self.broker.is_mutant(name)

    def alarm(self, on: bool) -> None:
        with self.lock:
            again, self.is_alarmed = on and self.is_alarmed, on
            sessions = list(self.sessions)
        for session in sessions:
            session.alarm(on, again)

    def end_sessions(self) -> None:
        """As if the node had died."""
        with self.lock:
            sessions = list(self.sessions)
        for session in sessions:
            session.end()
        for session in sessions:
            session.gone.wait(2)

    def close(self) -> None:
        self.stopped.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self.lock:
            sessions = list(self.sessions)
        for session in sessions:
            session.end()

    def _accept(self, listener: socket.socket, own: bool) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            session = Session(self, sock, self.swallows if own else None)
            with self.lock:
                self.sessions.append(session)
            session.begin()

    def _tick(self) -> None:
        while not self.stopped.is_set():
            left = (self.broker.due() - self.broker.clock()) * self.scale
            self.stopped.wait(min(max(left, 0.0005), 0.005))
            self.broker.tick()


class Session:
    """One connection. state: header, start-ok, tune-ok, open, running, closing (Close sent, Close-Ok awaited), gone."""

    def __init__(self, peer: Peer, sock: socket.socket, swallows: threading.Event | None) -> None:
        self.peer, self.broker = peer, peer.broker
        self.state = "header"
        self.gone = threading.Event()
        self.connection: Connection | None = None
        self.channels: dict[int, PeerChannel] = {}
        self.frame_max = _OFFER["frame_max"]
        self.channel_max = _OFFER["channel_max"]
        self.has_published = False
        self._socket, self._swallows = sock, swallows
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._heartbeat_s = 0.0
        self._user = ""
        self._capabilities: frozenset[str] = frozenset()
        self._is_told = False
        self._reads = 0
        self._unpatched = bytearray()
        self._heard = time.monotonic()
        # Not shorter, whatever the scale: a handshake on a busy machine takes a while.
        handshake_s = max(self._seconds(_HANDSHAKE_S), _HANDSHAKE_LEAST_S)
        self._deadline = float("inf") if self.is_mutant("other-records") else time.monotonic() + handshake_s
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def is_mutant(self, name: str) -> bool:
        return self.broker.is_mutant(name)

    # -- what others call ----------------------------------------------------------------------------------------------

    def send(self, frames: Iterable[Frame]) -> None:
        """Queues them together: nothing comes between."""
        self._out.put(b"".join(frame.encode() for frame in frames))

    def method(self, channel: int, name: str, /, **arguments: Any) -> None:
        self.send([wire.method_frame(channel, name, **arguments)])

    def alarm(self, on: bool, again: bool) -> None:
        if "connection.blocked" not in self._capabilities or not self.has_published or self.is_mutant("never-blocked"):
            return
        if on and (not self._is_told or (again and self.is_mutant("blocked-twice"))):
            self._is_told = True
            self.method(0, "connection.blocked", reason="low on memory")
        if not on and self._is_told:
            self._is_told = False
            self.method(0, "connection.unblocked")

    def refuse(self, refused: Refused, channel: int = 0) -> None:
        """Closes what the refusal says."""
        if refused.scope == "channel" and channel in self.channels:
            # Whoever soft-ends-all takes all for the one that erred.
            for number in list(self.channels) if self.is_mutant("soft-ends-all") else [channel]:
                self.channels[number].close(refused)
        elif self.state != "closing":
            self.state = "closing"
            self._deadline = time.monotonic() + max(self._seconds(_CLOSE_S), 1.0)
            self.method(
                0, "connection.close", reply_code=refused.code, reply_text=f"{refused.code} {refused.text}"[:250]
            )
            if not self.is_mutant("serves-after-close"):
                self._leave()

    def wrong(self, code: int, text: str, channel: int = 0) -> None:
        """A refusal of the connection layer's own, as the mutants have it."""
        if not self.is_mutant("accepts"):
            scope = "channel" if code in wire.SOFT_ERRORS else "connection"
            self.refuse(self.broker.mutated(Refused(code, scope, text)), channel)  # type: ignore[arg-type]  # one of the two

    def end(self) -> None:
        """The socket is closed once all that is queued is written."""
        self.state = "gone"
        self._out.put(None)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        frames = wire.Frames(4095 if self.is_mutant("short-before-tune") else self.frame_max)
        first = bytearray()
        try:
            while self.state != "gone":
                data = self._receive()
                if not data:
                    self._cut_short(frames, len(frames.waiting) or len(first) * (self.state == "header"))
                    break
                if self._swallows is not None and self._swallows.is_set():
                    continue
                if self.state == "header":
                    first += data
                    if len(first) < 8 and wire.PROTOCOL_HEADER[: len(first)] == first[:8]:
                        continue
                    self._header(bytes(first[:8]))
                    data = bytes(first[8:])
                if self.state != "ignored":
                    self._frames(frames, data)
        except _Quit:
            pass
        finally:
            self.end()
            self._leave()

    def _cut_short(self, frames: wire.Frames, octets: int) -> None:
        """The other side ended after so many octets of a frame, or of the header: nothing is made of them, but by two mutants."""
        half = bytes(frames.waiting)
        if half and self.is_mutant("fills-up-frames"):
            size = int.from_bytes(half[3:7].ljust(4, b"\0"), "big")
            self._frames(frames, half.ljust(7 + size, b"\0")[len(half) :] + bytes([wire.FRAME_END]))
        if (octets and self.is_mutant("keeps-half-frames")) or self.state == "ignored":
            self.peer.stopped.wait()

    def _receive(self) -> bytes:
        """Empty: the peer has gone, or must go."""
        while True:
            now = time.monotonic()
            limit = self._deadline if self.state != "running" else self._heard + 2 * self._heartbeat_s
            if (
                self.state != "running" or (self._heartbeat_s and not self.is_mutant("no-heartbeats"))
            ) and now >= limit:
                return b""
            try:
                self._socket.settimeout(0.02)
                self._reads += 1
                return self._socket.recv(1 if self.peer.slices and self._reads % _SLICED else 65536)
            except TimeoutError:
                if self.state == "gone":
                    return b""
            except OSError:
                return b""

    def _write(self) -> None:
        every = None
        while True:
            every = self._heartbeat_s / 2 if self._heartbeat_s and not self.is_mutant("no-heartbeats") else 0.05
            try:
                data = self._out.get(timeout=every)
            except queue.Empty:
                if not self._heartbeat_s or self.state != "running":
                    continue
                data = Frame(wire.HEARTBEAT, 0).encode() if not self.is_mutant("no-heartbeats") else b""
            if data is None:
                break
            if self._swallows is not None and self._swallows.is_set():
                continue
            with contextlib.suppress(OSError):
                self._socket.settimeout(5.0)
                for octets in _sliced(data) if self.peer.slices else [data]:
                    self._socket.sendall(octets)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._drain()
        self._socket.close()
        with self.peer.lock, contextlib.suppress(ValueError):
            self.peer.sessions.remove(self)
        self.gone.set()

    def _drain(self) -> None:
        """Reads what was still on its way, or closing would reset the connection and take what was written last along."""
        self._socket.settimeout(0.05)
        until = time.monotonic() + 0.3
        while time.monotonic() < until and self._socket.recv(65536):
            pass

    def _leave(self) -> None:
        if self.connection is not None:
            self.connection.close()

    # -- handshake -----------------------------------------------------------------------------------------------------

    def _header(self, octets: bytes) -> None:
        known = octets == wire.PROTOCOL_HEADER
        if not known and not self.is_mutant("starts-for-anything"):
            if self.is_mutant("ignores-strangers"):
                self.state = "ignored"
                self._deadline = float("inf")
                return
            old = octets[:4] == b"AMQP" and self.is_mutant("other-records")
            if not self.is_mutant("no-header-back") and not old:
                self._out.put(b"AMQP\x01\x01\x08\x00" if self.is_mutant("old-header-back") else wire.PROTOCOL_HEADER)
            raise _Quit
        properties = {
            "product": "reference", "version": "1", "platform": "Python", "copyright": "none", "information": "a peer to test tests with",
            "host": "127.0.0.1", "capabilities": dict.fromkeys(_CAPABILITIES[: 3 if self.is_mutant("other-records") else None], True),
        }  # fmt: skip
        if self.is_mutant("no-information"):
            del properties["information"]
        self.state = "start-ok"
        self.method(
            0, "connection.start", version_major=0, version_minor=9, server_properties=properties, mechanisms="PLAIN",
            locales="de_DE" if self.is_mutant("no-locale") else "en_US",
        )  # fmt: skip

    def _handshake(self, method: Method) -> None:
        """The one method that the state awaits; another ends the connection without a word (section 2.2.4)."""
        awaited = {"start-ok": "connection.start-ok", "tune-ok": "connection.tune-ok", "open": "connection.open"}
        if method.name == "connection.open" and self.state != "open" and self.is_mutant("open-any-time"):
            self._user = "guest"
            self.method(0, "connection.open-ok")
            return
        if awaited.get(self.state) != method.name:
            raise _Quit
        {"start-ok": self._start_ok, "tune-ok": self._tune_ok, "open": self._open}[self.state](method)

    def _start_ok(self, method: Method) -> None:
        capabilities = method["client_properties"].get("capabilities") or {}
        self._capabilities = frozenset(c for c, able in capabilities.items() if able)
        if method["mechanism"] != "PLAIN" and not self.is_mutant("any-mechanism"):
            raise _Quit
        _, user, password = [*method["response"].split("\0"), "", "", ""][:3]
        self._user = user
        if not self.broker.authenticate(user, password) and not self.is_mutant("any-password"):
            if "authentication_failure_close" in self._capabilities and not self.is_mutant("password-without-close"):
                self.refuse(self.broker.mutated(Refused(403, "connection", "login refused")))
                return
            raise _Quit
        self.state = "tune-ok"
        offer = {**_OFFER, "channel_max": 100} if self.is_mutant("other-records") else _OFFER
        self.channel_max = offer["channel_max"]
        self.method(0, "connection.tune", **offer)

    def _tune_ok(self, method: Method) -> None:
        channel_max, frame_max = method["channel_max"], method["frame_max"]
        low = 0 < frame_max < wire.FRAME_MIN_SIZE or (
            frame_max == wire.FRAME_MIN_SIZE and self.is_mutant("refuses-small-frames")
        )
        # What is offered as 0 has no limit.
        high = frame_max > (self.frame_max or frame_max) or channel_max > (self.channel_max or channel_max)
        none = not (frame_max and channel_max) and self.is_mutant("other-records")
        if low or none or (high and not self.is_mutant("any-tune")):
            raise _Quit
        self.frame_max, self.channel_max = frame_max or self.frame_max, channel_max or self.channel_max or 0xFFFF
        self._heartbeat_s = self._seconds(method["heartbeat"])
        self.state = "open"

    def _open(self, method: Method) -> None:
        try:
            self.connection = self.broker.connect(
                self._user, method["virtual_host"], capabilities=self._capabilities, closed=self.refuse
            )
        except Refused as refused:
            if not self.is_mutant("accepts"):
                self.refuse(Refused(refused.code, "connection", refused.text))
                return
        self.state = "running"
        self._heard = time.monotonic()
        self.method(0, "connection.open-ok")

    # -- frames --------------------------------------------------------------------------------------------------------

    def _frames(self, frames: wire.Frames, data: bytes) -> None:
        try:
            for frame in frames.feed(self._patched(data)):
                if isinstance(frame, wire.ProtocolHeader):
                    raise _Quit
                self._frame(frame)
                if self.state == "gone":
                    raise _Quit
                if not self.is_mutant("short-before-tune") or self.state not in ("start-ok", "header"):
                    slack = wire.FRAME_OVERHEAD if self.is_mutant("payload-limit") else 0
                    frames.frame_max = 0 if self.is_mutant("no-frame-limit") else self.frame_max + slack
        except wire.FrameTooLong as exc:
            if self.state not in ("running", "closing"):
                raise _Quit from None
            self.wrong(501, str(exc))
            self._skip()
        except WireError:
            raise _Quit from None

    def _patched(self, data: bytes) -> bytes:
        """For the mutants that see nothing wrong with a frame: the octets as they should have been, frame by frame."""
        if not (self.is_mutant("any-frame-end") or self.is_mutant("any-frame-type")):
            return data
        self._unpatched += data
        out = b""
        while len(self._unpatched) >= 8:
            size = 8 + int.from_bytes(self._unpatched[3:7], "big")
            if len(self._unpatched) < size:
                break
            frame = bytes(self._unpatched[:size])
            del self._unpatched[:size]
            if self.is_mutant("any-frame-end"):
                out += frame[:-1] + bytes([wire.FRAME_END])
            elif frame[0] in (wire.METHOD, wire.HEADER, wire.BODY, wire.HEARTBEAT):
                out += frame
        return out

    def _skip(self) -> None:
        """After an error that leaves the stream behind: nothing is read but the other side's end."""
        until = time.monotonic() + 0.5
        while time.monotonic() < until and self._receive():
            pass
        raise _Quit

    def _frame(self, frame: Frame) -> None:
        if frame.type == wire.HEARTBEAT or not self.is_mutant("only-heartbeats"):
            self._heard = time.monotonic()
        if frame.type == wire.HEARTBEAT:
            self._heartbeat(frame)
        elif self.state == "closing" and not self.is_mutant("serves-after-close"):
            self._while_closing(frame)
        elif frame.channel == 0:
            self._on_connection(frame)
        elif self.state not in ("running", "closing"):
            raise _Quit
        else:
            self._on_channel(frame)

    def _heartbeat(self, frame: Frame) -> None:
        if frame.channel:
            self.wrong(503, "a heartbeat on a channel")
        elif frame.payload:
            self.wrong(501, "a heartbeat with a payload")

    def _while_closing(self, frame: Frame) -> None:
        """Everything is discarded but the end (section 10, connection.close)."""
        name = _name(frame)
        if name == "connection.close":
            self.method(0, "connection.close-ok")
        elif name == "connection.close-ok":
            raise _Quit

    def _on_connection(self, frame: Frame) -> None:
        if frame.type != wire.METHOD:
            self.wrong(504, "content on channel 0")
            return
        method = self._decoded(frame)
        if method is None:
            return
        if self.state not in ("running", "closing"):
            self._handshake(method)
        elif method.name == "connection.close":
            self._leave()
            self.method(0, "connection.close-ok")
            raise _Quit
        elif method.name == "connection.close-ok":
            raise _Quit
        elif method.name == "connection.update-secret":
            if self.broker.authenticate(self._user, method["new_secret"]):
                self.method(0, "connection.update-secret-ok")
            else:
                self.wrong(530, "no such secret")
        else:
            self.wrong(503, f"{method.name} on channel 0")

    def _on_channel(self, frame: Frame) -> None:
        channel = self.channels.get(frame.channel)
        if channel is None or channel.state == "closed":
            if _name(frame) != "channel.open" or (channel is not None and self.is_mutant("number-stays-busy")):
                self.wrong(504, f"channel {frame.channel} is not open", frame.channel)
            elif not self._may_open(frame.channel):
                self.wrong(530, f"at most {self.channel_max} channels were agreed")
            elif self.connection is not None:
                self.channels[frame.channel] = PeerChannel(self, frame.channel, self.connection)
                self.method(frame.channel, "channel.open-ok")
        else:
            channel.frame(frame)

    def _may_open(self, number: int) -> bool:
        return number <= self.channel_max or self.is_mutant("no-channel-max")

    def _decoded(self, frame: Frame) -> Method | None:
        """The method; None: it cannot be read, which has been dealt with."""
        try:
            return wire.read_method(frame.payload)
        except wire.UnknownMethod as exc:
            self.wrong(503, str(exc), frame.channel)
        except WireError as exc:
            self.peer.kept += _KEPT if self.is_mutant("garbage-kept") else 0
            if self.is_mutant("dies-of-garbage"):
                self.peer.end_sessions()
            if not self.is_mutant("garbage-ignored"):
                self.wrong(502, str(exc), frame.channel)
        return None

    def decoded(self, frame: Frame) -> Method | None:
        return self._decoded(frame)

    def _seconds(self, of_the_broker: float) -> float:
        return of_the_broker * self.peer.scale


def _sliced(data: bytes) -> Iterable[bytes]:
    yield from (data[i : i + 1] for i in range(min(len(data), _SLICED)))
    if len(data) > _SLICED:
        yield data[_SLICED:]


class _Quit(Exception):
    """The connection ends without a word."""


def _name(frame: Frame) -> str:
    if frame.type != wire.METHOD or len(frame.payload) < 4:
        return ""
    number: tuple[int, int] = struct.unpack_from(">HH", frame.payload)
    return wire.NAMES.get(number, "")
