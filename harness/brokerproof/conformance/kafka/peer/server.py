"""The peer's sockets: a listener for each node, a thread for each connection, requests one after the other.

What cannot be served ends the connection, as the vendor's broker does; only ApiVersions is answered in any version.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from brokerproof.conformance.kafka.peer.cluster import Cluster, State
from brokerproof.conformance.kafka.peer.groups import Groups
from brokerproof.conformance.kafka.peer.shares import Shares
from brokerproof.conformance.kafka.peer.topics import ClosesConnection, Topics
from brokerproof.conformance.kafka.peer.transactions import Transactions
from brokerproof.wire.kafka import frames, octets, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.frames import Request
from brokerproof.wire.kafka.schema import Fields

_UNSUPPORTED, _BAD_CLIENT, _NO_MECHANISM = 35, 42, 33
_API_VERSIONS, _SASL_HANDSHAKE = 18, 17
_TICK_S = 0.01
#: How many octets come one by one before some come together: more would keep this process busy for long.
_SLICED = 3000
#: Versions that the peer serves: all that there are schemas for, but of APIs with newer ones it knows nothing of.
_MOST = {"init_producer_id": 5}
#: And one that there is no schema for, as brokers before 4.0 serve them: of nothing, which is all that is asked in it.
_BELOW = ("delete_topics", 0)
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
Handler = Callable[[Request, int], "Fields | None"]


class Peer:
    """scale: seconds of ours for one of a broker's. Closed by ``close``.

    slices: every octet comes and goes in a segment of its own, so far as ``_SLICED`` goes."""

    def __init__(
        self, *, nodes: int, settings: Mapping[str, Any], scale: float, mutant: str, slices: bool = False
    ) -> None:
        self._slices = slices
        self.cluster = Cluster(nodes=nodes, settings=settings, scale=scale, mutant=mutant)
        groups = Groups(self.cluster)
        transactions = Transactions(self.cluster, groups.ended)
        topics = Topics(self.cluster, transactions)
        shares = Shares(self.cluster, topics)
        self._parts = (transactions, groups, topics, shares)
        self._handlers: dict[str, Handler] = {
            name.removeprefix("on_"): getattr(part, name)
            for part in self._parts
            for name in dir(part)
            if name.startswith("on_")
        }
        self._handlers["api_versions"] = self._on_api_versions
        self._handlers["sasl_handshake"] = self._on_sasl_handshake
        self._listeners = [self._listen(id) for id in self.cluster.nodes]
        self._sasl = self._listen(min(self.cluster.nodes), asks=True)
        self.sasl = ("127.0.0.1", self._sasl.getsockname()[1])
        self._sockets: dict[socket.socket, int] = {}
        threading.Thread(target=self._tick, daemon=True).start()

    @property
    def addresses(self) -> dict[int, tuple[str, int]]:
        return {n.id: ("127.0.0.1", n.port) for n in self.cluster.nodes.values()}

    def advertised(self) -> dict[int, tuple[int, int]]:
        """API key -> lowest and highest version."""
        return {a["api_key"]: (a["min_version"], a["max_version"]) for a in self._advertised()}

    def becomes(self, id: int, state: State) -> None:
        """A node that is down has no connections; one that is stopped holds them and says nothing."""
        self.cluster.becomes(id, state)
        if state == "down":
            with self.cluster.changed:
                gone = [s for s, node in self._sockets.items() if node == id]
            for sock in gone:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self.cluster.changed:
            self.cluster.closed = True
            self.cluster.changed.notify_all()
            every = [*self._listeners, self._sasl, *self._sockets]
        for sock in every:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    # -- sockets -------------------------------------------------------------------------------------------------------

    def _listen(self, id: int, *, asks: bool = False) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        if not asks:
            self.cluster.nodes[id].port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener, id, asks), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, id: int, asks: bool) -> None:
        while not self.cluster.closed:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self.cluster.changed:
                if self.cluster.nodes[id].state == "down" or self.cluster.closed:
                    sock.close()
                    continue
                self._sockets[sock] = id
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock, id, asks), daemon=True).start()

    def _serve(self, sock: socket.socket, id: int, asks: bool) -> None:
        try:
            self._requests(sock, id, asks)
        except (OSError, WireError, ClosesConnection):
            if self.cluster.wrong("left-open"):
                self._linger(sock)
        finally:
            with self.cluster.changed:
                self._sockets.pop(sock, None)
            sock.close()

    def _requests(self, sock: socket.socket, id: int, asks: bool) -> None:
        incoming = frames.Frames()
        idle_s = float(self.cluster.config["connections.max.idle.ms"]) / 1000 * self.cluster.scale
        sock.settimeout(idle_s * (2 if self.cluster.wrong("idle-twice") else 1))
        limit = int(self.cluster.config["socket.request.max.bytes"])
        reordered: bytes = b""
        reads = itertools.count(1)
        for number in itertools.count():
            while (payload := incoming.next()) is None:
                data = sock.recv(1 if self._slices and next(reads) % _SLICED else 65536)
                if not data:
                    if incoming.pending and self.cluster.wrong("half-frames-kept"):
                        self._until_closed()
                    if incoming.pending and self.cluster.wrong("half-frames-answered"):
                        sock.sendall(frames.framed(octets.fixed("int32", 1) + b"\0" * 64))
                    return
                incoming.feed(data)
                head = incoming.announced()
                if head is not None and (head < 0 or head > limit):
                    raise WireError(f"a frame of {head} octets")
            self._while_stopped(id)
            answer = self._answer(payload, id, asks)
            if answer is None:
                continue
            if self.cluster.wrong("out-of-order") and number % 10 == 3 and incoming.pending:
                reordered = answer  # behind the next one
                continue
            self._send(sock, answer + reordered)
            reordered = b""
            if asks and payload[:2] == b"\0\x11":
                return  # after a refused mechanism

    def _send(self, sock: socket.socket, data: bytes) -> None:
        singly = min(len(data), _SLICED) if self._slices else 0
        for at in range(singly):
            sock.sendall(data[at : at + 1])
        sock.sendall(data[singly:])

    def _linger(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass

    def _until_closed(self) -> None:
        with self.cluster.changed:
            while not self.cluster.closed:
                self.cluster.changed.wait(0.05)

    def _while_stopped(self, id: int) -> None:
        with self.cluster.changed:
            while self.cluster.nodes[id].state == "stopped" and not self.cluster.closed:
                self.cluster.changed.wait(0.05)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _answer(self, payload: bytes, id: int, asks: bool) -> bytes | None:
        """A whole frame, or None. Raises WireError, ClosesConnection: the connection ends."""
        reader = octets.Reader(payload)
        key, version, correlation = reader.fixed("int16"), reader.fixed("int16"), reader.fixed("int32")
        name = schema.NAMES.get(key, "")
        if asks and key not in (_API_VERSIONS, _SASL_HANDSHAKE) and not self.cluster.wrong("no-authentication"):
            raise WireError("not authenticated")
        low, high = self._range(name)
        if key == _API_VERSIONS and not low <= version <= high:
            keys = [] if self.cluster.wrong("empty-versions") else self._advertised()
            if self.cluster.wrong("own-versions-hidden"):
                keys = [k for k in keys if k["api_key"] != _API_VERSIONS]
            return frames.response(key, 0, correlation, {"error_code": _UNSUPPORTED, "api_keys": keys})
        if name not in self._handlers or not low <= version <= high:
            if self.cluster.wrong("serves-removed"):
                return frames.framed(octets.fixed("int32", correlation) + b"\0" * 8)
            raise WireError(f"{name or key} v{version} is not served")
        if self.cluster.wrong("tags-refused") and b"unknown tag" in payload:
            raise WireError("a tag that is not known")
        found = self._patched(name, version)
        if found:
            raise WireError(found)
        if (name, version) == _BELOW:
            throttle = octets.fixed("int32", 0) if self.cluster.wrong("removed-answered-newer") else b""
            return frames.framed(octets.fixed("int32", correlation) + throttle + octets.fixed("int32", 0))
        request = frames.parse_request(payload)
        with self.cluster.changed:
            fields = self._handlers[name](request, id)
            self.cluster.changed.notify_all()
        if fields is None:
            return None
        if self.cluster.wrong("wrong-correlation"):
            correlation += 1
        return self._encoded(key, version, correlation, self._mutated(fields))

    def _patched(self, name: str, version: int) -> str:
        """What a mutant does not serve though it says so."""
        gap = self.cluster.wrong("advertises-unserved") and (name, version) == ("list_offsets", 3)
        old = self.cluster.wrong("old-versions-refused") and name == "api_versions" and version == 1
        below = self.cluster.wrong("removed-unserved") and (name, version) == _BELOW
        return f"{name} v{version} is advertised, and not served" if gap or old or below else ""

    def _encoded(self, key: int, version: int, correlation: int, fields: Fields) -> bytes:
        struct = schema.response(key, version)
        body = schema.encode(struct, schema.fitting(struct, {"throttle_time": 0, **fields}))
        tagged = struct.header == 1 or (self.cluster.wrong("header-tags") and key == _API_VERSIONS and version >= 3)
        return frames.framed(octets.fixed("int32", correlation) + (b"\0" if tagged else b"") + body)

    def _mutated(self, value: Any) -> Any:
        """Two mutants that get every error code wrong."""
        other = {"every-error-unknown": -1, "no-errors": 0}.get(self.cluster.mutant)
        if other is None:
            return value
        if isinstance(value, list):
            return [self._mutated(v) for v in value]
        if not isinstance(value, dict):
            return value
        spared = (79, 51, 14, 15, 16)  # without these nothing begins
        return {
            k: other if isinstance(k, str) and k.endswith("error_code") and v and v not in spared else self._mutated(v)
            for k, v in value.items()
        }

    # -- versions and authentication -----------------------------------------------------------------------------------

    def _range(self, name: str) -> tuple[int, int]:
        if name not in schema.KEYS:
            return 0, -1
        low, high = schema.versions(schema.KEYS[name])
        if self.cluster.wrong("share-fetch-v0") and name == "share_fetch":
            low = 0
        if name == _BELOW[0]:
            low = _BELOW[1]
        return low, min(high, _MOST.get(name, high))

    def _advertised(self) -> list[Fields]:
        return [
            {"api_key": schema.KEYS[n], "min_version": low, "max_version": high}
            for n in sorted(self._handlers, key=lambda n: schema.KEYS[n]) for low, high in (self._range(n),)
        ]  # fmt: skip

    def _on_api_versions(self, request: Request, node: int) -> Fields:
        code = 0
        if request.version >= 3:
            given = (request.fields["client_software_name"], request.fields["client_software_version"])
            code = 0 if all(_legal(g) for g in given) else _BAD_CLIENT
        return {"error_code": code, "api_keys": [] if code else self._advertised()}

    def _on_sasl_handshake(self, request: Request, node: int) -> Fields:
        mechanisms = [] if self.cluster.wrong("mechanisms-hidden") else ["PLAIN"]
        return {"error_code": _NO_MECHANISM, "mechanisms": mechanisms}

    def _tick(self) -> None:
        """All timers, and what goes on by itself."""
        wake = threading.Event()
        while not self.cluster.closed:
            wake.wait(_TICK_S)
            with self.cluster.changed:
                self.cluster.tick()
                for part in self._parts:
                    part.tick()


def _legal(text: str) -> bool:
    """Source: KIP-511: ``[a-zA-Z0-9](?:[a-zA-Z0-9\\-.]*[a-zA-Z0-9])?``."""
    return bool(text) and set(text) <= _NAME and text[0] not in ".-" and text[-1] not in ".-"
