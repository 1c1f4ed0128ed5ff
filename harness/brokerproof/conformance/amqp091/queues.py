"""Queues of the reference peer: messages that wait, in which order, how long and how many. No lock, no clock, no I/O.

    put -> ready --next, take--> held by a channel --drop (acknowledged)
             ^-------------- give_back (requeued) --'

A stream keeps what it delivered: ``take`` copies, and each consumer has a position of its own. Who gets what, and what
becomes of the dead, is ``model.py``'s.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

#: What cannot be: no message has so many octets.
NO_LIMIT = 2**62
#: Without a limit of its own a quorum queue gives a message up after so many returns. Source: RabbitMQ 4.0 release notes.
DELIVERY_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Message:
    """properties: by the names of basic's properties with ``_``; ``headers`` is a mapping, whose values may bear tags.

    publisher: number of the connection it came by; 0 for one that the broker itself moved.
    """

    exchange: str
    key: str
    properties: Mapping[str, object]
    body: bytes
    publisher: int = 0

    @property
    def headers(self) -> Mapping[str, object]:
        found = self.properties.get("headers")
        return found if isinstance(found, Mapping) else {}


@dataclass(slots=True)
class Stored:
    """A message in a queue. order: (-priority, position). expires: on the broker's clock.

    rejected_by: ids of the consumers that it must not be given to again.
    """

    message: Message
    order: tuple[int, int]
    expires: float | None = None
    redelivered: bool = False
    returned: int = 0
    rejected_by: set[int] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Queue:
    """arguments: as declared, plain values. owner: number of the connection that it is exclusive to; 0 for none.

    waiting: dead messages that found no place yet (at-least-once).  down: nothing can be put or taken: its node is gone.
    """

    name: str
    kind: str
    durable: bool
    owner: int
    auto_delete: bool
    arguments: Mapping[str, object]
    last_used: float = 0.0
    had_consumer: bool = False
    down: bool = False
    ready: list[Stored] = field(default_factory=list)
    waiting: list[Stored] = field(default_factory=list)
    log: list[Stored] = field(default_factory=list)
    octets: int = 0
    _position: int = 0

    def store(self, message: Message, expires: float | None) -> Stored:
        """Puts a message behind all others of its priority."""
        stored = Stored(message, (-self._level(message), self.tail()), expires)
        if self.kind == "stream":
            self.log.append(stored)
        else:
            self._insert(stored)
        return stored

    def take(self, stored: Stored) -> None:
        if self.kind != "stream":
            # The head nearly always; others where the head is for nobody.
            at = 0 if self.ready[0] is stored else bisect.bisect_left(self.ready, stored.order, key=lambda s: s.order)
            del self.ready[at]
            self.octets -= len(stored.message.body)

    def give_back(self, stored: Stored, *, returned: bool = True) -> None:
        """To its old place. returned: whether this counts as a delivery that failed."""
        stored.redelivered = True
        stored.returned += returned
        self._insert(stored)

    def purge(self) -> int:
        """Drops what is ready; how many. Of a stream: what no consumer has been given is known by ``model``."""
        count = len(self.ready)
        self.ready.clear()
        self.octets = 0
        return count

    def length(self) -> int:
        return len(self.log) if self.kind == "stream" else len(self.ready)

    def tail(self) -> int:
        """The position behind all."""
        self._position += 1
        return self._position

    def soonest(self) -> float | None:
        """When the next message expires."""
        return min((s.expires for s in self.ready if s.expires is not None), default=None)

    def _insert(self, stored: Stored) -> None:
        if not self.ready or self.ready[-1].order < stored.order:
            self.ready.append(stored)
        else:
            bisect.insort(self.ready, stored, key=lambda s: s.order)
        self.octets += len(stored.message.body)

    def _level(self, message: Message) -> int:
        """Priorities are levels: as many as asked for, else two (the specification wants two at least: 0-4 and 5-9)."""
        given = message.properties.get("priority")
        priority = given if isinstance(given, int) else 0
        most = self.arguments.get("x-max-priority")
        return min(priority, most) if isinstance(most, int) else int(priority > 4)
