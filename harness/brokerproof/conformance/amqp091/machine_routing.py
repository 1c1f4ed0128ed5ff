"""Binds and publishes on a broker and on the model, and compares what each queue gets of each message.

exchanges of every type, two of them each other's alternate; several bindings of one queue; exchange to exchange, in circles too;
headers with every x-match, with values of several types and with none; keys and patterns with empty words
-> which queues get the message, and how many copies
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from brokerproof.conformance.amqp091.entities import Binding
from brokerproof.conformance.amqp091.machine import NoSink
from brokerproof.conformance.amqp091.model import Broker
from brokerproof.conformance.amqp091.routing import X_MATCHES
from brokerproof.conformance.amqp091.scene import AmqpScene
from brokerproof.conformance.modelled import Machine, stand_in
from brokerproof.versions import applies

_EXCHANGES: Mapping[str, str] = {
    "d": "direct", "f": "fanout", "t": "topic", "h": "headers", "a": "topic", "b": "headers",
}  # fmt: skip
#: What nothing takes there goes here: a circle, which ends.
_ALTERNATES: Mapping[str, str] = {"a": "b", "b": "a"}
_BY_KEY, _BY_HEADERS, _ANY = st.sampled_from("dfta"), st.sampled_from("hb"), st.sampled_from(tuple(_EXCHANGES))
_QUEUES = ("q0", "q1", "q2")
_QUEUE = st.sampled_from(_QUEUES)
_KEY = st.lists(st.sampled_from(("a", "b", "")), max_size=3).map(".".join)
_PATTERN = st.lists(st.sampled_from(("a", "", "*", "#")), max_size=3).map(".".join)
_NAMES = st.sampled_from(("a", "x-a"))
_HEADERS = st.dictionaries(_NAMES, st.sampled_from((1, "1", True)))
#: None: the header's presence is enough.
_ASKED = st.dictionaries(_NAMES, st.sampled_from((1, "1", True, None)))
_ARGUMENTS = st.builds(lambda mode, asked: {"x-match": mode, **asked}, st.sampled_from(X_MATCHES), _ASKED)


class Routing(Machine):
    """One connection with a channel on the broker (``theirs``), one on the model (``ours``)."""

    case = stand_in("A0.01", "amqp091/model-routing", "Every queue gets what the routing model says, once.")
    scene: AmqpScene

    def __init__(self) -> None:
        super().__init__()
        self._model = Broker(lambda: 0.0)
        self.ours = self._model.connect("guest", "/").channel(NoSink())
        self.theirs = self.scene.connect().channel()
        self.theirs.call("confirm.select")
        self._published = 0
        for queue in _QUEUES:
            self.theirs.queue(queue)
            self.ours.queue_declare(queue, durable=True)
        for name, type_ in _EXCHANGES.items():
            arguments = {"alternate-exchange": _ALTERNATES[name]} if name in _ALTERNATES else {}
            self.theirs.exchange(type_, name, arguments=arguments)
            self.ours.exchange_declare(name, type_, durable=True, arguments=arguments)

    @initialize(
        by_key=st.lists(st.tuples(_QUEUE, _BY_KEY, _PATTERN), min_size=2, max_size=5),
        by_headers=st.lists(st.tuples(_QUEUE, _BY_HEADERS, _ARGUMENTS), min_size=2, max_size=4),
    )
    def bind_some(self, by_key: list[tuple[str, str, str]], by_headers: list[tuple[str, str, dict[str, Any]]]) -> None:
        """Without which little would be routed anywhere."""
        for queue, exchange, key in by_key:
            self.bind(queue, exchange, key)
        for queue, exchange, arguments in by_headers:
            self.bind_by_headers(queue, exchange, arguments)

    @rule(queue=_QUEUE, exchange=_BY_KEY, key=_PATTERN)
    def bind(self, queue: str, exchange: str, key: str) -> None:
        self.theirs.bind(queue, exchange, key)
        self.ours.queue_bind(queue, exchange, key)

    @rule(queue=_QUEUE, exchange=_BY_HEADERS, arguments=_ARGUMENTS)
    def bind_by_headers(self, queue: str, exchange: str, arguments: dict[str, Any]) -> None:
        arguments = self._known(arguments)
        self.theirs.bind(queue, exchange, "", arguments)
        self.ours.queue_bind(queue, exchange, "", arguments)

    @rule(source=_BY_KEY, destination=_ANY, key=_PATTERN)
    def link(self, source: str, destination: str, key: str) -> None:
        self.theirs.call("exchange.bind", destination=destination, source=source, routing_key=key)
        self.ours.exchange_bind(destination, source, key)

    @rule(source=_BY_HEADERS, destination=_ANY, arguments=_ARGUMENTS)
    def link_by_headers(self, source: str, destination: str, arguments: dict[str, Any]) -> None:
        arguments = self._known(arguments)
        self.theirs.call("exchange.bind", destination=destination, source=source, arguments=arguments)
        self.ours.exchange_bind(destination, source, "", arguments)

    @precondition(lambda self: bool(self.bindings))
    @rule(which=st.integers(0, 11))
    def unbind(self, which: int) -> None:
        one = self.bindings[which % len(self.bindings)]
        more: dict[str, Any] = {"source": one.source} if one.to == "exchange" else {"exchange": one.source}
        name = {"queue": "queue", "exchange": "destination"}[one.to]
        self.theirs.call(
            f"{one.to}.unbind", **{name: one.destination}, **more, routing_key=one.key, arguments=dict(one.arguments)
        )
        removed = self.ours.queue_unbind if one.to == "queue" else self.ours.exchange_unbind
        removed(one.destination, one.source, one.key, one.arguments)

    @rule(exchange=_ANY, messages=st.lists(st.tuples(_KEY, _HEADERS), min_size=1, max_size=4))
    def publish(self, exchange: str, messages: list[tuple[str, dict[str, Any]]]) -> None:
        for key, headers in messages:
            self._published += 1
            body, properties = b"%d" % self._published, {"headers": headers, "delivery_mode": 1}
            self.theirs.publish(exchange, key, body, properties)
            assert self.theirs.take("basic.ack") is not None, "not confirmed"
            self.ours.publish(exchange, key, properties, body)
        for queue in _QUEUES:
            wanted = []
            while (one := self.ours.get(queue, no_ack=True)) is not None:
                wanted.append(one.message.body)
            got = [event.body for event in self.theirs.drain(queue)]
            assert got == wanted, f"{queue} got {got}, not {wanted}"

    @property
    def bindings(self) -> list[Binding]:
        return list(self._model.vhosts["/"].bindings)

    def _known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """With an x-match that this version has."""
        if applies("rabbitmq>=3.10", self.scene.product, self.scene.version):
            return arguments
        return {**arguments, "x-match": arguments["x-match"].removesuffix("-with-x")}
