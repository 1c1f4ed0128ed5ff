"""What the scripts of AMQP cases get: connections and channels that hide nothing.

    connection = scene.connect()                      a handshake, or INCONCLUSIVE
    channel = connection.channel()
    queue = channel.queue()                           declared, durable, with a fresh name
    channel.publish("", queue, b"x")
    channel.method("queue.declare", queue=queue, passive=True)      sent, nothing awaited
    scene.saw("", channel.reaction())                 what the peer did: an answer, a close with its code and scope, eof, reset, or open
    scene.saw("", channel.attempt("queue.purge", queue=queue))      both in one

``call`` is for what is not under test: without its answer the case cannot be judged. One thread per scene; what comes in
on other connections waits until they are asked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from brokerproof.conformance.amqp091.administration import Administration
from brokerproof.conformance.case import CUT, Case, Seen
from brokerproof.conformance.link import Link
from brokerproof.conformance.scene import Inconclusive, Scene
from brokerproof.conformance.way import OURS, Way
from brokerproof.conformance.wirelog import WireLog
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import Frame, Header, Method, WireError

#: An answer that is awaited, not measured, has so long at least, however short the clock of a reference peer is.
_ANSWER_S = 5.0
#: The shortest time in which a peer on a busy machine can be seen to do nothing.
_REACTION_S = 0.25
#: What a client says about itself where the script does not say.
CAPABILITIES: Mapping[str, bool] = {
    "publisher_confirms": True, "exchange_exchange_bindings": True, "basic.nack": True, "consumer_cancel_notify": True,
    "connection.blocked": True, "authentication_failure_close": True,
}  # fmt: skip
_ANSWERS: Mapping[str, tuple[str, ...]] = {"basic.get": ("basic.get-ok", "basic.get-empty")}


@dataclass(frozen=True, slots=True)
class Event:
    """A method that came, with its content if it has one. sizes: of its body frames, as a whole, in octets.
    at: when its last octet was read, on the monotonic clock."""

    channel: int
    method: Method
    at: float
    header: Header | None = None
    body: bytes = b""
    sizes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.method.name

    def __getitem__(self, argument: str) -> Any:
        return self.method[argument]

    @property
    def properties(self) -> dict[str, Any]:
        """Without field types; ``header.properties`` has them."""
        return {} if self.header is None else {k: wire.plain(v) for k, v in self.header.properties.items()}

    @property
    def tag(self) -> int:
        """The delivery tag."""
        return int(self.method["delivery_tag"])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scene's connections go, and as whom. stem: what names of queues and exchanges begin with."""

    addresses: Sequence[tuple[str, int]]
    vhost: str
    user: str
    password: str
    stem: str = ""


@dataclass(frozen=True, slots=True)
class OwnLink:
    """A link that can be troubled. black_hole: from then on every packet is dropped, both ways, and nobody is told."""

    address: tuple[str, int]
    black_hole: Callable[[], object]


class AmqpScene(Scene):
    """admin: what AMQP cannot do.  own: leases a link that nobody else uses until the case ends."""

    def __init__(
        self, case: Case, *, variant: str, condition: str, product: str, version: str, name: str, log: WireLog,
        place: Place, admin: Administration, scale: float = 1.0, stop: Callable[[], bool] = lambda: False,
        own: Callable[[], OwnLink] | None = None, way: Way = OURS,
    ) -> None:  # fmt: skip
        super().__init__(
            case, variant=variant, condition=condition, product=product, version=version, name=name, log=log, scale=scale,
            stop=stop, way=way,
        )  # fmt: skip
        self.place, self.admin = place, admin
        self.vhost, self.user, self.password = place.vhost, place.user, place.password
        self.connections: list[Connection] = []
        #: (kind, name) -> whether it must still be there at the end.
        self.made: dict[tuple[str, str], bool] = {}
        self._own = own
        self._fresh = 0
        #: The queue of the connection that must not notice anything; "" where there is none.
        self.sentry = ""

    def fresh(self, what: str = "q") -> str:
        """A name that nothing has."""
        self._fresh += 1
        name = f"{self.place.stem}{what}-{self._fresh}"
        self.way.named(name)
        return name

    def dial(self, name: str = "", *, node: int = 0, by: OwnLink | None = None) -> Connection:
        """A TCP connection and nothing more. node: to which of the cluster's. by: a link of its own."""
        name = name or "abcdefghijklmnopqrstuvwxyz"[len(self.connections) % 26] + str(len(self.connections) // 26 or "")
        address = by.address if by else self.place.addresses[node]
        connection = Connection(self, self.link(address, name))
        self.connections.append(connection)
        self.finally_(connection.drop)
        return connection

    def connect(
        self, name: str = "", *, user: str | None = None, password: str | None = None, vhost: str | None = None,
        channel_max: int | None = None, frame_max: int | None = None, heartbeat: int = 0,
        capabilities: Mapping[str, bool] = CAPABILITIES, node: int = 0, by: OwnLink | None = None,
    ) -> Connection:  # fmt: skip
        """A connection that is open. channel_max, frame_max: None: what the peer offers. heartbeat: in seconds; 0: none.
        Raises Inconclusive when the peer does not let us in."""
        connection = self.dial(name, node=node, by=by)
        connection.start()
        connection.start_ok(user=user, password=password, capabilities=capabilities)
        connection.tune_ok(channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat)
        connection.open(vhost)
        connection.must("connection.open-ok")
        if self.condition == CUT:
            connection.leave_a_trace()
        return connection

    def own_link(self) -> OwnLink:
        """A link that nobody else uses, for this scene; what it suffers ends with the case. Skips where there is none."""
        if self._own is None:
            self.skip("there is no link that only this case uses")
        return self._own()

    def attempt(self, name: str, /, **arguments: Any) -> Seen:
        """``Channel.attempt`` on a connection and a channel of its own: whatever becomes of them."""
        return self.connect().channel().attempt(name, **arguments)

    def expect(self, step: str, seen: Seen, answer: str, good: bool = True, otherwise: str = "") -> None:
        """A step that must be answered so, and then be good; otherwise: what was seen if it is not. A refusal is judged as it is."""
        if seen.behaviour == answer:
            self.require(step, good, otherwise)
        else:
            self.saw(step, seen)

    def put(self, key: str, *bodies: bytes, exchange: str = "", properties: Mapping[str, Any] | None = None) -> Channel:
        """Publishes with confirms, on a channel of its own, which is the value: once it returns every message is stored.
        Raises Inconclusive when one is not confirmed."""
        channel = self.connect().channel()
        channel.call("confirm.select")
        for body in bodies:
            channel.publish(exchange, key, body, properties)
        confirmed = channel.confirms(len(bodies))
        if any(c.name != "basic.ack" for c in confirmed) or not confirmed:
            raise Inconclusive(f"of {len(bodies)} messages to {key!r} not all were confirmed")
        return channel

    def timestamp(self, at: float) -> wire.Field:
        """A moment (seconds since 1970) as a field value."""
        return wire.Field("T", int(at))

    def has(self, kind: Literal["queue", "exchange"], name: str) -> bool:
        """Whether it is there, by a passive declare."""
        more = {"type": "direct"} if kind == "exchange" else {}
        seen = self.attempt(f"{kind}.declare", **{kind: name}, passive=True, **more)
        return seen.behaviour == f"{kind}.declare-ok"


class Connection:
    """A connection as a client sees it. start, tune: what the peer said in the handshake.

    closed: the Connection.Close that came.  closes: channel -> the Channel.Close that came.  answers: whether both are answered at once.
    headers: protocol headers that came.  heard: when frames came.  heartbeats: how many of them were heartbeats.
    garbled: why what came is no AMQP; empty: it is.
    trace: an exclusive queue of its own, by which others see that the peer still holds it; empty: none.

    Where frames are cut short, what is sent waits until something else is sent or awaited. What waits when a reaction is asked for is
    what the reaction is to: that one is cut, and ends the connection.
    """

    def __init__(self, scene: AmqpScene, link: Link) -> None:
        self.scene, self.link = scene, link
        self.started: Event | None = None
        self.tuned: Event | None = None
        self.frame_max, self.channel_max, self.heartbeat = wire.FRAME_MIN_SIZE, 0, 0
        self.answers = True
        self.closed: Method | None = None
        self.closes: dict[int, Method] = {}
        self.headers: list[wire.ProtocolHeader] = []
        self.heard: list[float] = []
        self.heartbeats = 0
        self.garbled = ""
        self.trace = ""
        self._cuts = scene.condition == CUT
        self._waiting: tuple[bytes, str, int | None] | None = None
        #: All octets that came, for peers that speak something else.
        self.octets = bytearray()
        self.channels: dict[int, Channel] = {}
        self._frames = wire.Frames()
        self._inbox: dict[int, deque[Event]] = {}
        self._content: dict[int, _Content] = {}

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, octets: bytes, *, decoded: str = "", channel: int | None = None) -> bool:
        """Octets as they are. Whether the kernel took them; a link that was ended is nothing to stumble over."""
        self._pass_on()
        if self._cuts:
            self._waiting = (octets, decoded, channel)
            return True
        return self.link.send(octets, decoded=decoded, chan=channel)

    def frame(self, frame: Frame) -> bool:
        return self.send(frame.encode(), decoded=str(frame), channel=frame.channel)

    def method(self, channel: int, name: str, /, **arguments: Any) -> bool:
        """Sends a method and awaits nothing."""
        kind, _, verb = name.partition(".")
        if verb == "declare" and arguments.get(kind) and not arguments.get("passive"):
            self.scene.way.named(arguments[kind])
        return self.frame(wire.method_frame(channel, name, **arguments))

    # -- handshake -----------------------------------------------------------------------------------------------------

    def start(self, header: bytes = wire.PROTOCOL_HEADER) -> Event:
        """Sends the protocol header; the Start. Raises Inconclusive where none comes."""
        self.send(header, decoded="protocol header")
        self.started = self.must("connection.start")
        return self.started

    def start_ok(
        self, *, user: str | None = None, password: str | None = None, mechanism: str = "PLAIN",
        capabilities: Mapping[str, bool] = CAPABILITIES, properties: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Sends it. properties: of the client, beside its name and capabilities."""
        user = self.scene.user if user is None else user
        password = self.scene.password if password is None else password
        introduced = {"product": "brokerproof", "connection_name": f"{self.scene.case.id} {self.link.name}",
                      "capabilities": dict(capabilities), **(properties or {})}  # fmt: skip
        self.method(0, "connection.start-ok", client_properties=introduced, mechanism=mechanism,
                    response=f"\0{user}\0{password}", locale="en_US")  # fmt: skip

    def tune_ok(self, *, channel_max: int | None = None, frame_max: int | None = None, heartbeat: int = 0) -> Event:
        """Awaits Tune, and answers it. None: with what is offered."""
        self.tuned = tune = self.must("connection.tune")
        self.channel_max = int(tune["channel_max"]) if channel_max is None else channel_max
        self.frame_max = int(tune["frame_max"]) if frame_max is None else frame_max
        self.heartbeat = heartbeat
        self.method(
            0, "connection.tune-ok", channel_max=self.channel_max, frame_max=self.frame_max, heartbeat=heartbeat
        )
        return tune

    def open(self, vhost: str | None = None) -> None:
        """Sends it."""
        self.method(0, "connection.open", virtual_host=self.scene.vhost if vhost is None else vhost)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def pump(self, until: float) -> bool:
        """Takes in what comes next; whether anything came until then (monotonic clock) and the link had not ended."""
        self._pass_on()
        data = self.link.receive(until)
        if not data:
            return False
        self.octets += data
        try:
            for found in self._frames.feed(data):
                self._came(found)
        except WireError as exc:
            if not self.garbled:
                self.scene.log.note(f"no AMQP: {exc}", conn=self.link.name)
            self.garbled = str(exc)
        return True

    def quiet(self, seconds: float) -> None:
        """Takes in all that comes for so long (seconds of the broker's), or until the link ends."""
        until = self.scene.window(seconds)
        while time.monotonic() < until and not self.link.ended:
            self.pump(until)

    def take(self, *names: str, channel: int = 0, seconds: float | None = None) -> Event | None:
        """The first event of these names (any: none given) on the channel, taken out; what stands before it stays.
        None: it did not come in time (seconds of the broker's; None: the case's window), or cannot come any more."""
        least = _ANSWER_S if seconds is None else _REACTION_S if seconds else 0.0
        until = max(self.scene.window(seconds), time.monotonic() + least)
        while True:
            found = self._first(names, channel)
            if found is not None:
                return found
            if self.ended(channel):
                return None
            if not self.pump(until) and (self.link.ended or time.monotonic() >= until):
                return self._first(names, channel)

    def must(self, *names: str, channel: int = 0) -> Event:
        """As ``take``; raises Inconclusive where it does not come."""
        found = self.take(*names, channel=channel)
        if found is None:
            raise Inconclusive(f"no {' or '.join(names)} came on {self.link.name}: {self.reaction(channel, seconds=0)}")
        return found

    def events(self, channel: int = 0) -> list[Event]:
        """What has come on the channel and was not taken, in order; stays there."""
        return list(self._inbox.get(channel, ()))

    def ended(self, channel: int = 0) -> bool:
        """Whether nothing can come on the channel any more."""
        return bool(self.link.ended or self.closed or self.garbled or (channel and channel in self.closes))

    def reaction(self, channel: int = 0, *, seconds: float | None = None, ignoring: Sequence[str] = ()) -> Seen:
        """What the peer does: the first that comes of a close, an end, an answer (a method on the channel, taken out, or a protocol
        header); open if nothing does in time. ignoring: methods that are no answer, and stay."""
        self._cut_short()
        until = max(self.scene.window(seconds), time.monotonic() + (_REACTION_S if seconds is None else 0.0))
        while True:
            seen = self._seen(channel, ignoring)
            if seen is not None:
                return seen
            if not self.pump(until) and not self.link.ended and time.monotonic() >= until:
                return self._seen(channel, ignoring) or Seen(ending="open")

    def end(self, *, seconds: float | None = None) -> Seen:
        """How the connection ends, whatever comes before that; open if it does not in time. A Connection.Close wins over what follows it."""
        self._cut_short()
        until = max(self.scene.window(seconds), time.monotonic() + (_REACTION_S if seconds is None else 0.0))
        while not self.link.ended and time.monotonic() < until:
            self.pump(until)
        if self.closed is not None:
            return self._seen(0, ()) or Seen(ending="open")
        return Seen(
            ending="reset" if self.link.ended == "reset" else "eof" if self.link.ended else "open", scope="connection"
        )

    def awaited(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Takes in what comes until ``done``, or for so long."""
        until = max(self.scene.window(seconds), time.monotonic() + (_ANSWER_S if seconds is None else 0.0))
        while not done():
            if not self.pump(until) and (self.link.ended or time.monotonic() >= until):
                return done()
        return True

    # -- channels and ending -------------------------------------------------------------------------------------------

    def channel(self, number: int = 0) -> Channel:
        """An open channel; 0: on the lowest number that is free here. Raises Inconclusive where it is refused."""
        number = number or next(n for n in range(1, 65536) if n not in self.channels)
        self.closes.pop(number, None)
        self.method(number, "channel.open")
        self.must("channel.open-ok", channel=number)
        return self.opened(number)

    def opened(self, number: int) -> Channel:
        """The channel of that number, whatever the peer thinks of it."""
        self.channels[number] = Channel(self, number)
        return self.channels[number]

    def leave_a_trace(self) -> None:
        """Declares an exclusive queue, on a channel that the script does not use: it is gone once the peer has given the
        connection up."""
        number = self.channel_max or 2047
        self.trace = self.channel(number).queue(durable=False, exclusive=True)
        self.channels.pop(number)

    def close(self) -> bool:
        """With a handshake; whether Close-Ok came."""
        self.method(0, "connection.close", reply_code=200, reply_text="bye")
        answered = self.take("connection.close-ok") is not None
        self.link.close()
        self.link.ended = self.link.ended or "eof"
        return answered

    def reset(self) -> None:
        """RST: the peer is not told that we go."""
        self.link.abort()
        self.link.ended = "reset"

    def drop(self) -> None:
        """Closes the socket; safe to call twice."""
        self.link.close()
        self.link.ended = self.link.ended or "eof"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """What waits, whole."""
        if self._waiting is not None:
            (octets, decoded, channel), self._waiting = self._waiting, None
            self.link.send(octets, decoded=decoded, chan=channel)

    def _cut_short(self) -> None:
        if self._waiting is not None:
            (octets, decoded, _), self._waiting = self._waiting, None
            self.link.cut(self.scene.cut_short(octets), decoded=decoded)

    def _first(self, names: Sequence[str], channel: int) -> Event | None:
        inbox = self._inbox.get(channel, ())
        for event in inbox:
            if not names or event.name in names:
                self._inbox[channel].remove(event)
                return event
        return None

    def _seen(self, channel: int, ignoring: Sequence[str]) -> Seen | None:
        if self.closed is not None:
            return _closed("connection", self.closed)
        if channel and channel in self.closes:
            return _closed("channel", self.closes[channel])
        if self.garbled:
            return Seen(behaviour="octets that are no AMQP", ending="open", scope="connection", detail=self.garbled)
        for event in self._inbox.get(channel, ()):
            if event.name not in ignoring:
                self._inbox[channel].remove(event)
                return Seen(behaviour=event.name, ending="open", detail=str(event.method))
        if self.link.ended:
            return Seen(ending="reset" if self.link.ended == "reset" else "eof", scope="connection")
        if self.headers and channel == 0:
            return Seen(behaviour="protocol header", ending="open", detail=self.headers[0].octets.hex(" "))
        return None

    def _came(self, found: Frame | wire.ProtocolHeader) -> None:
        now = time.monotonic()
        self.heard.append(now)
        if isinstance(found, wire.ProtocolHeader):
            self.headers.append(found)
            self.link.frame("<", f"protocol header {found.octets.hex(' ')}")
            return
        self.link.frame("<", str(found), chan=found.channel)
        if found.type == wire.HEARTBEAT:
            self.heartbeats += 1
        elif found.type == wire.METHOD:
            self._method(found.channel, wire.read_method(found.payload), now)
        else:
            self._content_came(found, now)

    def _method(self, channel: int, method: Method, now: float) -> None:
        if method.name == "connection.close":
            self.closed = method
            if self.answers:
                self.method(0, "connection.close-ok")
        elif method.name == "channel.close":
            self.closes[channel] = method
            self._content.pop(channel, None)
            if self.answers:
                self.method(channel, "channel.close-ok")
        elif method.name in wire.WITH_CONTENT:
            self._content[channel] = _Content(method)
        else:
            self._add(Event(channel, method, now))

    def _content_came(self, frame: Frame, now: float) -> None:
        content = self._content.get(frame.channel)
        if content is None:
            raise WireError(f"content on channel {frame.channel} without a method before it")
        if frame.type == wire.HEADER:
            content.header = _header(frame.payload)
        elif content.header is None:
            raise WireError(f"a body on channel {frame.channel} without a content header before it")
        else:
            content.body += frame.payload
            content.sizes.append(len(frame))
        assert content.header is not None
        if len(content.body) > content.header.body_size:
            raise WireError(
                f"a body of {len(content.body)} octets on channel {frame.channel}, announced were {content.header.body_size}"
            )
        if len(content.body) == content.header.body_size:
            del self._content[frame.channel]
            self._add(
                Event(frame.channel, content.method, now, content.header, bytes(content.body), tuple(content.sizes))
            )

    def _add(self, event: Event) -> None:
        self._inbox.setdefault(event.channel, deque()).append(event)


class Channel:
    """An open channel."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection, self.number, self.scene = connection, number, connection.scene

    # -- what is not under test ----------------------------------------------------------------------------------------

    def call(self, name: str, /, **arguments: Any) -> Event:
        """Sends a method and awaits its answer. Raises Inconclusive where none comes."""
        self.method(name, **arguments)
        found = self.connection.must(*_ANSWERS.get(name, (f"{name}-ok",)), channel=self.number)
        self._track(name, arguments, found)
        return found

    def queue(self, name: str | None = None, *, durable: bool = True, **arguments: Any) -> str:
        """Declares a queue, durable, not exclusive, with a fresh name if none is given; its name. arguments: as the method's; those of the
        queue itself as ``arguments={...}``."""
        wanted = self.scene.fresh("q") if name is None else name
        return str(self.call("queue.declare", queue=wanted, durable=durable, **arguments)["queue"])

    def exchange(self, type: str = "direct", name: str | None = None, *, durable: bool = True, **arguments: Any) -> str:
        """Declares an exchange; its name."""
        wanted = self.scene.fresh("x") if name is None else name
        self.call("exchange.declare", exchange=wanted, type=type, durable=durable, **arguments)
        return wanted

    def bind(self, queue: str, exchange: str, key: str = "", arguments: Mapping[str, Any] | None = None) -> None:
        self.call("queue.bind", queue=queue, exchange=exchange, routing_key=key, arguments=arguments or {})

    def get(self, queue: str, *, no_ack: bool = True) -> Event | None:
        """One message; None: the queue is empty."""
        found = self.call("basic.get", queue=queue, no_ack=no_ack)
        return found if found.name == "basic.get-ok" else None

    def drain(self, queue: str) -> list[Event]:
        """All that basic.get gives, settled."""
        found = []
        while (one := self.get(queue)) is not None:
            found.append(one)
        return found

    def collect(self, queues: Sequence[str]) -> dict[str, list[Event]]:
        """All that waits in these queues, settled, in order: consumed up to a marker that is published behind it. For queues that
        take what they are given, in the order in which it comes."""
        found: dict[str, list[Event]] = {queue: [] for queue in queues}
        tags = {self.consume(queue, no_ack=True): queue for queue in found}
        ends = {b"the end of " + queue.encode(): queue for queue in found}
        for end, queue in ends.items():
            self.publish("", queue, end)
        while ends and (one := self.take("basic.deliver")) is not None:
            if ends.pop(one.body, None) is None:
                found[tags[one["consumer_tag"]]].append(one)
        for tag in tags:
            if self.is_open:
                self.call("basic.cancel", consumer_tag=tag)
        # What came behind its marker, before it was cancelled, was taken from the queue as well.
        while (one := self.connection._first(("basic.deliver",), self.number)) is not None:
            found[tags[one["consumer_tag"]]].append(one)
        return found

    def consume(self, queue: str, *, tag: str = "", no_ack: bool = False, **arguments: Any) -> str:
        """The consumer's tag."""
        return str(
            self.call("basic.consume", queue=queue, consumer_tag=tag, no_ack=no_ack, **arguments)["consumer_tag"]
        )

    def close(self) -> bool:
        """With a handshake; whether Close-Ok came."""
        self.method("channel.close", reply_code=200, reply_text="bye")
        answered = self.take("channel.close-ok") is not None
        self.connection.channels.pop(self.number, None)
        return answered

    # -- what is -------------------------------------------------------------------------------------------------------

    def method(self, name: str, /, **arguments: Any) -> bool:
        """Sends a method and awaits nothing."""
        return self.connection.method(self.number, name, **arguments)

    def attempt(self, name: str, /, **arguments: Any) -> Seen:
        """Sends a method; what the peer makes of it. Content that is under way does not count."""
        self.method(name, **arguments)
        found = self.connection.take(*_ANSWERS.get(name, (f"{name}-ok",)), channel=self.number)
        if found is None:
            return self.connection.reaction(
                self.number, seconds=0, ignoring=("basic.deliver", "basic.return", "basic.ack", "basic.nack")
            )
        self._track(name, arguments, found)
        return Seen(behaviour=found.name, ending="open", detail=str(found.method))

    def reaction(self, *, seconds: float | None = None, ignoring: Sequence[str] = ()) -> Seen:
        """See ``Connection.reaction``."""
        return self.connection.reaction(self.number, seconds=seconds, ignoring=ignoring)

    def publish(
        self, exchange: str, key: str, body: bytes = b"", properties: Mapping[str, Any] | None = None, *,
        mandatory: bool = False, immediate: bool = False, pieces: Sequence[int] = (),
    ) -> bool:  # fmt: skip
        """pieces: sizes of the body frames' payloads; the rest is cut at the frame size that was agreed. Messages are persistent unless
        the properties say otherwise."""
        given = {"delivery_mode": 2, **(properties or {})}
        frames = [
            wire.method_frame(self.number, "basic.publish", exchange=exchange, routing_key=key, mandatory=mandatory, immediate=immediate),
            *wire.content_frames(self.number, body, given, frame_max=self.connection.frame_max, pieces=pieces),
        ]  # fmt: skip
        shown = f"basic.publish exchange={exchange!r} routing_key={key!r} {len(body)} octets {plainly(given)}"
        return self.connection.send(b"".join(f.encode() for f in frames), decoded=shown, channel=self.number)

    def take(self, *names: str, seconds: float | None = None) -> Event | None:
        """See ``Connection.take``."""
        return self.connection.take(*names, channel=self.number, seconds=seconds)

    def deliveries(self, n: int, *, seconds: float | None = None) -> list[Event]:
        """The next deliveries, so many at most; fewer: no more came in time."""
        found: list[Event] = []
        while len(found) < n and (one := self.take("basic.deliver", seconds=seconds)) is not None:
            found.append(one)
        return found

    def settled(self) -> list[Event]:
        """Takes out the deliveries, once nothing more can be on its way: after an answer to a method sent now."""
        self.call("basic.qos")
        found = []
        while (one := self.connection._first(("basic.deliver",), self.number)) is not None:
            found.append(one)
        return found

    def confirms(self, n: int, *, seconds: float | None = None) -> list[Event]:
        """Acks and nacks, until n publishes of this channel (numbers 1 to n, of those not taken before) are covered or time is over;
        taken out, in order."""
        found: list[Event] = []
        covered: set[int] = set()
        while len(covered) < n and (one := self.take("basic.ack", "basic.nack", seconds=seconds)) is not None:
            found.append(one)
            covered |= set(range(1, one.tag + 1)) if one["multiple"] else {one.tag}
        return found

    def until(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Asks again and again until it is so, or for so long (seconds of the broker's; None: as an answer is awaited)."""
        end = max(self.scene.window(seconds), time.monotonic() + _ANSWER_S)
        while not done():
            if time.monotonic() >= end or not self.is_open:
                return False
            self.connection.pump(time.monotonic() + 0.01)
        return True

    @property
    def is_open(self) -> bool:
        """As far as is known by what was taken in."""
        return not self.connection.ended(self.number)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.method("basic.ack", delivery_tag=tag, multiple=multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self.method("basic.nack", delivery_tag=tag, multiple=multiple, requeue=requeue)

    def reject(self, tag: int, *, requeue: bool = True) -> None:
        self.method("basic.reject", delivery_tag=tag, requeue=requeue)

    def _track(self, name: str, arguments: Mapping[str, Any], answer: Event) -> None:
        """Remembers what the script made and deleted: what is there at the end must be that."""
        kind, _, verb = name.partition(".")
        if kind not in ("queue", "exchange") or verb not in ("declare", "delete") or arguments.get("passive"):
            return
        made = str(answer["queue"] if name == "queue.declare" else arguments[kind])
        stays = verb == "declare" and not (
            arguments.get("exclusive") or arguments.get("auto_delete") or not arguments.get("durable") or arguments.get("arguments")
        )  # fmt: skip
        if verb == "declare":
            self.scene.way.named(made)  # the broker may have given it
        self.scene.made[kind, made] = stays


@dataclass(slots=True)
class _Content:
    method: Method
    header: Header | None
    body: bytearray
    sizes: list[int]

    def __init__(self, method: Method) -> None:
        self.method, self.header, self.body, self.sizes = method, None, bytearray(), []


def _header(payload: bytes) -> Header:
    """As most clients read it; failing that, as the grammar says; failing that, its octets. What has no number is no header."""
    for grammar in (False, True):
        try:
            return wire.read_header(payload, grammar=grammar)
        except WireError:
            continue
    bare = wire.read_header(payload[:12] + b"\x00\x00")
    return replace(bare, raw=payload[12:])


def plainly(properties: Mapping[str, Any]) -> str:
    """For logs."""
    return " ".join(f"{k}={wire.plain(v)!r}" for k, v in properties.items())


def _closed(scope: Any, method: Method) -> Seen:
    return Seen(ending="closed", scope=scope, code=int(method["reply_code"]), detail=str(method["reply_text"]))
