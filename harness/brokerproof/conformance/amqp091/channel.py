"""A channel of the reference peer's broker: every method of the classes exchange, queue and basic, sans-IO.

Here is what it publishes, gets, consumes and is given; what it makes and binds is ``channel_topology``'s, what it settles
``channel_settling``'s. The rules of who gets what are ``model.Broker``'s.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from brokerproof.conformance.amqp091.channel_base import operation
from brokerproof.conformance.amqp091.channel_settling import Settling
from brokerproof.conformance.amqp091.channel_topology import Topology
from brokerproof.conformance.amqp091.entities import Consumer, Delivery, Held, Published, Table, refusing
from brokerproof.conformance.amqp091.queues import Message, Queue, Stored
from brokerproof.wire.amqp091 import Field, plain

REPLY_TO = "amq.rabbitmq.reply-to"
_NOTHING: Delivery | None = None


class Channel(Topology, Settling):
    """The methods of exchange, queue and basic, in their specification's words; arguments of field tables may bear tags."""

    # -- publishing and getting ----------------------------------------------------------------------------------------

    @operation(Published(routed=True, accepted=True))
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

    @operation(_NOTHING)
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

    @operation(None)
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

    @operation("")
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

    @operation(None)
    def cancel(self, consumer_tag: str) -> None:
        """An unknown tag is no error. What the consumer holds stays held."""
        consumer = self.consumers.get(consumer_tag)
        if consumer is not None and not self._is("delivers-after-cancel"):
            self._leave(consumer)

    @operation(None)
    def flow(self, active: bool) -> None:
        self.is_active = active
        self.pump()

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
            for queue in [c.queue for c in consumers] + [h.queue for h in taken if self._is("get-consumes")]:
                self._auto_delete(queue)
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
