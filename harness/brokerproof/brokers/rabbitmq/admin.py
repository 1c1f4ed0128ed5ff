"""What the harness itself asks of a node by AMQP: declare, delete, and pass a message through.

Each call has a connection of its own through an admin link; one costs about 15 ms.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from brokerproof.brokers.rabbitmq.access import GUEST, parameters
from brokerproof.brokers.rabbitmq.queues import PROBE, Json, Shape

Address = tuple[str, int]
#: What a node that is down, starting or cut off makes of a request: not yet, try again.
NOT_YET = (pika.exceptions.AMQPError, AMQPConnectorException, OSError, TimeoutError)
_SOCKET_S, _STACK_S, _BLOCKED_S = 2, 5, 5


@contextlib.contextmanager
def channel(address: Address, endpoint: Mapping[str, Any] = GUEST) -> Iterator[BlockingChannel]:
    """A channel in confirm mode. endpoint: how one is let in, see ``access``. Raises one of ``NOT_YET``."""
    connection = pika.BlockingConnection(
        parameters(
            endpoint, address[0], address[1], socket_timeout=_SOCKET_S, stack_timeout=_STACK_S,
            blocked_connection_timeout=_BLOCKED_S, heartbeat=5,
            client_properties={"connection_name": "brokerproof-admin"},
        )
    )  # fmt: skip
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        with contextlib.suppress(*NOT_YET):
            connection.close()


def server(address: Address, endpoint: Mapping[str, Any] = GUEST) -> Json:
    """Product, version and platform as the node introduces itself."""
    with channel(address, endpoint) as ch:
        said = ch.connection._impl.server_properties or {}  # the blocking adapter has no public way to it
        return {key: str(said.get(key, "")) for key in ("product", "version", "platform")}


def declare(ch: BlockingChannel, queue: str, shape: Shape) -> None:
    ch.queue_declare(queue, durable=shape.durable, arguments=dict(shape.arguments))
    exchange = shape.exchange
    if exchange is not None:
        ch.exchange_declare(exchange.name, exchange.type, durable=exchange.durable, arguments=dict(exchange.arguments))
        for key in shape.bindings or (queue,):
            ch.queue_bind(queue, exchange.name, key)


def pass_through(
    ch: BlockingChannel, queue: str, timeout_s: float, arguments: Mapping[str, Any] | None = None
) -> bool:  # fmt: skip
    """Publishes a probe to the queue and consumes it; whether it came back.

    arguments: of the consumer, see ``queues.consumer_arguments``.

    Consumes and does not get: a quorum queue with a single active consumer refuses ``basic.get``.
    """
    body = PROBE + uuid.uuid4().bytes
    ch.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    deadline = time.monotonic() + timeout_s
    try:
        if arguments:
            ch.basic_qos(prefetch_count=100)  # a stream wants one
        for method, _, got in ch.consume(queue, inactivity_timeout=0.1, arguments=arguments):
            if method is not None:
                # What is no probe goes back when the consumer is cancelled.
                if got is not None and got.startswith(PROBE):
                    ch.basic_ack(method.delivery_tag)
                if got == body:
                    return True
            if time.monotonic() > deadline:
                return False
    finally:
        with contextlib.suppress(*NOT_YET):
            ch.cancel()
            ch.basic_qos(prefetch_count=0)  # has a reply, so the acknowledgement has arrived when it is there
    return False
