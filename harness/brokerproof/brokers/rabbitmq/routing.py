"""Which queues a message reaches, asked of the real broker: for claims on exchanges over generated cases.

    exchange.declare, queue.bind ..., publish ..., a marker straight to each queue      all in one write, no waiting
    <- copies ..., markers                                                              a marker ends its queue

A channel is served in order and so is a queue, so what came to a queue before its marker is everything. A case costs
one round trip. Queues are exclusive and exchanges are deleted after their case: all of it goes with the connection.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import pika
from pika.channel import Channel

from brokerproof.brokers.base import Json
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.errors import EnvironmentProblem

_ANSWER_S = 15.0
_MARKER = -1


class _Reachable(Protocol):
    def endpoint(self, group: str, name: str | None = None) -> Json: ...


def route(
    cluster: _Reachable, exchange_type: str, binding_keys: Sequence[str], routing_keys: Sequence[str]
) -> list[set[int]]:  # fmt: skip
    """For each routing key the indices of the binding keys whose queue got a copy: one queue per binding key.

    Raises EnvironmentProblem when a copy comes twice, or the broker does not answer.
    """
    with Router(cluster, exchange_type) as router:
        return router.route(binding_keys, routing_keys)


class Router:
    """The same with one connection for many cases: hundreds of them a second."""

    def __init__(self, cluster: _Reachable, exchange_type: str) -> None:
        self._type = exchange_type
        self._lost = ""
        self._session = Session(
            cluster.endpoint("admin"), name="brokerproof-routing", set_up=self._set_up, lost=self._is_lost
        )
        self._mine = f"bp-route-{uuid.uuid4().hex}"
        self._queues: list[str] = []
        self._cases = 0
        self._came: list[tuple[int, int]] = []  # (queue, message)
        self._markers = 0

    def __enter__(self) -> Router:
        self._wait(lambda: self._session.is_ready, "a connection")
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def route(self, binding_keys: Sequence[str], routing_keys: Sequence[str]) -> list[set[int]]:
        """As the function of this name."""
        self._cases += 1
        self._came.clear()
        self._markers = 0
        exchange, channel = f"{self._mine}-{self._cases}", self._session.channel
        self._have_queues(channel, len(binding_keys))
        with self._session.corked():
            # Without a callback pika sets "nowait": an error closes the channel, and is reported then.
            channel.exchange_declare(exchange, self._type)
            for queue, key in zip(self._queues, binding_keys, strict=False):
                channel.queue_bind(queue, exchange, key)
            for number, key in enumerate(routing_keys):
                channel.basic_publish(exchange, key, b"", _numbered(number))
            for queue in self._queues[: len(binding_keys)]:
                channel.basic_publish("", queue, b"", _numbered(_MARKER))
            channel.exchange_delete(exchange)
        self._wait(lambda: self._markers == len(binding_keys), f"case {self._cases}")
        reached: list[set[int]] = [set() for _ in routing_keys]
        for index, number in self._came:
            if index in reached[number]:
                raise EnvironmentProblem(f"routing: message {number} came twice to the queue of binding {index}")
            reached[number].add(index)
        return reached

    # -- inside --------------------------------------------------------------------------------------------------------

    def _set_up(self, channel: Channel) -> None:
        self._session.ready()

    def _is_lost(self, error: str) -> None:
        self._lost = error

    def _have_queues(self, channel: Channel, n: int) -> None:
        """At least ``n`` queues with a consumer. Waits for these, since pika holds back what follows a method that has
        a reply, but not what is published."""
        consuming: list[Any] = []
        wanted = range(len(self._queues), n)
        for index in wanted:
            queue = f"{self._mine}-q{index}"
            channel.queue_declare(queue, exclusive=True)
            channel.basic_consume(queue, partial(self._on_message, index), auto_ack=True, callback=consuming.append)
            self._queues.append(queue)
        self._wait(lambda: len(consuming) == len(wanted), f"{len(wanted)} consumers")

    def _on_message(self, index: int, _channel: Channel, _method: Any, properties: Any, _body: bytes) -> None:
        number = int(properties.message_id)
        if number == _MARKER:
            self._markers += 1
        else:
            self._came.append((index, number))

    def _wait(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + _ANSWER_S
        while not done():
            self._session.poll(0.05)
            if self._lost:
                raise EnvironmentProblem(f"routing through a {self._type} exchange: the broker said {self._lost}")
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"routing through a {self._type} exchange: expected {what} within {_ANSWER_S:g} s, got "
                    f"{len(self._came)} deliveries; is the node up?"
                )


def _numbered(number: int) -> pika.BasicProperties:
    return pika.BasicProperties(message_id=str(number))
