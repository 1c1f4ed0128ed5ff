"""A channel of the reference peer's broker: every method of the classes exchange, queue and basic, sans-IO.

Holds what it delivered until that is settled. The rules of who gets what are ``model.Broker``'s.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from brokerproof.conformance.amqp091.entities import (
    PREDECLARED,
    Binding,
    Consumer,
    Declared,
    Delivery,
    Exchange,
    Held,
    Published,
    Refused,
    Sink,
    Table,
    Vhost,
    refusing,
)
from brokerproof.conformance.amqp091.queues import DELIVERY_LIMIT, NO_LIMIT, Message, Queue, Stored
from brokerproof.conformance.amqp091.routing import X_MATCHES
from brokerproof.wire.amqp091 import Field, plain

if TYPE_CHECKING:
    from brokerproof.conformance.amqp091.model import Broker, Connection

_P = ParamSpec("_P")
_T = TypeVar("_T")

EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")
QUEUE_TYPES = ("classic", "quorum", "stream")
OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
REPLY_TO = "amq.rabbitmq.reply-to"


def _operation(
    neutral: _T,
) -> Callable[[Callable[Concatenate[Channel, _P], _T]], Callable[Concatenate[Channel, _P], _T]]:
    """A method of the protocol: under the lock, after what time has brought, and with refusals as the mutants have them.

    neutral: what is answered to what should have been refused, by the mutant that refuses nothing.
    """

    def wrap(method: Callable[Concatenate[Channel, _P], _T]) -> Callable[Concatenate[Channel, _P], _T]:
        @wraps(method)
        def served(self: Channel, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
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


_NOTHING: Delivery | None = None
_NONE_HELD: Sequence[Held] = ()


class Channel:
    """The methods of exchange, queue and basic, in their specification's words; arguments of field tables may bear tags.

    held: by delivery tag.  current: the queue declared last.
    """

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

    # -- exchanges -----------------------------------------------------------------------------------------------------

    @_operation(None)
    def exchange_declare(
        self, exchange: str, type: str = "direct", *, passive: bool = False, durable: bool = False,
        auto_delete: bool = False, internal: bool = False, arguments: Table | None = None,
    ) -> None:  # fmt: skip
        given: Table = plain(arguments or {})
        there = self._vhost.exchanges.get(exchange)
        if passive:
            if there is None:
                raise refusing(404, f"no exchange {exchange!r}")
            return
        if exchange == "":
            raise refusing(403, "the default exchange cannot be declared")
        self._may("configure", exchange)
        if type not in EXCHANGE_TYPES:
            raise refusing(503, f"unknown exchange type {type!r}")
        if there is not None:
            self._must_be_equivalent(there, type, durable, auto_delete, internal, given)
            return
        if exchange.startswith("amq."):
            raise refusing(403, f"exchange name {exchange!r} is reserved")
        alternate = given.get("alternate-exchange")
        if isinstance(alternate, str) and not self._is("ignores-dead-letter-permissions"):
            self._may("read", exchange)
            self._may("write", alternate)
        self._vhost.exchanges[exchange] = Exchange(exchange, type, durable, auto_delete, internal, given)

    def _must_be_equivalent(
        self, there: Exchange, type: str, durable: bool, auto_delete: bool, internal: bool, arguments: Table
    ) -> None:
        if self._is("declare-changes"):
            there.type, there.durable, there.arguments = type, durable, arguments
            return
        if there.type != type:
            raise refusing(530, f"exchange {there.name!r} is of type {there.type!r}, not {type!r}")
        if (there.durable, there.auto_delete, there.internal, there.arguments) != (
            durable,
            auto_delete,
            internal,
            arguments,
        ):
            raise refusing(406, f"exchange {there.name!r} has other properties")

    @_operation(None)
    def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        if exchange == "" or exchange in PREDECLARED:
            raise refusing(403, f"exchange {exchange!r} cannot be deleted")
        self._may("configure", exchange)
        there = self._exchange(exchange)
        if if_unused and any(b.source == exchange for b in self._vhost.bindings):
            raise refusing(406, f"exchange {exchange!r} is in use")
        self._broker.delete_exchange(self._vhost, there)

    @_operation(None)
    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        self._bind("exchange", destination, source, routing_key, arguments)

    @_operation(None)
    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        self._unbind("exchange", destination, source, routing_key, arguments)

    @_operation(None)
    def queue_bind(self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None) -> None:
        if queue == "" and routing_key == "":
            routing_key = self._named(queue)
        self._bind("queue", self._named(queue), exchange, routing_key, arguments)

    @_operation(None)
    def queue_unbind(self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None) -> None:
        if queue == "" and routing_key == "":
            routing_key = self._named(queue)
        self._unbind("queue", self._named(queue), exchange, routing_key, arguments)

    def _bind(
        self, to: Literal["queue", "exchange"], destination: str, source: str, key: str, arguments: Table | None
    ) -> None:
        of = self._source_of(to, destination, source, key)
        mode = plain((arguments or {}).get("x-match", "all"))
        if of.type == "headers" and mode not in X_MATCHES:
            raise refusing(406, f"x-match is one of {', '.join(X_MATCHES)}, not {mode!r}")
        of.had = True
        binding = Binding(source, to, destination, key, dict(arguments or {}))
        if binding not in self._vhost.bindings:
            self._vhost.bindings.append(binding)
        self._broker._place_waiting()

    def _unbind(
        self, to: Literal["queue", "exchange"], destination: str, source: str, key: str, arguments: Table | None
    ) -> None:
        self._source_of(to, destination, source, key)
        binding = Binding(source, to, destination, key, dict(arguments or {}))
        if binding not in self._vhost.bindings:
            # The rule asks for an exception of the connection, with a code that elsewhere is a channel's.
            raise Refused(404, "connection", f"no such binding of {source!r} to {destination!r}")
        self._broker.unbind(self._vhost, [binding])

    def _source_of(self, to: str, destination: str, source: str, key: str) -> Exchange:
        self._may("write", destination)
        self._may("read", source)
        if to == "queue":
            self._queue(destination)
        else:
            self._exchange(destination)
        of = self._exchange(source)
        self._may_use_key("read", of, key)
        return of

    # -- queues --------------------------------------------------------------------------------------------------------

    @_operation(Declared("", 0, 0))
    def queue_declare(
        self, queue: str = "", *, passive: bool = False, durable: bool = False, exclusive: bool = False,
        auto_delete: bool = False, arguments: Table | None = None,
    ) -> Declared:  # fmt: skip
        given: dict[str, object] = plain(arguments or {})
        there = self._vhost.queues.get(queue)
        if passive:
            there = self._queue(self._named(queue))
            return self._declared(there)
        if there is not None and self._is_locked(there):
            raise refusing(405, f"queue {queue!r} is exclusive to another connection")
        self._may("configure", queue or "amq.gen-")
        if there is not None:
            self._must_be_same(there, durable, exclusive, auto_delete, given)
            there.last_used = self._broker.clock()
            return self._declared(there)
        if queue.startswith("amq."):
            raise refusing(403, f"queue name {queue!r} is reserved")
        if self._is("refuses-transient") and not durable:
            raise refusing(541, "transient queues are not permitted")
        self._check_arguments(queue, given, durable=durable, exclusive=exclusive)
        target = given.get("x-dead-letter-exchange")
        if isinstance(target, str) and not self._is("ignores-dead-letter-permissions"):
            self._may("read", queue)
            self._may("write", target)
        if len(self._vhost.queues) >= self._vhost.limits.get("max-queues", NO_LIMIT):
            raise refusing(406, f"queue limit in vhost {self._vhost.name!r} is reached")
        if not queue:
            queue = "amq.gen-same" if self._is("one-generated-name") else f"amq.gen-{uuid.uuid4().hex}"
        made = Queue(
            queue, str(given.get("x-queue-type", "classic")), durable, self.connection.number if exclusive else 0,
            auto_delete, given, last_used=self._broker.clock(),
        )  # fmt: skip
        self._vhost.queues[queue] = made
        expires = self._broker.setting(self._vhost, made, "expires")
        if isinstance(expires, int):
            self._broker.wake_at(made.last_used + self._broker._lifetime(expires))
        return self._declared(made)

    def _declared(self, queue: Queue) -> Declared:
        if not (self._is("forgets-current-queue") and self.current):
            self.current = queue.name
        return Declared(queue.name, queue.length() + self._is("wrong-count"), len(self._broker.consumers_of(queue)))

    def _must_be_same(self, there: Queue, durable: bool, exclusive: bool, auto_delete: bool, arguments: Table) -> None:
        if self._is("declare-changes"):
            there.durable, there.auto_delete, there.arguments = durable, auto_delete, arguments
        elif (there.durable, there.owner != 0, there.auto_delete, there.arguments) != (
            durable, exclusive, auto_delete, arguments,
        ):  # fmt: skip
            raise refusing(406, f"queue {there.name!r} has other properties")

    def _check_arguments(self, queue: str, given: Table, *, durable: bool, exclusive: bool) -> None:
        kind = given.get("x-queue-type", "classic")
        if kind not in QUEUE_TYPES:
            raise refusing(406, f"x-queue-type is one of {', '.join(QUEUE_TYPES)}, not {kind!r}")
        if kind != "classic" and (not durable or exclusive or not queue) and not self._is("other-records"):
            raise refusing(406, f"a {kind} queue is durable, shared and has a name")
        for name, least in (
            ("message-ttl", 0), ("expires", 1), ("max-length", 0), ("max-length-bytes", 0), ("max-priority", 0),
        ):  # fmt: skip
            value = given.get(f"x-{name}")
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise refusing(406, f"x-{name} is a number of at least {least}, not {value!r}")
        if given.get("x-overflow", "drop-head") not in OVERFLOWS:
            raise refusing(406, f"x-overflow is one of {', '.join(OVERFLOWS)}, not {given['x-overflow']!r}")
        if "x-dead-letter-routing-key" in given and "x-dead-letter-exchange" not in given:
            raise refusing(406, "x-dead-letter-routing-key without x-dead-letter-exchange")
        if self._is("other-records") and ("x-queue-mode" in given or "x-queue-version" in given):
            raise refusing(406, "x-queue-mode and x-queue-version are gone")

    @_operation(0)
    def queue_purge(self, queue: str = "") -> int:
        self._may("read", self._named(queue))
        there = self._queue(self._named(queue))
        extra = 0
        if self._is("purge-all"):
            for channel in [c for n in self._broker.connections.values() for c in n.channels]:
                for held in [h for h in channel.held.values() if h.queue is there]:
                    channel.release(held)
                    extra += 1
        if there.kind == "stream":
            given = max((c.position for c in self._broker.consumers_of(there)), default=0)
            count = len(there.log) - given
            del there.log[given:]
            return count + extra
        return there.purge() + extra + self._is("wrong-count")

    @_operation(0)
    def queue_delete(self, queue: str = "", *, if_unused: bool = False, if_empty: bool = False) -> int:
        self._may("configure", self._named(queue))
        there = self._queue(self._named(queue))
        if if_unused and self._broker.consumers_of(there):
            raise refusing(406, f"queue {there.name!r} is in use")
        if if_empty and there.length():
            raise refusing(406, f"queue {there.name!r} is not empty")
        return self._broker.delete_queue(self._vhost, there)

    # -- publishing and getting ----------------------------------------------------------------------------------------

    @_operation(Published(routed=True, accepted=True))
    def publish(self, exchange: str, routing_key: str, properties: Mapping[str, object], body: bytes) -> Published:
        self._may("write", exchange)
        if exchange == "" and routing_key.startswith(f"{REPLY_TO}."):
            return self._reply(routing_key, properties, body)
        there = self._exchange(exchange)
        if there.internal:
            raise refusing(403, f"exchange {exchange!r} is internal")
        self._may_use_key("write", there, routing_key)
        user_id = properties.get("user_id")
        if user_id is not None and user_id != self.connection.user.name:
            raise refusing(406, f"user-id {user_id!r} is not who is logged in: {self.connection.user.name!r}")
        expiration = properties.get("expiration")
        if expiration is not None and not re.fullmatch(r"[0-9]+", str(expiration)):
            raise refusing(406, f"expiration is milliseconds in digits, not {expiration!r}")
        if properties.get("reply_to") == REPLY_TO:
            if not any(c.queue.name == REPLY_TO for c in self.consumers.values()):
                raise refusing(406, "nobody consumes from the pseudo-queue for replies here")
            properties = {**properties, "reply_to": f"{REPLY_TO}.{self.number}"}
        message = Message(exchange, routing_key, dict(properties), bytes(body), self.connection.number)
        return self._broker.publish(self._vhost, there, message)

    def _reply(self, key: str, properties: Mapping[str, object], body: bytes) -> Published:
        """Direct reply-to: to the channel that the key names, if it still consumes."""
        for channel in [c for n in self._broker.connections.values() for c in n.channels]:
            for consumer in list(channel.consumers.values()):
                if f"{REPLY_TO}.{channel.number}" == key and consumer.queue.name == REPLY_TO:
                    message = Message("", key, dict(properties), bytes(body), self.connection.number)
                    channel.hand_out(consumer, Stored(message, (0, 0)))
                    return Published(routed=True, accepted=True)
        return Published(routed=False, accepted=True)

    @_operation(_NOTHING)
    def get(self, queue: str = "", *, no_ack: bool = False) -> Delivery | None:
        """The message, or None: the queue is empty."""
        self._may("read", self._named(queue))
        there = self._queue(self._named(queue))
        if there.kind == "stream":
            raise refusing(540, "basic.get from a stream")
        if there.kind == "quorum" and there.arguments.get("x-single-active-consumer") is True:
            raise refusing(405, f"queue {there.name!r} has a single active consumer")
        there.last_used = self._broker.clock()
        if self._is("hasty-auto-delete") and there.auto_delete:
            self._broker.delete_queue(self._vhost, there)
        if not there.ready or there.down:
            return None
        stored = there.ready[0]
        there.take(stored)
        held = Held(self._next_tag(), there, stored, None, self._broker.clock())
        if not no_ack:
            self._hold(held)
        return self._delivery(held, "", left=len(there.ready) + self._is("wrong-count"))

    # -- consuming -----------------------------------------------------------------------------------------------------

    @_operation(None)
    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, global_: bool = False, *, then: Callable[[None], None]
    ) -> None:
        """global_ false: for this channel, true: for all of the connection's together."""
        if global_:
            self.connection.prefetch = prefetch_count
        else:
            self.prefetch, self.prefetch_octets = prefetch_count, prefetch_size
        then(None)
        for channel in self.connection.channels if global_ else [self]:
            channel.pump()

    @_operation("")
    def consume(
        self, queue: str = "", consumer_tag: str = "", *, no_local: bool = False, no_ack: bool = False,
        exclusive: bool = False, arguments: Table | None = None, then: Callable[[str], None],
    ) -> str:  # fmt: skip
        """then: called with the consumer's tag before the first delivery."""
        given: Table = plain(arguments or {})
        name = self._named(queue)
        if name == REPLY_TO:
            there = self._reply_queue(no_ack)
        else:
            self._may("read", name)
            there = self._queue(name)
        if consumer_tag in self.consumers:
            raise refusing(530, f"consumer tag {consumer_tag!r} is in use on this channel")
        most = self._broker.channel_consumers_max
        if most and len(self.consumers) >= most:
            raise refusing(530, f"consumer limit of a channel ({most}) is reached")
        others = self._broker.consumers_of(there)
        if others and (exclusive or any(c.exclusive for c in others)) and not self._is("ignores-exclusive-consumer"):
            raise refusing(403, f"queue {name!r} has a consumer, or an exclusive one")
        if there.kind == "stream":
            self._check_stream(no_ack)
        priority = given.get("x-priority", 0)
        consumer = Consumer(
            next(self._broker._numbers), consumer_tag or f"amq.ctag-{uuid.uuid4().hex}", self, there, no_ack, no_local,
            exclusive, priority if isinstance(priority, int) else 0,
            position=_first_position(there, given.get("x-stream-offset", "next")) if there.kind == "stream" else 0,
        )  # fmt: skip
        self.consumers[consumer.tag] = consumer
        self._broker._consumers.setdefault(there, []).append(consumer)
        there.had_consumer, there.last_used = True, self._broker.clock()
        then(consumer.tag)
        self._broker.pump(self._vhost, there)
        return consumer.tag

    def _reply_queue(self, no_ack: bool) -> Queue:
        if not no_ack:
            raise refusing(406, "replies are consumed without acknowledgement")
        if any(c.queue.name == REPLY_TO for c in self.consumers.values()):
            raise refusing(406, "this channel consumes replies already")
        return Queue(REPLY_TO, "classic", False, 0, False, {})

    def _check_stream(self, no_ack: bool) -> None:
        if self._is("other-records"):
            raise refusing(540, "streams are not for this protocol")
        if not self.prefetch:
            raise refusing(406, "a stream is consumed with a prefetch count")
        if no_ack:
            raise refusing(540, "a stream is consumed with acknowledgements")

    @_operation(None)
    def cancel(self, consumer_tag: str) -> None:
        """An unknown tag is no error. What the consumer holds stays held."""
        consumer = self.consumers.get(consumer_tag)
        if consumer is not None and not self._is("delivers-after-cancel"):
            self._leave(consumer)

    @_operation(None)
    def flow(self, active: bool) -> None:
        self.is_active = active
        self.pump()

    # -- settling ------------------------------------------------------------------------------------------------------

    @_operation(None)
    def ack(self, delivery_tag: int = 0, *, multiple: bool = False) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "ack")

    @_operation(None)
    def nack(self, delivery_tag: int = 0, *, multiple: bool = False, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "requeue" if requeue else "discard")

    @_operation(None)
    def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=False), "reject" if requeue else "discard")

    @_operation(_NONE_HELD)
    def take(self, delivery_tag: int, *, multiple: bool) -> Sequence[Held]:
        """What a tag stands for, no longer held; ``finish`` or ``put_back`` is next: a transaction does that at its end."""
        if self._is("ack-one"):
            multiple = False
        if self._is("ack-all") or (multiple and delivery_tag == 0):
            tags = list(self.held)
        elif delivery_tag not in self.held:
            raise refusing(406, f"unknown delivery tag {delivery_tag}")
        else:
            tags = [t for t in self.held if t <= delivery_tag] if multiple else [delivery_tag]
        return [self.held.pop(t) for t in tags]

    def put_back(self, taken: Sequence[Held]) -> None:
        """Holds again what ``take`` took: a transaction was rolled back."""
        with self._broker.lock:
            self.held = {h.tag: h for h in sorted([*self.held.values(), *taken], key=lambda h: h.tag)}

    def finish(self, taken: Sequence[Held], how: Literal["ack", "requeue", "reject", "discard"]) -> None:
        """ack: done. requeue, reject: back into the queue, by reject not to the same consumer. discard: dead."""
        with self._broker.lock:
            for held in taken:
                self._lighten(held)
                if how == "discard":
                    self._broker._dead_letter(self._vhost, held.queue, held.stored, "rejected")
                elif how != "ack":
                    if how == "reject" and held.consumer is not None and not self._is("rejected-to-same"):
                        held.stored.rejected_by.add(held.consumer.number)
                    self._give_back(held)
            self.pump({h.queue for h in taken})

    @_operation(None)
    def recover(self, requeue: bool, *, then: Callable[[None], None]) -> None:
        """then: called before what is held comes again."""
        then(None)
        taken = list(self.held.values())
        self.held.clear()
        if self._is("recover-drops"):
            return
        mine = [h for h in taken if h.consumer is not None and self.consumers.get(h.consumer.tag) is h.consumer]
        if requeue or self._is("recover-to-others"):
            mine = []
        for held in taken:
            self._lighten(held)
            if held not in mine:
                self._give_back(held)
        for held in mine:
            assert held.consumer is not None
            held.stored.redelivered = True
            self.hand_out(held.consumer, held.stored)
        self.pump({h.queue for h in taken})

    def close(self) -> None:
        """What is held goes back to its queue, consumers go. Safe to call twice."""
        with self._broker.lock:
            if not self._is_open:
                return
            self._is_open = False
            self.connection.channels.remove(self)
            taken = list(self.held.values())
            self.held.clear()
            consumers = list(self.consumers.values())
            for consumer in consumers:
                self.forget(consumer)
            for held in taken:
                if not self._is("loses-unacked"):
                    self._give_back(held)
            for consumer in consumers:
                self._auto_delete(consumer.queue)
            for queue in {h.queue for h in taken} | {c.queue for c in consumers}:
                self._broker.pump(self._vhost, queue)

    # -- for the broker ------------------------------------------------------------------------------------------------

    def has_credit(self, consumer: Consumer) -> bool:
        """Whether a consumer of this channel may get any more."""
        if not self.is_active:
            return False
        if consumer.no_ack or self._is("ignores-prefetch"):
            return True
        in_flight = consumer.in_flight if self._is("prefetch-per-consumer") else self.in_flight
        most = self.prefetch + self._is("prefetch-one-more")
        if self.prefetch and in_flight >= most:
            return False
        if self.connection.prefetch:
            all_ = sum(c.in_flight for c in self.connection.channels)
            in_flight = consumer.in_flight if self._is("prefetch-per-consumer") else all_
            return in_flight < self.connection.prefetch + self._is("prefetch-one-more")
        return True

    def has_room(self, stored: Stored) -> bool:
        """Whether the message fits below the prefetch size; one that is larger fits when nothing is held."""
        if not self.prefetch_octets or self._is("ignores-prefetch-size") or not self.in_flight:
            return True
        return self.octets_in_flight + len(stored.message.body) <= self.prefetch_octets

    def hand_out(self, consumer: Consumer, stored: Stored) -> None:
        held = Held(self._next_tag(), consumer.queue, stored, consumer, self._broker.clock())
        if not consumer.no_ack:
            self._hold(held)
            self.in_flight += 1
            consumer.in_flight += 1
            self.octets_in_flight += len(stored.message.body)
            self._broker.wake_at(held.since + self._broker.held_at_most(self._vhost, held.queue))
        self.sink.deliver(self._delivery(held, consumer.tag))

    def pump(self, queues: Iterable[Queue] = ()) -> None:
        """Gives out what now can be: from these queues and those that are consumed here."""
        for queue in dict.fromkeys([*queues, *(c.queue for c in list(self.consumers.values()))]):
            self._broker.pump(self._vhost, queue)

    def release(self, held: Held) -> None:
        """Forgets a delivery as if it had been acknowledged."""
        if self.held.pop(held.tag, None) is not None:
            self._lighten(held)

    def forget(self, consumer: Consumer) -> None:
        """The consumer is none any more."""
        self.consumers.pop(consumer.tag, None)
        others = self._broker._consumers.get(consumer.queue, [])
        if consumer in others:
            others.remove(consumer)
        consumer.queue.last_used = self._broker.clock()
        expires = self._broker.setting(self._vhost, consumer.queue, "expires")
        if isinstance(expires, int):
            self._broker.wake_at(consumer.queue.last_used + self._broker._lifetime(expires))

    def end_if_held_too_long(self, now: float) -> None:
        """Closes the channel if one of its deliveries is."""
        ends = [h.since + self._broker.held_at_most(self._vhost, h.queue) for h in self.held.values()]
        soonest = min(ends, default=float("inf"))
        if soonest <= now:
            self.close()
            self.sink.closed(self._broker.mutated(refusing(406, "delivery acknowledgement timed out")))
        elif ends:
            self._broker.wake_at(soonest)

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

    def _next_tag(self) -> int:
        return next(self.connection.tags if self._is("tags-per-connection") else self._tags)

    def _hold(self, held: Held) -> None:
        self.held[held.tag] = held

    def _lighten(self, held: Held) -> None:
        if held.consumer is not None:
            self.in_flight -= 1
            held.consumer.in_flight -= 1
            self.octets_in_flight -= len(held.stored.message.body)

    def _give_back(self, held: Held) -> None:
        """Requeues, or gives up what was returned too often."""
        queue, stored = held.queue, held.stored
        if self._vhost.queues.get(queue.name) is not queue:
            return
        if queue.kind == "stream":
            stored.redelivered = True
            if held.consumer is not None:
                held.consumer.again.append(stored)
                held.consumer.again.sort(key=lambda s: s.order)
            return
        limit = self._broker.setting(self._vhost, queue, "delivery-limit")
        most = limit if isinstance(limit, int) else DELIVERY_LIMIT
        if queue.kind == "quorum" and stored.returned >= most:
            self._broker._dead_letter(self._vhost, queue, stored, "delivery_limit")
            return
        if self._is("requeue-at-tail"):
            stored.order = (stored.order[0], queue.tail())
        queue.give_back(stored)
        if stored.expires is not None:
            self._broker.wake_at(stored.expires)

    def _delivery(self, held: Held, consumer_tag: str, left: int = 0) -> Delivery:
        message, extra = held.stored.message, {}
        if held.queue.kind == "stream":
            extra["x-stream-offset"] = Field("l", held.queue.log.index(held.stored))
        elif held.queue.kind == "quorum" and held.stored.returned:
            extra["x-delivery-count"] = Field("l", held.stored.returned)
        if extra:
            message = replace(message, properties={**message.properties, "headers": {**message.headers, **extra}})
        flag = held.stored.redelivered and not self._is("drops-redelivered")
        redelivered = flag or self._is("always-redelivered")
        return Delivery(held.tag, consumer_tag, redelivered, message, left)

    def _leave(self, consumer: Consumer) -> None:
        self.forget(consumer)
        self._auto_delete(consumer.queue)
        self._broker.pump(self._vhost, consumer.queue)

    def _auto_delete(self, queue: Queue) -> None:
        unused = self._is("hasty-auto-delete") or not self._broker.consumers_of(queue)
        if queue.auto_delete and unused and not self._is("keeps-auto-delete"):
            self._broker.delete_queue(self._vhost, queue)


def _first_position(stream: Queue, offset: object) -> int:
    """Of a stream's log; offset: first, last, next, a number; a timestamp or an interval: from the first on, which is before them."""
    if offset == "last":
        return max(0, len(stream.log) - 1)
    if offset == "next":
        return len(stream.log)
    return min(offset, len(stream.log)) if isinstance(offset, int) and offset < 10**9 else 0
