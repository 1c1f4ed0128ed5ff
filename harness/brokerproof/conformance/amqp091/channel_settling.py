"""What a channel of the reference peer's broker holds until it is settled: acks, nacks, rejects, recover, and what goes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from brokerproof.conformance.amqp091.channel_base import ChannelBase, operation
from brokerproof.conformance.amqp091.entities import Consumer, Held, refusing
from brokerproof.conformance.amqp091.queues import DELIVERY_LIMIT, Queue, Stored

_NONE_HELD: Sequence[Held] = ()


class Settling(ChannelBase, ABC):
    """What was settled is followed by what can be given out then: that is the channel's."""

    @abstractmethod
    def hand_out(self, consumer: Consumer, stored: Stored) -> None: ...

    @abstractmethod
    def pump(self, queues: Iterable[Queue] = ()) -> None: ...

    # -- settling ------------------------------------------------------------------------------------------------------

    @operation(None)
    def ack(self, delivery_tag: int = 0, *, multiple: bool = False) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "ack")

    @operation(None)
    def nack(self, delivery_tag: int = 0, *, multiple: bool = False, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "requeue" if requeue else "discard")

    @operation(None)
    def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=False), "reject" if requeue else "discard")

    @operation(_NONE_HELD)
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

    @operation(None)
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
        for held in taken[:1] if requeue and self._is("recover-doubles") else ():
            held.queue.give_back(replace(held.stored, order=(held.stored.order[0], held.queue.tail())))
        for held in mine:
            assert held.consumer is not None
            held.stored.redelivered = True
            self.hand_out(held.consumer, held.stored)
        self.pump({h.queue for h in taken})

    def release(self, held: Held) -> None:
        """Forgets a delivery as if it had been acknowledged."""
        if self.held.pop(held.tag, None) is not None:
            self._lighten(held)

    # -- inside --------------------------------------------------------------------------------------------------------

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
