"""Does the same to a broker and to the model, in any order that Hypothesis likes, and compares what comes of it.

    exchanges, queues, bindings (exchange to exchange too), publish, get, ack, nack, reject, purge, channel close
    -> bodies, their order, delivery tags, the redelivered flag, how many are left

Only what the model and every vendor agree on is done: where they differ there are cases. Each step is finished before the
next: publishes are confirmed, and what has no answer is followed by something that has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from brokerproof.conformance.amqp091 import scene as wire_side
from brokerproof.conformance.amqp091.channel import Channel
from brokerproof.conformance.amqp091.entities import Delivery, Refused
from brokerproof.conformance.amqp091.model import Broker
from brokerproof.conformance.amqp091.scene import AmqpScene
from brokerproof.conformance.modelled import Machine, stand_in

_EXCHANGES: Mapping[str, str] = {"d": "direct", "f": "fanout", "t": "topic", "h": "headers"}
_QUEUES = ("q0", "q1", "q2")
_WORDS = st.lists(st.sampled_from(("a", "b", "")), max_size=3).map(".".join)
_PATTERNS = st.lists(st.sampled_from(("a", "b", "*", "#")), max_size=3).map(".".join)
_HEADERS = st.dictionaries(st.sampled_from(("a", "b", "x-a")), st.sampled_from((1, 2, "1", True)), max_size=2)
_MATCHES = st.builds(
    lambda mode, asked: {"x-match": mode, **asked}, st.sampled_from(("all", "any")), _HEADERS,
)  # fmt: skip
_SIDES = st.sampled_from((0, 1))
#: Which of several, whose number the rule knows only when it is played.
_WHICH = st.integers(0, 11)


class NoSink:
    """The machine has no consumers, so nothing comes unasked."""

    def deliver(self, delivery: Delivery) -> None:
        raise AssertionError("a delivery without a consumer")

    def cancelled(self, consumer_tag: str) -> None: ...

    def closed(self, refused: Refused) -> None: ...


class Queues(Machine):
    """Two sides, each a connection with a channel, on the broker (``theirs``) and on the model (``ours``)."""

    case = stand_in("A0.00", "amqp091/model", "Routing, queues and acknowledgements do as the model does.")
    scene: AmqpScene

    def __init__(self) -> None:
        super().__init__()
        self._model = Broker(lambda: 0.0)
        self._connections = [self._model.connect("guest", "/") for _ in range(2)]
        self.ours: list[Channel] = [c.channel(NoSink()) for c in self._connections]
        self.theirs: list[wire_side.Channel] = [self.scene.connect().channel() for _ in range(2)]
        for channel in self.theirs:
            channel.call("confirm.select")
        self._published = 0
        for name in _QUEUES:
            self.theirs[0].queue(name)
            self.ours[0].queue_declare(name, durable=True)
        for name, type_ in _EXCHANGES.items():
            self.theirs[0].exchange(type_, name)
            self.ours[0].exchange_declare(name, type_, durable=True)

    # -- bindings ------------------------------------------------------------------------------------------------------

    @initialize(
        bindings=st.lists(
            st.tuples(st.sampled_from(_QUEUES), st.sampled_from("dft"), _PATTERNS), min_size=3, max_size=6
        )
    )
    def bind_some(self, bindings: list[tuple[str, str, str]]) -> None:
        """Without which little would be routed anywhere."""
        for binding in bindings:
            self.bind(*binding)

    @rule(queue=st.sampled_from(_QUEUES), exchange=st.sampled_from("dft"), key=_PATTERNS)
    def bind(self, queue: str, exchange: str, key: str) -> None:
        self.theirs[0].bind(queue, exchange, key)
        self.ours[0].queue_bind(queue, exchange, key)

    @rule(queue=st.sampled_from(_QUEUES), arguments=_MATCHES)
    def bind_by_headers(self, queue: str, arguments: dict[str, Any]) -> None:
        self.theirs[0].bind(queue, "h", "", arguments)
        self.ours[0].queue_bind(queue, "h", "", arguments)

    @rule(source=st.sampled_from("dft"), destination=st.sampled_from(tuple(_EXCHANGES)), key=_PATTERNS)
    def bind_exchange(self, source: str, destination: str, key: str) -> None:
        self.theirs[0].call("exchange.bind", destination=destination, source=source, routing_key=key)
        self.ours[0].exchange_bind(destination, source, key)

    @precondition(lambda self: any(b.to == "queue" for b in self._model.vhosts["/"].bindings))
    @rule(which=_WHICH)
    def unbind(self, which: int) -> None:
        mine = [b for b in self._model.vhosts["/"].bindings if b.to == "queue"]
        one = mine[which % len(mine)]
        self.theirs[0].call(
            "queue.unbind",
            queue=one.destination,
            exchange=one.source,
            routing_key=one.key,
            arguments=dict(one.arguments),
        )
        self.ours[0].queue_unbind(one.destination, one.source, one.key, one.arguments)

    # -- messages ------------------------------------------------------------------------------------------------------

    @rule(
        side=_SIDES,
        exchange=st.sampled_from(("", *_EXCHANGES)),
        key=_WORDS | st.sampled_from(_QUEUES),
        headers=_HEADERS,
    )
    def publish(self, side: int, exchange: str, key: str, headers: dict[str, Any]) -> None:
        self._published += 1
        body, properties = b"%d" % self._published, {"headers": headers, "delivery_mode": 1}
        self.theirs[side].publish(exchange, key, body, properties)
        assert self.theirs[side].take("basic.ack") is not None, "not confirmed"
        self.ours[side].publish(exchange, key, properties, body)

    @rule(side=_SIDES, queue=st.sampled_from(_QUEUES), copies=st.integers(1, 4))
    def put(self, side: int, queue: str, copies: int) -> None:
        for _ in range(copies):
            self.publish(side, "", queue, {})

    @rule(side=_SIDES, queue=st.sampled_from(_QUEUES), no_ack=st.sampled_from((False, False, False, True)))
    def get(self, side: int, queue: str, no_ack: bool) -> None:
        ours = self.ours[side].get(queue, no_ack=no_ack)
        theirs = self.theirs[side].get(queue, no_ack=no_ack)
        assert _of_theirs(theirs) == _of_ours(ours), f"get from {queue}"

    @rule(side=_SIDES, queue=st.sampled_from(_QUEUES), n=st.integers(2, 4))
    def get_some(self, side: int, queue: str, n: int) -> None:
        for _ in range(n):
            self.get(side, queue, no_ack=False)

    @precondition(lambda self: any(c.held for c in self.ours))
    @rule(
        side=_SIDES, which=_WHICH, how=st.sampled_from(("ack", "requeue", "requeue", "discard", "reject")),
        multiple=st.booleans(),
    )  # fmt: skip
    def settle(self, side: int, which: int, how: str, multiple: bool) -> None:
        side = next(n for n in (side, 0, 1) if self.ours[n].held)
        ours, theirs = self.ours[side], self.theirs[side]
        tag = list(ours.held)[which % len(ours.held)]
        if how == "ack":
            theirs.ack(tag, multiple=multiple)
            ours.ack(tag, multiple=multiple)
        elif how == "reject":
            theirs.reject(tag, requeue=True)
            ours.reject(tag, requeue=True)
        else:
            theirs.nack(tag, multiple=multiple, requeue=how == "requeue")
            ours.nack(tag, multiple=multiple, requeue=how == "requeue")
        theirs.call("basic.qos", prefetch_count=0)

    @rule(queue=st.sampled_from(_QUEUES))
    def purge(self, queue: str) -> None:
        gone = self.theirs[0].call("queue.purge", queue=queue)["message_count"]
        assert gone == self.ours[0].queue_purge(queue), f"purge of {queue}"

    @rule(side=_SIDES)
    def close_channel(self, side: int) -> None:
        connection = self.theirs[side].connection
        self.theirs[side].close()
        self.ours[side].close()
        self.theirs[side] = connection.channel()
        self.theirs[side].call("confirm.select")
        self.ours[side] = self._connections[side].channel(NoSink())

    def ends(self) -> None:
        """What is left in the queues once all that is held is back."""
        for side in (0, 1):
            self.close_channel(side)
        for queue in _QUEUES:
            ours = []
            while (one := self.ours[0].get(queue, no_ack=True)) is not None:
                ours.append(_of_ours(one))
            assert [_of_theirs(e) for e in self.theirs[0].drain(queue)] == ours, f"left in {queue}"


def _of_ours(one: Delivery | None) -> tuple[object, ...] | None:
    return None if one is None else (one.tag, one.message.body, one.redelivered, one.left)


def _of_theirs(one: wire_side.Event | None) -> tuple[object, ...] | None:
    return None if one is None else (one.tag, one.body, bool(one["redelivered"]), one["message_count"])
