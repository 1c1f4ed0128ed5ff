"""What every method of a channel of the reference peer's broker stands on: its state, who may do what, what a name means.

``operation`` makes a method of the protocol: under the lock, after what time has brought, with refusals as the mutants have them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from brokerproof.conformance.amqp091.entities import Consumer, Exchange, Held, Refused, Sink, Vhost, refusing
from brokerproof.conformance.amqp091.queues import Queue

if TYPE_CHECKING:
    from brokerproof.conformance.amqp091.model import Broker, Connection

_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound="ChannelBase")


def operation(
    neutral: _T,
) -> Callable[[Callable[Concatenate[_C, _P], _T]], Callable[Concatenate[_C, _P], _T]]:
    """A method of the protocol: under the lock, after what time has brought, and with refusals as the mutants have them.

    neutral: what is answered to what should have been refused, by the mutant that refuses nothing.
    """

    def wrap(method: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
        @wraps(method)
        def served(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            broker = self.connection.broker
            with broker.lock:
                broker.tick()
                try:
                    return method(self, *args, **kwargs)
                except Refused as refused:
                    if broker.is_mutant("accepts"):
                        then: Any = kwargs.get("then")
                        if then is not None:
                            then(neutral)
                        return neutral
                    raise broker.mutated(refused) from None

        return served

    return wrap


class ChannelBase:
    """held: by delivery tag.  current: the queue declared last."""

    def __init__(self, connection: Connection, sink: Sink) -> None:
        self.connection, self.sink = connection, sink
        self.number = next(connection.broker._numbers)
        self.held: dict[int, Held] = {}
        self.consumers: dict[str, Consumer] = {}
        self.current = ""
        self.prefetch = self.prefetch_octets = 0
        self.in_flight = self.octets_in_flight = 0
        self.is_active = True
        self._tags = itertools.count(0 if connection.broker.is_mutant("tags-from-zero") else 1)
        self._is_open = True

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _broker(self) -> Broker:
        return self.connection.broker

    @property
    def _vhost(self) -> Vhost:
        return self.connection.vhost

    def _is(self, mutant: str) -> bool:
        return self.connection.broker.is_mutant(mutant)

    def _may(self, right: str, name: str) -> None:
        allowed = self.connection.user.may(right, self._vhost.name, name)
        if not allowed and not self._is("ignores-permissions"):
            raise refusing(403, f"{right} access to {name!r} refused for user {self.connection.user.name!r}")

    def _may_use_key(self, right: str, exchange: Exchange, key: str) -> None:
        allowed = self.connection.user.may_use_key(right, self._vhost.name, exchange.name, key)
        if exchange.type == "topic" and not allowed and not self._is("ignores-topic-permissions"):
            raise refusing(403, f"{right} access to topic {key!r} in exchange {exchange.name!r} refused")

    def _named(self, queue: str) -> str:
        """The queue that a name means: the empty one the last that was declared on this channel."""
        if queue or self.current:
            return queue or self.current
        raise refusing(404, "no queue was declared on this channel")

    def _exchange(self, name: str) -> Exchange:
        there = self._vhost.exchanges.get(name)
        if there is None:
            raise refusing(404, f"no exchange {name!r}")
        return there

    def _queue(self, name: str) -> Queue:
        there = self._vhost.queues.get(name)
        if there is None:
            raise refusing(404, f"no queue {name!r}")
        if self._is_locked(there):
            raise refusing(405, f"queue {name!r} is exclusive to another connection")
        return there

    def _is_locked(self, queue: Queue) -> bool:
        return queue.owner not in (0, self.connection.number) and not self._is("shares-exclusive")
